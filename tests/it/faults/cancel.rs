//! A stop at the worst moments: one terminal event, and what was said is kept.

use serde_json::{Value, json};

use super::scenes::is_end;
use super::stage::{
    Expected, Fault, Stage, ended_well, entries, play, with_short_lease, without_relay,
};
use crate::support::{App, Cut, Freeze, Posted, Proxy, eventually};

async fn stop(app: &App, posted: &Posted) -> Value {
    let (status, body) = app.post(&format!("/v1/tasks/{}/cancel", posted.task), json!({})).await;
    assert_eq!(status, 202, "{body}");
    body
}

fn expected(end: &'static str, attempts: u64, failures: u64, calls: u64) -> Expected {
    Expected { end, attempts, failures, calls: calls..=calls, letters: 0 }
}

/// One terminal event is stored, too.
async fn one_end_is_stored(app: &App, posted: &Posted) {
    let stream = entries(app, posted).await;
    let ends = stream.iter().filter(|(_, e, _)| ["done", "failed", "cancelled"].contains(&&**e));
    assert_eq!(ends.count(), 1, "{stream:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_at_the_last_token_ends_the_task_once() {
    let complete = |text: &str| text.contains(" e complete ");
    let mut cases = Vec::new();
    for freeze in [Freeze::Before, Freeze::After] {
        cases.push((
            format!("stop at complete, cut {freeze:?}"),
            at_the_end(true, freeze, complete),
        ));
        cases.push((
            format!("stop at the commit, cut {freeze:?}"),
            at_the_end(false, freeze, is_end),
        ));
    }
    play(cases).await;
}

/// The model has finished: that is the end, and a stop changes nothing.
async fn at_the_end(redis: bool, freeze: Freeze, is_it: fn(&str) -> bool) {
    let mut stage = Stage::set(App::builder()).await;
    let posted = stage.app.say("[[tokens=30]] [[rate=0]]").await;
    let trap = if redis { &stage.redis } else { &stage.database }.trap(freeze, is_it);
    let mut reader = stage.app.reader(&posted);
    let stopping = async {
        stage.start_under_fault();
        trap.sprung().await;
        stop(&stage.app, &posted).await;
        stage.strike(Fault::Cut);
    };
    tokio::join!(reader.follow([]), stopping);
    ended_well(&stage.app, &posted, &reader, &expected("done", 1, 0, 1)).await;
    one_end_is_stored(&stage.app, &posted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_after_the_model_has_counted_keeps_text_and_usage() {
    let mut stage = Stage::set(with_short_lease(App::builder())).await;
    let posted = stage.app.say("[[tokens=30]] [[rate=200]]").await;
    let trap = stage.redis.trap(Freeze::After, |text| text.contains(" 1-2 e delta "));
    let mut reader = stage.app.reader(&posted);
    let stopping = async {
        stage.start_under_fault();
        trap.sprung().await;
        let stats = format!("{}/stats", stage.app.model_url);
        eventually("the model has said everything", || async {
            let response = stage.app.client.get(&stats).send().await.expect("answers");
            response.json::<Value>().await.expect("JSON")["running"] == 0
        })
        .await;
        let two_heartbeats = async || {
            for _ in 0..2 {
                let beat = |text: &str| text.contains("INSERT INTO workers");
                stage.database.trap(Freeze::Before, beat).sprung().await;
                stage.database.thaw();
            }
        };
        // A worker that has had a heartbeat since has read what was there.
        two_heartbeats().await;
        stop(&stage.app, &posted).await;
        // By the second from now it has been told.
        two_heartbeats().await;
        stage.strike(Fault::Cut);
    };
    tokio::join!(reader.follow([]), stopping);
    ended_well(&stage.app, &posted, &reader, &expected("cancelled", 1, 0, 1)).await;
    let task = stage.app.task(&posted).await;
    assert_eq!(task["usage"]["completion_tokens"], 30, "{task}");
    let data: Value = serde_json::from_str(&reader.end.expect("ended").data).expect("JSON");
    assert_eq!(data["usage"], task["usage"]);
    one_end_is_stored(&stage.app, &posted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stops_that_come_together_end_a_task_once() {
    for workers in [0, 1] {
        let app = App::builder().workers(workers).start().await;
        let posted = app.say("[[tokens=4000]] [[rate=100]]").await;
        let mut reader = app.reader(&posted);
        if workers > 0 {
            reader.connect(Cut::AfterEvents(5)).await.expect("connects");
        }
        futures_util::future::join_all((0..8).map(|_| stop(&app, &posted))).await;
        reader.follow([]).await;
        let task = app.task(&posted).await;
        assert_eq!((&task["status"], reader.count("cancelled")), (&json!("cancelled"), 1));
        assert_eq!(reader.answer, app.stored(&posted).await);
        assert_eq!(reader.answer.text.is_empty(), workers == 0);
        one_end_is_stored(&app, &posted).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_while_a_task_is_taken_over_keeps_what_was_said() {
    let begin: Is = |text| text.contains("WITH seen AS");
    let history: Is = |text| text.starts_with("XRANGE") && text.contains(":task:");
    let cases = [
        ("before anybody begins", None),
        ("before another begins", Some((Freeze::Before, false, begin))),
        ("after another has begun", Some((Freeze::After, false, begin))),
        ("while another reads what there is", Some((Freeze::Before, true, history))),
    ];
    play(cases.map(|(name, at)| (format!("stop {name}"), while_taken_over(at)))).await;
}

/// Tells a request by its text.
type Is = fn(&str) -> bool;

/// Where: which side of a request, and whether it is one to Redis.
async fn while_taken_over(at: Option<(Freeze, bool, Is)>) {
    let mut stage = Stage::set(with_short_lease(App::builder())).await;
    let posted = stage.app.say("[[stall=20*1]] [[tokens=40]] [[rate=400]]").await;
    stage.start_sound();
    let mut reader = stage.app.reader(&posted);
    reader.connect(Cut::AfterEvents(3)).await.expect("connects");
    without_relay(&stage.app).await;
    stage.app.workers[0].kill();
    let takes_over = async {
        let Some((freeze, redis, is_it)) = at else {
            stop(&stage.app, &posted).await;
            return stage.start_sound();
        };
        let trap = if redis { &stage.redis } else { &stage.database }.trap(freeze, is_it);
        stage.start_under_fault();
        trap.sprung().await;
        stop(&stage.app, &posted).await;
        stage.redis.cut();
        stage.database.cut();
    };
    tokio::join!(reader.follow([]), takes_over);
    ended_well(&stage.app, &posted, &reader, &expected("cancelled", 2, 1, 1)).await;
    assert!(!reader.answer.text.is_empty());
    one_end_is_stored(&stage.app, &posted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_without_redis_is_committed_and_told_later() {
    let url = App::builder().redis_url();
    let redis = Proxy::before(&url).await;
    let builder = with_short_lease(App::builder()).redis_through(redis.address());
    let app = builder.start().await;
    let posted = app.say("[[tokens=4000]] [[rate=100]]").await;
    let mut reader = app.reader(&posted);
    reader.connect(Cut::AfterEvents(5)).await.expect("connects");
    redis.take_away();
    stop(&app, &posted).await;
    app.reaches(&posted, "cancelled").await;
    // One that nobody has begun is ended by the caller.
    let queued = app.say("[[tokens=5]]").await;
    assert_eq!(stop(&app, &queued).await["status"], "cancelled");
    redis.bring_back();
    reader.follow([]).await;
    assert_eq!(reader.count("cancelled"), 1);
    assert!(!reader.answer.text.is_empty());
    let stored = app.stored(&posted).await;
    assert_eq!(reader.answer, stored);
    assert_eq!(app.read(&posted).await.answer, stored);
    assert_eq!(app.read(&queued).await.end.expect("ended").event, "cancelled");
    super::stage::the_queue_is_empty(&app).await;
    assert_eq!(app.model_calls().await, 1);
}
