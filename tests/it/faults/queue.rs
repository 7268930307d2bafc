//! What should not be in the queue, and what should not be run: put aside, with
//! why, while others go on.

use redis::AsyncCommands;

use super::stage::{jobs, letters, the_queue_is_empty, with_short_lease};
use crate::support::{App, Cut};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_job_becomes_a_dead_letter_and_others_go_on() {
    let builder = with_short_lease(App::builder()).workers(0).with("RILL_MAX_LOSSES", "5");
    let mut app = builder.start().await;
    let poison = app.say("[[stall=3*99]] [[tokens=40]] [[rate=0]]").await;
    let mut reader = app.reader(&poison);
    let mut others = Vec::new();
    for attempt in 1..=5 {
        app.start_worker();
        while !reader.events.iter().any(|event| event.id == format!("{attempt}-1")) {
            reader.connect(Cut::AfterEvents(1)).await.expect("connects");
        }
        // On the same worker, which runs the poison still.
        let other = app.say("[[tokens=5]] [[rate=0]]").await;
        app.reaches(&other, "done").await;
        others.push(other);
        app.workers.last_mut().expect("a worker").kill();
    }
    others.push(app.say("[[tokens=5]] [[rate=0]]").await);
    app.start_worker();
    reader.follow([]).await;
    assert_eq!(reader.end.as_ref().expect("ended").event, "failed");
    assert_eq!(reader.answer, app.stored(&poison).await);
    assert!(!reader.answer.text.is_empty(), "what was said is kept");
    assert_eq!(app.task(&poison).await["error"]["code"], "worker_lost");
    for other in &others {
        let read = app.read(other).await;
        assert_eq!(read.end.expect("ended").event, "done");
        assert_eq!(read.answer, app.stored(other).await);
    }
    the_queue_is_empty(&app).await;
    let letters = letters(&app).await.ids;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].get::<String>("task"), Some(poison.task));
    let why: String = letters[0].get("why").expect("why");
    assert!(why.starts_with("worker_lost: 5 "), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_job_becomes_a_dead_letter_and_others_go_on() {
    let mut app = App::builder().workers(0).start().await;
    let (mut redis, jobs) = (app.redis().await, jobs(&app));
    let unknown = uuid::Uuid::new_v4().to_string();
    let malformed: [&[(&str, &[u8])]; 4] = [
        &[("other", b"field")],
        &[("task", b"not a UUID")],
        &[("task", b"\xff\xfe\0")],
        &[("task", b"")],
    ];
    let before = app.say("[[tokens=5]] [[rate=0]]").await;
    let mut entries = Vec::new();
    for fields in malformed {
        entries.push(redis.xadd::<_, _, _, _, String>(&jobs, "*", fields).await.expect("XADD"));
    }
    // Well formed, and of no task that there is: nothing to tell anybody.
    let _: String = redis.xadd(&jobs, "*", &[("task", unknown)]).await.expect("XADD");
    let after = app.say("[[tokens=5]] [[rate=0]]").await;
    app.start_worker();
    for posted in [&before, &after] {
        assert_eq!(app.read(posted).await.end.expect("ended").event, "done");
    }
    the_queue_is_empty(&app).await;
    let mut buried = Vec::new();
    for letter in letters(&app).await.ids {
        assert_eq!(letter.get::<String>("why").expect("why"), "malformed entry");
        buried.push(letter.get::<String>("entry").expect("the entry"));
    }
    buried.sort();
    assert_eq!(buried, entries);
    assert_eq!(app.model_calls().await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_conversation_was_deleted_is_put_aside_and_others_go_on() {
    let mut app = App::builder().workers(0).with("RILL_RETRY_BASE", "30s").start().await;
    // While it is queued; gone from PostgreSQL as well; while it waits to be tried again.
    let queued = app.say("[[tokens=5]]").await;
    let gone = app.say("[[tokens=5]]").await;
    let waiting = app.say("[[cut=3*9]] [[tokens=9]] [[rate=0]]").await;
    let mut reader = app.reader(&waiting);
    delete(&app, &queued.conversation).await;
    sqlx::query("DELETE FROM conversations WHERE id = $1::uuid")
        .bind(&gone.conversation)
        .execute(&app.pool)
        .await
        .expect("deletes");
    app.start_worker();
    while reader.count("retrying") == 0 {
        reader.connect(Cut::AfterEvents(1)).await.expect("connects");
    }
    delete(&app, &waiting.conversation).await;
    reader.follow([]).await;
    assert_eq!(reader.end.expect("ended").event, "cancelled");
    let other = app.say("[[tokens=5]] [[rate=0]]").await;
    assert_eq!(app.read(&other).await.end.expect("ended").event, "done");
    the_queue_is_empty(&app).await;
    assert_eq!(app.read(&queued).await.end.expect("ended").event, "cancelled");
    assert_eq!(letters(&app).await.ids.len(), 0);
    assert_eq!(app.model_calls().await, 2);
}

async fn delete(app: &App, conversation: &str) {
    let path = format!("/v1/conversations/{conversation}");
    let (status, body) = app.request(reqwest::Method::DELETE, &path, None).await;
    assert_eq!(status, 204, "{body}");
}
