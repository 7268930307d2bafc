//! A worker stopped for longer than its lease, right before a write, and replaced.
//! What it had sent arrives late and is refused; woken up, it writes nothing more.

use serde_json::Value;

use super::scenes::{is_acknowledgement, is_end, is_terminal};
use super::stage::{Expected, Stage, ended_well, entries, play, with_short_lease};
use crate::support::{App, Freeze, Posted};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Write {
    ADelta,
    Complete,
    TheCommit,
    TheTerminalEvent,
    TheAcknowledgement,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_sleeper_writes_after_it_was_replaced_changes_nothing() {
    let all = [
        (Write::ADelta, (2, 1, 2)),
        (Write::Complete, (2, 1, 2)),
        (Write::TheCommit, (2, 1, 1)),
        (Write::TheTerminalEvent, (1, 0, 1)),
        (Write::TheAcknowledgement, (1, 0, 1)),
    ];
    play(all.map(|(write, cost)| (format!("{write:?} comes late"), late(write, cost)))).await;
}

async fn late(write: Write, (attempts, failures, calls): (u64, u64, u64)) {
    let mut stage = Stage::set(with_short_lease(App::builder())).await;
    let posted = stage.app.say("[[tokens=40]] [[rate=200]]").await;
    let is_it = move |text: &str| match write {
        Write::ADelta => text.contains(" 1-2 e delta "),
        Write::Complete => text.contains(" e complete "),
        Write::TheCommit => is_end(text),
        Write::TheTerminalEvent => is_terminal(text),
        Write::TheAcknowledgement => is_acknowledgement(text),
    };
    let server = if write == Write::TheCommit { &stage.database } else { &stage.redis };
    let held = server.trap(Freeze::Before, is_it);
    let mut reader = stage.app.reader(&posted);
    let replace = async {
        stage.start_under_fault();
        held.sprung().await;
        stage.app.workers[0].signal("STOP");
        stage.start_sound();
    };
    tokio::join!(reader.follow([]), replace);
    let expected = Expected { end: "done", attempts, failures, calls: calls..=calls, letters: 0 };
    ended_well(&stage.app, &posted, &reader, &expected).await;
    let before = everything(&stage.app, &posted).await;

    let server = if write == Write::TheCommit { &stage.database } else { &stage.redis };
    let served = server.trap(Freeze::After, is_it);
    server.thaw();
    served.sprung().await;
    assert_eq!(everything(&stage.app, &posted).await, before, "the late write was served");

    // Its replacement goes, so that it has to show that it is well again.
    stage.app.workers[1].kill();
    stage.app.workers[0].signal("CONT");
    stage.redis.cut();
    stage.database.cut();
    // With its text complete it may go on to the commit, which is refused.
    if write == Write::ADelta {
        stage.app.workers[0].logged("stopping this attempt").await;
    }
    let next = stage.app.say("[[tokens=3]] [[rate=0]]").await;
    stage.app.reaches(&next, "done").await;
    assert_eq!(everything(&stage.app, &posted).await, before, "it woke up and wrote");
}

/// The task, its messages and its stream.
async fn everything(app: &App, posted: &Posted) -> (Value, Vec<(String, String, String)>) {
    let rows = sqlx::query_scalar(
        "SELECT jsonb_build_object('task', to_jsonb(t),
                'messages', (SELECT jsonb_agg(to_jsonb(m) ORDER BY m.position) FROM messages m
                             WHERE m.conversation_id = t.conversation_id))
         FROM tasks t WHERE t.id = $1::uuid",
    )
    .bind(&posted.task)
    .fetch_one(&app.pool)
    .await
    .expect("reads");
    let stream = entries(app, posted).await;
    assert!(stream.iter().map(|(id, ..)| attempt(id)).is_sorted(), "{stream:?}");
    (rows, stream)
}

fn attempt(id: &str) -> u32 {
    let (attempt, _) = id.split_once('-').expect("an ID");
    attempt.parse().expect("a number")
}
