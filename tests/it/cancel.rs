//! Cancel: one terminal event, and what was said is kept.

use serde_json::{Value, json};

use crate::in_both_modes;
use crate::support::{App, Builder, Cut};

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
