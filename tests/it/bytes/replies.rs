//! Replies of Redis to reads of many streams.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use rill::domain::TaskId;
use serde_json::json;

use super::KIB;
use crate::scale::{append_to_all, running_tasks};
use crate::support::{App, Cut, PrivateRedis, Reader, eventually, within};

/// Redis closes a connection with subscriptions whose reply is too large: at 32 MiB by
/// default, here at as much as one entry of half of the streams has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bursts_of_many_streams_are_read_without_breaking_the_connection_of_hints() {
    const STREAMS: usize = 600;
    const ENTRIES: usize = 10;
    const BYTES: usize = 16 * KIB;
    let server = PrivateRedis::start().await;
    let app = App::builder().redis(server.url()).workers(0).start().await;
    let mut redis = app.redis().await;
    let limit = format!("pubsub {} 0 0", 300 * BYTES);
    let _: () = redis::cmd("CONFIG")
        .arg(&["SET", "client-output-buffer-limit", &limit])
        .query_async(&mut redis)
        .await
        .expect("CONFIG SET");
    let tasks = running_tasks(&app, STREAMS).await;
    let readers = join_all(tasks.iter().map(async |task| {
        let url = format!("{}/v1/tasks/{task}/stream", app.url);
        let mut reader = Reader::new(app.client.clone(), url);
        reader.connect(Cut::AfterEvents(1)).await.expect("connects");
        reader
    }));
    let readers = within("all streams are opened", readers).await;
    let read = join_all(readers.into_iter().map(async |mut reader| {
        reader.follow([]).await;
        reader.answer.text.len()
    }));
    let mut subscribed = BTreeSet::new();
    let write = async {
        eventually("all readers are back", || async {
            app.metric("rill_readers_open", "").await as usize == STREAMS
        })
        .await;
        let data = json!({ "type": "delta", "text": "x".repeat(BYTES) }).to_string();
        for seq in 1..=ENTRIES {
            burst(&app, &mut redis, &tasks, seq, &data).await;
            eventually("all of it is read", || async {
                app.metric("rill_events_sent_total", "").await as usize >= STREAMS * (1 + seq)
            })
            .await;
            subscribed.extend(subscribers(&mut redis).await);
        }
        let failed =
            r#"{"message_id":"00000000-0000-0000-0000-000000000000","code":"x","message":"y"}"#;
        append_to_all(&app, &mut redis, &tasks, ENTRIES + 1, "failed", failed).await;
    };
    let (lengths, ()) = within("all is read", async { tokio::join!(read, write) }).await;
    assert!(lengths.iter().all(|length| *length == ENTRIES * BYTES), "{lengths:?}");
    println!("connections of hints while {STREAMS} streams were busy: {subscribed:?}");
    // The first reply of that size may be a surprise.
    assert!((1..=2).contains(&subscribed.len()), "{subscribed:?}");
}

/// An event of each stream, and then the hints for all of them at once.
async fn burst(
    app: &App,
    redis: &mut redis::aio::MultiplexedConnection,
    tasks: &[TaskId],
    seq: usize,
    data: &str,
) {
    let (mut commands, mut hints, id) = (redis::pipe(), String::new(), format!("1-{seq}"));
    for task in tasks {
        let key = format!("{}:{{{}}}:task:{task}", app.name, task.partition());
        commands.xadd(key, &id, &[("e", "delta"), ("d", data)]).ignore();
        hints += &format!("{task} {id}\n");
    }
    commands.publish(format!("{}:wake", app.name), hints).ignore();
    let _: () = commands.query_async(redis).await.expect("appends");
}

/// The IDs of the connections that are subscribed to something.
async fn subscribers(redis: &mut redis::aio::MultiplexedConnection) -> Vec<String> {
    let list: String = redis::cmd("CLIENT")
        .arg(&["LIST", "TYPE", "pubsub"])
        .query_async(redis)
        .await
        .expect("CLIENT LIST");
    list.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}
