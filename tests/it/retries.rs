//! When the model fails: by policy, with the right code, never a hang.

use serde_json::Value;

use crate::support::{App, Reader, eventually};

fn end(reader: &Reader) -> Value {
    serde_json::from_str(&reader.end.as_ref().expect("ended").data).expect("JSON")
}

/// One answer, whole, although the model failed first.
async fn survives(directive: &str, attempts: u64) -> Reader {
    let app = App::builder().with("RILL_MODEL_IDLE_TIMEOUT", "1500ms").start().await;
    let posted = app.say(&format!("{directive} [[tokens=40]] [[rate=200]] well?")).await;
    let reader = app.read(&posted).await;
    assert_eq!(reader.end.as_ref().expect("ended").event, "done", "{:?}", reader.events);
    assert_eq!(reader.answer, app.stored(&posted).await);
    let task = app.task(&posted).await;
    assert_eq!(task["attempts"], attempts, "{task}");
    assert_eq!(reader.count("started") as u64, attempts);
    assert_eq!(reader.count("retrying") as u64, attempts - 1);
    reader
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_before_the_first_token_is_retried_unseen() {
    survives("[[fail=500*2]]", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_limit_is_waited_out_as_long_as_it_asks() {
    let app = App::start().await;
    let started = std::time::Instant::now();
    let posted = app.say("[[fail=429*1]] [[retry-after=2]] [[tokens=5]] [[rate=0]]").await;
    let reader = app.read(&posted).await;
    assert_eq!(reader.end.expect("ended").event, "done");
    // Not a bound on speed: it must not come earlier.
    assert!(started.elapsed() >= std::time::Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_mid_stream_begins_the_answer_anew() {
    let reader = survives("[[cut=20*1]]", 2).await;
    let retrying = reader.events.iter().find(|event| event.event == "retrying").expect("retrying");
    let data: Value = serde_json::from_str(&retrying.data).expect("JSON");
    assert_eq!(data["code"], "upstream_unavailable");
    assert_eq!(data["attempt"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_without_a_finish_reason_is_no_end() {
    survives("[[eof=20*1]]", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_is_noticed() {
    survives("[[stall=20*1]]", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_not_passed_on() {
    survives("[[garbage=20*1]]", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_always_fails_ends_and_keeps_its_text() {
    let app = App::start().await;
    let posted = app.say("[[cut=10*99]] [[tokens=40]] [[rate=200]]").await;
    let reader = app.read(&posted).await;
    assert_eq!(reader.end.as_ref().expect("ended").event, "failed");
    assert_eq!(end(&reader)["code"], "upstream_unavailable");
    let stored = app.stored(&posted).await;
    assert!(!stored.text.is_empty());
    assert_eq!(reader.answer, stored);
    assert_eq!(app.task(&posted).await["failures"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_model_refuses_is_not_tried_again() {
    let app = App::start().await;
    let posted = app.say("[[fail=400*99]] [[tokens=4]]").await;
    let reader = app.read(&posted).await;
    assert_eq!(end(&reader)["code"], "upstream_rejected");
    assert_eq!(app.model_calls().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_over_the_cap_fails_and_is_kept_so_far() {
    let app = App::builder().with("RILL_ANSWER_CAP", "2000").start().await;
    let posted = app.say("[[tokens=4000]] [[rate=0]]").await;
    let reader = app.read(&posted).await;
    assert_eq!(end(&reader)["code"], "answer_too_large");
    let stored = app.stored(&posted).await;
    assert!(stored.text.len() > 2000);
    assert_eq!(reader.answer, stored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_past_its_deadline_ends() {
    let app = App::builder().with("RILL_TASK_DEADLINE", "2s").start().await;
    let posted = app.say("[[tokens=4000]] [[rate=50]]").await;
    let reader = app.read(&posted).await;
    assert_eq!(end(&reader)["code"], "deadline_exceeded");
    assert_eq!(reader.answer, app.stored(&posted).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_no_worker_began_in_time_ends() {
    let mut app = App::builder().workers(0).with("RILL_TASK_DEADLINE", "200ms").start().await;
    let posted = app.say("[[tokens=4]]").await;
    eventually("the deadline has passed", || async {
        sqlx::query_scalar("SELECT deadline_at < now() FROM tasks")
            .fetch_one(&app.pool)
            .await
            .expect("reads")
    })
    .await;
    app.start_worker();
    let reader = app.read(&posted).await;
    assert_eq!(end(&reader)["code"], "deadline_exceeded");
    assert_eq!(app.model_calls().await, 0);
}
