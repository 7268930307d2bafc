//! One end a task: who commits it, and who only thinks so.

use rill::domain::{Answer, Event, EventId, TaskStatus};
use rill::store::{EndOutcome, Ending, Final};

use crate::support::App;

/// Found by the model (`protocol`, mutation `SameEndOtherAnswer`): a cancel of a
/// queued task and the worker that begins it meanwhile take the same ID for
/// the end, and may have read different parts of what an earlier attempt said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_would_have_ended_a_task_with_another_answer_did_not_end_it() {
    let app = App::builder().workers(0).start().await;
    let posted = app.say("[[tokens=5]]").await;
    let task = posted.task.parse().expect("a task");
    let message_id = posted.message.parse().expect("a message");
    let store = app.store();
    let seen = Ending { attempt: 0, status: TaskStatus::Queued, claim: None };
    let end = |text: &str| Final {
        status: TaskStatus::Cancelled,
        id: EventId::new(1, 1),
        data: Event::Cancelled { message_id, usage: None }.encode().data,
        answer: Answer { text: text.to_owned(), ..Answer::default() },
        finish_reason: None,
        usage: None,
        error: None,
        failures: None,
    };
    let ended = store.end(task, seen, &end("all of it")).await.expect("ends");
    assert!(matches!(ended, EndOutcome::Committed(Some(_))), "{ended:?}");
    let other = store.end(task, seen, &end("a part")).await.expect("is refused");
    assert_eq!(other, EndOutcome::Refused);
    let again = store.end(task, seen, &end("all of it")).await.expect("is repeated");
    assert_eq!(again, EndOutcome::Committed(None));
    assert_eq!(app.stored(&posted).await.text, "all of it");
}
