//! A worker is killed, at any point of a task's life: one answer all the same,
//! soon, and the model isn't called again for what it had finished.

use std::time::{Duration, Instant};

use super::scenes::{is_acknowledgement, is_end};
use super::stage::{Expected, Fault, Stage, ended_well, play, steady};
use crate::support::{App, Cut, Freeze, within};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Killed {
    BeforeTheFirstToken,
    MidStream,
    AfterComplete,
    AfterTheCommit,
    AfterTheTerminalEvent,
}

const LEASE: Duration = Duration::from_millis(1500);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_a_worker_is_killed_the_answer_goes_on_within_a_lease_and_two_seconds() {
    use Killed::*;
    let all = [
        (BeforeTheFirstToken, (2, 1, 2)),
        (MidStream, (2, 1, 2)),
        (AfterComplete, (2, 1, 1)),
        (AfterTheCommit, (1, 0, 1)),
        (AfterTheTerminalEvent, (1, 0, 1)),
    ];
    play(all.map(|(at, cost)| (format!("killed {at:?}"), killed(at, cost)))).await;
}

async fn killed(at: Killed, (attempts, failures, calls): (u64, u64, u64)) {
    let builder = App::builder().with("RILL_LEASE", "1500ms").with("RILL_HEARTBEAT", "500ms");
    let mut stage = Stage::set(builder).await;
    // The first call stays silent from there on.
    let silent = match at {
        Killed::BeforeTheFirstToken => "[[stall=0*1]]",
        Killed::MidStream => "[[stall=20*1]]",
        _ => "",
    };
    let posted = stage.app.say(&format!("{silent} [[tokens=40]] [[rate=200]]")).await;
    let mut reader = stage.app.reader(&posted);
    let trap = match at {
        Killed::AfterComplete => Some(stage.database.trap(Freeze::Before, is_end)),
        Killed::AfterTheCommit => Some(stage.database.trap(Freeze::After, is_end)),
        Killed::AfterTheTerminalEvent => Some(stage.redis.trap(Freeze::Before, is_acknowledgement)),
        Killed::BeforeTheFirstToken | Killed::MidStream => None,
    };
    stage.start_under_fault();
    match trap {
        Some(trap) => drop(trap.sprung().await),
        None => {
            let events = if at == Killed::MidStream { 3 } else { 1 };
            reader.connect(Cut::AfterEvents(events)).await.expect("connects");
        }
    }
    // Nobody renews the job of one that was held at Redis: others would be through
    // with it before it is killed.
    if at == Killed::AfterTheTerminalEvent {
        stage.strike(Fault::Killed);
        stage.start_sound();
    } else {
        stage.start_sound();
        steady(&stage.app, 2, LEASE.as_millis() as u64).await;
        stage.app.workers[0].kill();
    }
    let since = Instant::now();
    let goes_on = async {
        while reader.end.is_none() && reader.events.last().is_none_or(|e| e.id != "2-0") {
            let _ = reader.connect(Cut::AfterEvents(1)).await;
        }
        since.elapsed()
    };
    let took = within("the answer goes on", goes_on).await;
    println!("killed {at:?} → next attempt or end: {took:?} with a lease of {LEASE:?}");
    assert!(took < LEASE + Duration::from_secs(2) + SLACK, "took {took:?}");
    reader.follow([]).await;
    let expected = Expected { end: "done", attempts, failures, calls: calls..=calls, letters: 0 };
    ended_well(&stage.app, &posted, &reader, &expected).await;
}
