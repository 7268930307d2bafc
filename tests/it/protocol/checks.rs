//! The promises, in every reachable state; and every mutation, caught.
//!
//! `cargo test --release --test it protocol::checks -- --ignored --nocapture`
//! explores larger bounds.

use std::time::Instant;

use rill::domain::Class;
use stateright::{Checker, HasDiscoveries, Model};

use super::actions::Action;
use super::model::{LEFT, PROPERTIES, Protocol};
use super::mutation::Mutation;
use super::observe::observe;
use super::replay::replay;
use super::world::World;

const THREADS: usize = 2;

/// Explores every state; each keeps every property.
fn holds(what: &str, protocol: Protocol) {
    let started = Instant::now();
    let checker = protocol.checker().threads(THREADS).spawn_bfs().join();
    println!(
        "{what}: states explored: {} (depth {}, {:.1?})",
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed()
    );
    for (name, path) in checker.discoveries() {
        if PROPERTIES.iter().any(|(property, _)| *property == name) {
            let broken = path.last_state().broken;
            let steps = path.clone().into_actions();
            panic!("{what}: not so: {name}\n{broken:?}\nafter {} steps: {steps:#?}", steps.len());
        }
    }
    checker.assert_any_discovery("a task is done");
    checker.assert_any_discovery(LEFT);
}

/// The shortest way to break a property, which must be the one that is named.
fn caught(mutation: Mutation, protocol: Protocol, property: &str) -> Vec<(World, Option<Action>)> {
    let checker = protocol
        .mutated(mutation)
        .checker()
        .threads(1)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let found: Vec<_> = PROPERTIES
        .iter()
        .filter_map(|(name, _)| checker.discovery(name).map(|path| (*name, path)))
        .collect();
    let (name, path) =
        found.into_iter().min_by_key(|(_, path)| path.clone().into_actions().len()).unwrap_or_else(
            || panic!("{mutation:?} is not caught in {} states", checker.unique_state_count()),
        );
    let rule = path.last_state().broken;
    let path = path.into_vec();
    println!(
        "{mutation:?}: caught after {} steps, {} states: {name}: {}",
        path.len() - 1,
        checker.unique_state_count(),
        rule.unwrap_or_default(),
    );
    println!("  {:?}", path.iter().filter_map(|(_, action)| *action).collect::<Vec<_>>());
    assert!(name.contains(property), "{mutation:?} breaks another property: {name} ({rule:?})");
    path
}

/// It is caught, and so would be a chaos run that saw it.
fn caught_and_seen(mutation: Mutation, protocol: Protocol, property: &str) {
    let trace = observe(&caught(mutation, protocol, property));
    let violation = replay(&trace).expect_err("a replay catches it as well");
    println!("  and in a replay: {}", violation.rule);
}

#[test]
fn the_promises_hold_with_a_fault_anywhere() {
    holds("a fault", Protocol::new(1));
}

#[test]
fn the_promises_hold_with_a_cancel_and_a_fault_anywhere() {
    holds("a cancel and a fault", Protocol::new(1).with_cancel());
}

#[test]
fn a_reader_is_exact_with_a_fault_and_a_reconnect_anywhere() {
    holds("a reader that is cut off, and a fault", Protocol::new(1).with_reader(1));
}

#[test]
fn the_promises_hold_between_two_versions_whatever_the_newer_one_writes() {
    for class in [Class::Public, Class::Internal, Class::Content] {
        let what = format!("a newer version's {class:?} event, and a fault");
        holds(&what, Protocol::new(1).with_newer(class));
    }
}

#[test]
fn readers_are_exact_between_two_versions() {
    let what = "a reader, a newer version's content, and a fault";
    holds(what, Protocol::new(1).with_newer(Class::Content).with_reader(0));
}

#[test]
fn dropping_a_newer_version_s_events_asks_again_for_a_complete_answer() {
    let protocol = Protocol::new(2).with_newer(Class::Public);
    caught(Mutation::NewerEventsLeaveGaps, protocol, "not asked for again");
}

#[test]
fn folding_over_a_newer_version_s_content_loses_it() {
    let protocol = Protocol::new(2).with_newer(Class::Content);
    caught(Mutation::OlderFoldsNewerContent, protocol, "no content is dropped");
}

#[test]
#[ignore = "larger bounds: minutes in the release profile"]
fn the_promises_hold_with_two_faults_anywhere() {
    holds("two faults", Protocol::new(2));
}

#[test]
#[ignore = "larger bounds: minutes in the release profile"]
fn the_promises_hold_with_a_cancel_and_two_faults_anywhere() {
    holds("a cancel and two faults", Protocol::new(2).with_cancel());
}

#[test]
#[ignore = "larger bounds: minutes in the release profile"]
fn a_reader_is_exact_with_a_cancel_a_fault_and_two_reconnects_anywhere() {
    holds("a reader, a cancel and a fault", Protocol::new(1).with_cancel().with_reader(2));
}

#[test]
fn without_the_fence_in_postgresql_a_zombie_ends_the_task() {
    caught(Mutation::NoFence, Protocol::new(1), "promise 3");
}

#[test]
fn without_the_fence_in_redis_a_zombie_writes_into_the_next_attempt() {
    caught_and_seen(Mutation::NoFenceInTheStream, Protocol::new(1), "promise 3");
}

#[test]
fn acknowledging_before_the_commit_is_caught() {
    caught_and_seen(Mutation::AcknowledgeBeforeCommit, Protocol::new(0), "acknowledged");
}

#[test]
fn acknowledging_before_the_terminal_event_is_caught() {
    caught_and_seen(Mutation::AcknowledgeBeforeTerminal, Protocol::new(1), "acknowledged");
}

#[test]
fn a_terminal_event_before_the_commit_is_caught() {
    caught(Mutation::TerminalBeforeCommit, Protocol::new(0), "terminal event");
}

#[test]
fn a_takeover_without_the_heartbeat_check_stops_a_healthy_run() {
    caught_and_seen(
        Mutation::TakeoverWithoutHeartbeatCheck,
        Protocol::new(1),
        "no healthy run is taken over",
    );
}

#[test]
fn a_judge_that_is_not_steady_takes_healthy_runs_over_after_an_outage() {
    caught(Mutation::NoSteadyCheck, Protocol::new(2), "no healthy run is taken over");
}

#[test]
fn repeating_an_append_with_other_content_is_caught() {
    caught(Mutation::RepeatWithOtherContent, Protocol::new(2), "promise 2");
}

#[test]
fn no_snapshot_after_a_reconnect_leaves_a_gap_open() {
    caught_and_seen(Mutation::NoSnapshotAfterReconnect, Protocol::new(1), "gaps heal");
}

#[test]
fn a_snapshot_of_unsent_text_is_caught() {
    caught_and_seen(Mutation::SnapshotSaysUnsentText, Protocol::new(1), "snapshots say");
}

#[test]
fn a_snapshot_of_unsent_text_loses_it_for_readers() {
    let readers = Protocol::new(1).with_reader(0);
    caught(Mutation::SnapshotSaysUnsentText, readers, "promise 2");
}

#[test]
fn an_end_right_behind_an_unknown_append_loses_text_for_readers() {
    let protocol = Protocol::new(1).with_cancel().with_reader(0);
    caught(Mutation::EndBehindUnknownAppend, protocol, "a reader has");
}

#[test]
fn asking_again_for_a_complete_answer_is_caught() {
    caught(Mutation::IgnoresHistory, Protocol::new(1), "not asked for again");
}

#[test]
fn readers_that_ignore_gaps_are_caught() {
    caught(Mutation::ReaderIgnoresGaps, Protocol::new(1).with_reader(1), "a reader has");
}

#[test]
fn an_end_taken_for_ones_own_gives_readers_another_answer() {
    let protocol = Protocol::new(1).with_cancel().with_reader(0);
    caught(Mutation::SameEndOtherAnswer, protocol, "a reader has");
}
