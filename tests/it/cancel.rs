//! Cancel: one terminal event, and what was said is kept.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::in_both_modes;
use crate::support::{App, Builder, Cut, Proxy, Reader, Weather};

in_both_modes! {
    async fn a_stop_mid_stream_keeps_what_was_said(builder: Builder) {
        let app = builder.start().await;
        let posted = app.say("[[tokens=4000]] [[rate=50]]").await;
        let mut reader = app.reader(&posted);
        reader.connect(Cut::AfterEvents(10)).await.expect("connects");
        let cancel = format!("/v1/tasks/{}/cancel", posted.task);
        let (status, body) = app.post(&cancel, json!({})).await;
        assert_eq!(status, 202, "{body}");
        // Twice is as good as once.
        assert_eq!(app.post(&cancel, json!({})).await.0, 202);
        reader.follow([]).await;
        assert_eq!(reader.end.as_ref().expect("ended").event, "cancelled");
        let stored = app.stored(&posted).await;
        assert!(!stored.text.is_empty());
        assert_eq!(reader.answer, stored);
        assert_eq!(app.task(&posted).await["status"], "cancelled");
        assert_eq!(app.read(&posted).await.answer, stored);
    }

    async fn a_stop_while_queued_ends_the_task_at_once(builder: Builder) {
        let mut app = builder.workers(0).start().await;
        let posted = app.say("[[tokens=10]]").await;
        let mut reader = app.reader(&posted);
        let (status, task) = app.post(&format!("/v1/tasks/{}/cancel", posted.task), json!({})).await;
        assert_eq!((status, &task["status"]), (202, &json!("cancelled")), "{task}");
        reader.follow([]).await;
        assert_eq!(reader.end.as_ref().expect("ended").event, "cancelled");
        assert_eq!(app.model_calls().await, 0);
        // The job that is still in the queue changes nothing.
        app.start_worker();
        let other = app.say("[[tokens=3]] [[rate=0]]").await;
        app.reaches(&other, "done").await;
        assert_eq!(app.task(&posted).await["status"], "cancelled");
        assert_eq!(app.model_calls().await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_after_the_end_changes_nothing() {
    let app = App::start().await;
    let posted = app.say("[[tokens=3]] [[rate=0]]").await;
    let before = app.reaches(&posted, "done").await;
    let (status, after) = app.post(&format!("/v1/tasks/{}/cancel", posted.task), json!({})).await;
    assert_eq!((status, after), (202, before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_conversation_stops_its_answer() {
    let app = App::start().await;
    let posted = app.say("[[tokens=4000]] [[rate=50]]").await;
    let mut reader = app.reader(&posted);
    reader.connect(Cut::AfterEvents(5)).await.expect("connects");
    let path = format!("/v1/conversations/{}", posted.conversation);
    let (status, _) = app.request(reqwest::Method::DELETE, &path, None).await;
    assert_eq!(status, 204);
    let (status, problem): (u16, Value) = app.get(&path).await;
    assert_eq!((status, &problem["code"]), (404, &json!("conversation_not_found")));
    reader.follow([]).await;
    assert_eq!(reader.end.expect("ended").event, "cancelled");
}

/// A worker 20 ms from Redis.
async fn far_from_redis() -> (App, Proxy) {
    let mut app = App::builder().workers(0).start().await;
    let proxy = Proxy::before(&app.redis_url).await;
    proxy.weather(Weather::Delay(Duration::from_millis(10)));
    app.start_worker_through(Some(&proxy), None);
    (app, proxy)
}

/// Stops an answer after a few events; how long it took, and its reader.
async fn stopped(app: &App, seed: usize) -> (Duration, Reader) {
    let posted = app.say(&format!("[[tokens=4000]] [[rate=25]] [[seed={seed}]]")).await;
    let mut reader = app.reader(&posted);
    reader.connect(Cut::AfterEvents(4 + seed % 4)).await.expect("connects");
    // Anywhere between two tokens.
    tokio::time::sleep(Duration::from_millis(7 * (seed as u64 % 6))).await;
    let asked = Instant::now();
    let cancel = format!("/v1/tasks/{}/cancel", posted.task);
    assert_eq!(app.post(&cancel, json!({})).await.0, 202);
    reader.follow([]).await;
    (asked.elapsed(), reader)
}

/// An append whose outcome an end did not wait for leaves a gap of one ID.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_while_an_append_is_under_way_waits_for_its_outcome_and_no_longer() {
    let (app, _proxy) = far_from_redis().await;
    let stops = (0..20).map(|seed| stopped(&app, seed));
    for (_, reader) in futures_util::future::join_all(stops).await {
        let end = reader.end.as_ref().expect("ended");
        assert_eq!(end.event, "cancelled");
        let seq = |id: &str| id.split_once('-').and_then(|(_, seq)| seq.parse::<u64>().ok());
        let ids: Vec<_> = reader.events.iter().filter_map(|event| seq(&event.id)).collect();
        let last: Vec<_> = ids.windows(2).last().expect("two events").to_vec();
        assert_eq!(last[0] + 1, last[1], "the end gave an append up: {ids:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: make stops"]
async fn stop_times() {
    let (app, _proxy) = far_from_redis().await;
    let mut times = Vec::new();
    for seed in 0..100 {
        times.push(stopped(&app, seed).await.0);
    }
    times.sort();
    println!("cancel → `cancelled`, 20 ms from Redis, 100 times, one after the other:");
    println!("p50 {:?}, p90 {:?}, p99 {:?}, max {:?}", times[49], times[89], times[98], times[99]);
}

/// Anybody who reaches Redis can send hints.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_cancel_nothing_that_postgresql_does_not_and_a_flood_of_them_costs_little() {
    let mut app = App::builder().workers(0).start().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let metrics = free.expect("a free port").to_string();
    app.start_worker_with(&[("RILL_METRICS_LISTEN", &metrics)]);
    let posted = app.say("[[tokens=60]] [[rate=30]]").await;
    let stopped = app.say("[[tokens=4000]] [[rate=30]]").await;
    let mut reader = app.reader(&posted);
    reader.connect(Cut::AfterEvents(5)).await.expect("connects");
    app.reaches(&stopped, "running").await;
    let began = Instant::now();
    let mut redis = app.redis().await;
    let channel = format!("{}:cancel", app.name);
    for _ in 0..2_000 {
        let _: i64 = redis::cmd("PUBLISH")
            .arg(&channel)
            .arg(&posted.task)
            .query_async(&mut redis)
            .await
            .expect("PUBLISH");
    }
    // One that is asked for is heard among them.
    let cancel = format!("/v1/tasks/{}/cancel", stopped.task);
    assert_eq!(app.post(&cancel, json!({})).await.0, 202);
    assert_eq!(app.read(&stopped).await.end.expect("ended").event, "cancelled");
    reader.follow([]).await;
    assert_eq!(reader.end.as_ref().expect("ended").event, "done");
    let text = app.client.get(format!("http://{metrics}/metrics")).send().await.expect("answers");
    let text = text.text().await.expect("text");
    let looks = text
        .lines()
        .find(|line| line.starts_with("rill_store") && line.contains("\"cancelled_among\""))
        .and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .expect("the hints were looked after");
    let most = began.elapsed().as_secs_f64() / 0.05 + 2.0;
    assert!((1.0..=most).contains(&looks), "{looks} statements, not {most}");
}
