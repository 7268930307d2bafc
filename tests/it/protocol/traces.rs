//! What a replay allows, and what it refuses.

use std::time::{Duration, Instant};

use stateright::Model;

use super::joint;
use super::log;
use super::model::Protocol;
use super::observe::observe;
use super::replay::{ANSWER, CALLS, ENDS, replay};
use super::story::Story;
use super::trace::{Replayed, TaskTrace};

fn allowed(story: Story) -> Replayed {
    let line = story.0.to_line().expect("a trace is JSON");
    let trace = TaskTrace::from_line(&line).expect("and is read back");
    replay(&trace).unwrap_or_else(|violation| panic!("{violation}"))
}

fn refused(story: Story, rule: &str) {
    let violation = replay(&story.0).expect_err("this can't happen");
    assert_eq!(violation.rule, rule, "{violation}");
    println!("{violation}");
}

#[test]
fn a_normal_run_is_allowed() {
    allowed(Story::well());
}

#[test]
fn a_retry_is_allowed() {
    let story = Story::accepted()
        .delivered("j1", "w1")
        .begin("w1", "c1")
        .append("1-0", "started", "")
        .append("1-1", "delta", "x")
        .retry()
        .append("1-2", "retrying", "")
        .deleted("j1")
        .job("j2")
        .delivered("j2", "w2")
        .begin("w2", "c2")
        .said(2)
        .end("done", "2-4")
        .append("2-4", "done", "")
        .deleted("j2");
    allowed(story);
}

#[test]
fn a_takeover_with_a_zombie_that_writes_until_it_is_fenced_is_allowed() {
    let story = Story::accepted()
        .delivered("j1", "w1")
        .begin("w1", "c1")
        .append("1-0", "started", "")
        .delivered("j1", "w2")
        .begin("w2", "c2")
        .append("1-1", "delta", "the zombie's")
        .said(2)
        .end("done", "2-4")
        .append("2-4", "done", "")
        .deleted("j1");
    allowed(story);
}

#[test]
fn a_drain_is_allowed() {
    let story = Story::accepted()
        .delivered("j1", "w1")
        .begin("w1", "c1")
        .append("1-0", "started", "")
        .row(|row| row.status = "queued".into())
        .job("j2")
        .deleted("j1")
        .delivered("j2", "w2")
        .begin("w2", "c2")
        .said(2)
        .end("done", "2-4")
        .append("2-4", "done", "")
        .deleted("j2");
    allowed(story);
}

#[test]
fn a_cancel_while_queued_is_allowed() {
    let story = Story::accepted()
        .row(|row| row.cancel_requested = true)
        .end("cancelled", "1-1")
        .append("1-0", "snapshot", "")
        .append("1-1", "cancelled", "")
        .delivered("j1", "w1")
        .deleted("j1");
    allowed(story);
}

#[test]
fn an_answer_that_another_finds_complete_is_allowed() {
    let mut story = Story::accepted()
        .delivered("j1", "w1")
        .begin("w1", "c1")
        .said(1)
        .delivered("j1", "w2")
        .begin("w2", "c2")
        .end("done", "2-1")
        .append("2-0", "snapshot", "ab")
        .append("2-1", "done", "")
        .deleted("j1");
    (story.0.answer, story.0.calls, story.0.settled) = (Some("ab".into()), Some(1), true);
    allowed(story);
}

#[test]
fn a_flushed_redis_is_allowed() {
    let story = Story::accepted()
        .delivered("j1", "w1")
        .begin("w1", "c1")
        .append("1-0", "started", "")
        .append("1-1", "delta", "a")
        .flushed()
        .append("1-3", "snapshot", "ab")
        .append("1-4", "delta", "c")
        .append("1-5", "complete", "")
        .end("done", "1-6")
        .append("1-6", "done", "");
    allowed(story);
}

#[test]
fn a_lost_tail_that_a_snapshot_heals_is_allowed() {
    let story = Story::accepted()
        .begin("w1", "c1")
        .append("1-0", "started", "")
        .append("1-1", "delta", "a")
        .append("1-2", "delta", "b")
        .lost("1-1")
        .append("1-3", "delta", "c")
        .append("1-4", "snapshot", "abc")
        .append("1-5", "delta", "d");
    allowed(story);
}

#[test]
fn an_append_of_an_older_attempt_behind_the_fence_is_refused() {
    let story = Story::accepted()
        .begin("w1", "c1")
        .append("1-0", "started", "")
        .begin("w2", "c2")
        .append("2-0", "started", "")
        .append("1-1", "delta", "x");
    refused(story, log::ASCENDING);
}

#[test]
fn a_terminal_event_that_was_not_committed_so_is_refused() {
    let mut story = Story::well();
    story.0.log.pop();
    refused(story.append("1-5", "done", ""), log::ONE_END);
    let mut story = Story::well();
    story.0.log.pop();
    refused(story.append("1-4", "failed", ""), joint::COMMITTED);
    let mut story = Story::well();
    for row in story.0.db.iter_mut().filter(|row| row.final_id.is_some()) {
        row.final_data = Some("{}".into());
    }
    refused(story, joint::COMMITTED);
}

#[test]
fn a_commit_of_an_attempt_that_was_replaced_is_refused() {
    let story = Story::accepted().begin("w1", "c1").begin("w2", "c2").end("done", "1-4");
    refused(story, joint::STATEMENT);
}

#[test]
fn a_change_after_the_end_is_refused() {
    refused(Story::well().row(|row| row.failures += 1), joint::STATEMENT);
}

#[test]
fn a_jump_of_seq_without_a_loss_is_refused() {
    let story = Story::accepted()
        .begin("w1", "c1")
        .append("1-0", "started", "")
        .append("1-2", "delta", "x");
    refused(story, log::NO_JUMP);
}

#[test]
fn a_jump_of_the_attempt_is_refused() {
    refused(Story::accepted().begin("w1", "c1").row(|row| row.attempt = 3), joint::STATEMENT);
    refused(Story::accepted().begin("w1", "c1").append("2-0", "started", ""), joint::BEGUN);
}

#[test]
fn a_job_that_is_deleted_before_the_end_is_told_is_refused() {
    let story = Story::accepted().delivered("j1", "w1").begin("w1", "c1").said(1).deleted("j1");
    refused(story, joint::ACKNOWLEDGED);
    let story = Story::accepted().begin("w1", "c1").said(1).end("done", "1-4").deleted("j1");
    refused(story, joint::ACKNOWLEDGED);
}

#[test]
fn other_content_under_the_same_id_is_refused() {
    let story = Story::accepted()
        .begin("w1", "c1")
        .append("1-0", "started", "")
        .append("1-1", "delta", "x")
        .lost("1-1")
        .append("1-1", "delta", "xy");
    refused(story, log::ONE_CONTENT);
}

#[test]
fn a_gap_that_is_not_healed_is_refused() {
    let story = Story::accepted()
        .begin("w1", "c1")
        .append("1-0", "started", "")
        .append("1-1", "delta", "x")
        .lost("1-1")
        .append("1-2", "delta", "y")
        .append("1-3", "delta", "z");
    refused(story, log::HEALS);
}

#[test]
fn a_snapshot_of_unsent_text_is_refused() {
    let story = Story::accepted()
        .begin("w1", "c1")
        .append("1-0", "started", "")
        .append("1-1", "delta", "x")
        .append("1-2", "snapshot", "x and more");
    refused(story, log::SNAPSHOT);
}

#[test]
fn taking_over_from_a_worker_that_is_alive_is_refused() {
    let mut story = Story::accepted().begin("w1", "c1").begin("w2", "c2");
    for row in &mut story.0.db {
        row.owner_fresh = Some(true);
    }
    refused(story, joint::STATEMENT);
}

#[test]
fn asking_again_for_a_complete_answer_is_refused() {
    // The stream shows that attempt 2 found the answer; the model was asked twice.
    let mut story = Story::accepted()
        .begin("w1", "c1")
        .said(1)
        .begin("w2", "c2")
        .end("done", "2-1")
        .append("2-0", "snapshot", "ab")
        .append("2-1", "done", "");
    story.0.calls = Some(2);
    refused(story, CALLS);
}

#[test]
fn another_answer_than_the_stream_says_is_refused() {
    let mut story = Story::accepted()
        .row(|row| row.cancel_requested = true)
        .end("cancelled", "1-1")
        .append("1-0", "snapshot", "a")
        .append("1-1", "cancelled", "");
    story.0.answer = Some("ab".into());
    refused(story, ANSWER);
}

#[test]
fn a_task_that_does_not_end_is_refused() {
    let mut story = Story::accepted().begin("w1", "c1");
    story.0.settled = true;
    refused(story, ENDS);
}

/// The model and the replay have the same rules: whatever the model does, with
/// any faults, a replay allows it, though it isn't told in which order.
#[test]
fn whatever_the_model_does_is_allowed() {
    let mut random = 1u64;
    let mut next = move |below: usize| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap_or_default() % below
    };
    let (mut ended, mut most) = (0, 0);
    for faults in (0..5).cycle().take(400) {
        let protocol = Protocol::new(faults).with_cancel();
        let mut path = vec![(protocol.start(), None)];
        for _ in 0..150 {
            let Some((world, taken)) = path.last_mut() else { break };
            let steps = protocol.next_steps(world);
            if steps.is_empty() {
                break;
            }
            let (action, world) = steps[next(steps.len())].clone();
            *taken = Some(action);
            path.push((world, None));
        }
        ended += usize::from(path.last().is_some_and(|(world, _)| world.is_over()));
        let trace = observe(&path);
        let replayed = replay(&trace).unwrap_or_else(|violation| {
            let actions: Vec<_> = path.iter().filter_map(|(_, action)| *action).collect();
            panic!("{violation}\n{actions:?}\n{trace:#?}")
        });
        most = most.max(replayed.tried);
    }
    println!(
        "400 paths of the model replayed, {ended} to their end; at most {most} positions tried"
    );
}

#[test]
fn a_long_trace_is_replayed_at_once() {
    let mut story = Story::accepted();
    for attempt in 1..=20u32 {
        let worker = format!("w{}", attempt % 3);
        story = story.delivered("j1", &worker).begin(&worker, &format!("c{attempt}"));
        story = story.append(&format!("{attempt}-0"), "started", "");
        for seq in 1..500 {
            story = story.append(&format!("{attempt}-{seq}"), "delta", "a word ");
        }
    }
    let story = story.end("done", "20-500").append("20-500", "done", "").deleted("j1");
    let started = Instant::now();
    let replayed = allowed(story);
    println!("{replayed:?} in {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(2));
}
