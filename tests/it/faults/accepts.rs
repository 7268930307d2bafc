//! A crash, or a lost request or reply, between any two steps of accepting a
//! message: repeated with its key, it is accepted once and answered once.

use serde_json::{Value, json};

use super::stage::{Expected, Fault, Stage, ended_well, play, with_short_lease};
use crate::support::{App, Freeze, Posted, eventually};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Commit,
    Enqueue,
    /// After an enqueuing whose outcome is not known.
    NotEnqueued,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_accepted_once_whatever_happens_meanwhile() {
    let mut cases = Vec::new();
    for step in [Step::Commit, Step::Enqueue, Step::NotEnqueued] {
        for freeze in [Freeze::Before, Freeze::After] {
            for fault in [Fault::Killed, Fault::Cut] {
                let name = format!("accept: {step:?} – {fault:?} {freeze:?}");
                cases.push((name, accepted(step, freeze, fault)));
            }
        }
    }
    play(cases).await;
}

async fn accepted(step: Step, freeze: Freeze, fault: Fault) {
    let mut stage = Stage::set_with_api_under_fault(with_short_lease(App::builder())).await;
    let conversation = stage.app.conversation().await;
    let is_job = |text: &str| text.contains("{jobs}:generate * task ");
    let trap = match step {
        Step::Commit => stage.database.trap(freeze, |text| text.contains("WITH conversation AS")),
        Step::Enqueue => stage.redis.trap(freeze, is_job),
        Step::NotEnqueued => {
            // Not cut: accepting gives up waiting by itself.
            let _unanswered = stage.redis.trap(Freeze::After, is_job);
            stage.database.trap(freeze, |text| text.contains("SET enqueued_at = NULL WHERE id"))
        }
    };
    let first = post(&stage.app, &conversation);
    let strike = async {
        trap.sprung().await;
        if fault == Fault::Killed {
            stage.app.api.signal("KILL");
        }
        stage.redis.cut();
        stage.database.cut();
    };
    let (first, ()) = tokio::join!(first, strike);
    if fault == Fault::Killed {
        stage.app.restart_api().await;
    }
    let accepted = tokio::sync::Mutex::new(first);
    eventually("it is accepted when repeated", || async {
        let answer = post(&stage.app, &conversation).await;
        let mut accepted = accepted.lock().await;
        if let (Some(before), Some(now)) = (&*accepted, &answer) {
            assert_eq!(before, now, "the same key, another task");
        }
        *accepted = answer.or(accepted.take());
        accepted.is_some()
    })
    .await;
    let answer = accepted.into_inner().expect("accepted");
    let field = |name: &str| answer[name].as_str().expect("a text").to_owned();
    let posted = Posted {
        conversation,
        message: field("message_id"),
        task: field("task_id"),
        stream_url: field("stream_url"),
    };
    stage.start_sound();
    let reader = stage.app.read(&posted).await;
    let expected = Expected { end: "done", attempts: 1, failures: 0, calls: 1..=1, letters: 0 };
    ended_well(&stage.app, &posted, &reader, &expected).await;
}

/// Posts the message under its key; the answer, if it was accepted.
fn post(app: &App, conversation: &str) -> impl Future<Output = Option<Value>> + use<> {
    let url = format!("{}/v1/conversations/{conversation}/messages", app.url);
    let request = app.client.post(url).header("Idempotency-Key", "once");
    let request = request.json(&json!({ "content": "[[tokens=10]] [[rate=0]]" }));
    async move {
        let response = request.send().await.ok()?;
        match response.status().as_u16() {
            202 => response.json().await.ok(),
            503 => None,
            status => panic!("{status}: {:?}", response.text().await),
        }
    }
}
