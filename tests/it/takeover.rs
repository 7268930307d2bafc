//! Promises 1 and 3: a worker dies, its task doesn't; a zombie can't write.

use std::time::{Duration, Instant};

use redis::AsyncCommands;

use crate::in_both_modes;
use crate::support::{App, Builder, Cut, eventually, typed, within};

in_both_modes! {
    async fn a_task_outlives_its_worker(builder: Builder) {
        let mut app = builder.workers(1).start().await;
        let posted = app.say("[[tokens=200]] [[rate=25]]").await;
        let mut reader = app.reader(&posted);
        reader.connect(Cut::AfterEvents(10)).await.expect("connects");
        app.start_worker();
        eventually("the second worker is steady for a lease, and so may judge the first", || async {
            sqlx::query_scalar::<_, i64>(
                "SELECT count(*) FROM workers WHERE steady_since <= now() - interval '3 s'",
            )
            .fetch_one(&app.pool)
            .await
            .expect("counts")
                == 2
        })
        .await;
        app.workers[0].kill();
        let killed = Instant::now();
        let next_attempt = async {
            while !reader.events.last().is_some_and(|e| e.event == "started" && e.id == "2-0") {
                reader.connect(Cut::AfterEvents(1)).await.expect("connects");
            }
            killed.elapsed()
        };
        let took = within("the next attempt starts", next_attempt).await;
        println!("killed → next attempt's started: {took:?} with a lease of 3 s");
        // The one place where time is the promise; the machine may be busy.
        assert!(took < Duration::from_secs(3 + 2) + SLACK, "took {took:?}");
        reader.follow([]).await;
        let stored = app.stored(&posted).await;
        assert_eq!(reader.answer, stored);
        assert_eq!(app.read(&posted).await.answer, stored);
        let messages: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM messages WHERE conversation_id = $1::uuid AND role = 'assistant'",
        )
        .bind(&posted.conversation)
        .fetch_one(&app.pool)
        .await
        .expect("counts");
        assert_eq!(messages, 1);
    }
}

/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_wakes_up_after_its_lease_writes_nothing_more() {
    let mut app = App::builder().workers(1).start().await;
    let posted = app.say("[[tokens=120]] [[rate=30]]").await;
    let mut reader = app.reader(&posted);
    reader.connect(Cut::AfterEvents(10)).await.expect("connects");
    app.workers[0].signal("STOP");
    app.start_worker();
    let mut second = app.reader(&posted);
    let started = async {
        while !second.events.iter().any(|event| event.id == "2-5") {
            second.connect(Cut::AfterEvents(1)).await.expect("connects");
        }
    };
    within("another attempt writes", started).await;
    app.workers[0].signal("CONT");
    second.follow([]).await;
    reader.follow([]).await;
    let stored = app.stored(&posted).await;
    assert_eq!(second.answer, stored);
    assert_eq!(reader.answer, stored);
    app.workers[0].logged("stopping this attempt").await;
    let mut redis = app.redis().await;
    let entries: redis::streams::StreamRangeReply =
        redis.xrange_all(app.stream_key(&posted)).await.expect("XRANGE");
    let mut attempts: Vec<_> =
        entries.ids.iter().map(|e| e.id.split_once('-').expect("an ID").0.to_owned()).collect();
    assert!(attempts.is_sorted(), "{attempts:?}");
    attempts.dedup();
    assert_eq!(attempts, ["1", "2"]);
    assert_eq!(reader.end.expect("ended").id.split_once('-').expect("an ID").0, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_model_had_finished_is_committed_without_calling_it_again() {
    let mut app = App::builder().workers(0).start().await;
    let posted = app.say("[[tokens=20]] [[rate=0]]").await;
    // An attempt that died right after `complete`, as a worker leaves it.
    sqlx::query(
        "UPDATE tasks SET status = 'running', attempt = 1, claim_id = gen_random_uuid(),
                worker_id = gen_random_uuid(), started_at = now() WHERE id = $1::uuid",
    )
    .bind(&posted.task)
    .execute(&app.pool)
    .await
    .expect("updates");
    let (key, mut redis) = (app.stream_key(&posted), app.redis().await);
    for (id, name, data) in [
        ("1-0", "started", r#"{"attempt":1,"model":"simulator"}"#),
        ("1-1", "delta", r#"{"text":"all of "}"#),
        ("1-2", "delta", r#"{"text":"it"}"#),
        ("1-3", "complete", r#"{"finish_reason":"stop","usage":null}"#),
    ] {
        let _: String =
            redis.xadd(&key, id, &[("e", name), ("d", &typed(name, data))]).await.expect("XADD");
    }
    let mut reader = app.reader(&posted);
    reader.connect(Cut::AfterEvents(3)).await.expect("connects");
    assert_eq!(reader.answer.text, "all of it");
    app.start_worker();
    reader.follow([]).await;
    assert_eq!(reader.answer.text, "all of it");
    assert_eq!(app.stored(&posted).await.text, "all of it");
    assert_eq!(reader.end.expect("ended").event, "done");
    assert_eq!(app.model_calls().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_event_that_was_never_appended_is_appended_by_whoever_finds_the_job() {
    let mut app = App::builder().workers(0).start().await;
    let posted = app.say("[[tokens=5]]").await;
    // A worker that died between its commit and the terminal event.
    let data = format!(
        r#"{{"type":"done","message_id":"{}","finish_reason":"stop","usage":null}}"#,
        posted.message
    );
    sqlx::query(
        "WITH ended AS (UPDATE tasks SET status = 'done', attempt = 1, final_id = '1-3',
                final_event = 'done', final_data = $2, finished_at = now() WHERE id = $1::uuid)
         UPDATE messages SET answer = 'whole' WHERE id = $3::uuid",
    )
    .bind(&posted.task)
    .bind(&data)
    .bind(&posted.message)
    .execute(&app.pool)
    .await
    .expect("updates");
    let (key, mut redis) = (app.stream_key(&posted), app.redis().await);
    for (id, name, data) in [
        ("1-0", "started", r#"{"attempt":1,"model":"m"}"#),
        ("1-1", "delta", r#"{"text":"whole"}"#),
    ] {
        let _: String =
            redis.xadd(&key, id, &[("e", name), ("d", &typed(name, data))]).await.expect("XADD");
    }
    app.start_worker();
    eventually("the terminal event is in the stream", || {
        let (key, mut redis) = (key.clone(), redis.clone());
        async move {
            let last: redis::streams::StreamRangeReply =
                redis.xrevrange_count(key, "+", "-", 1).await.expect("XREVRANGE");
            last.ids.first().is_some_and(|entry| entry.id == "1-3")
        }
    })
    .await;
    let reader = app.read(&posted).await;
    assert_eq!(reader.answer.text, "whole");
    let jobs: usize = redis.xlen(format!("{}:{{jobs}}:generate", app.name)).await.expect("XLEN");
    assert_eq!(jobs, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_kills_its_workers_ends_as_a_dead_letter() {
    let mut app = App::builder()
        .workers(0)
        .with("RILL_LEASE", "900ms")
        .with("RILL_HEARTBEAT", "300ms")
        .with("RILL_MAX_LOSSES", "5")
        .start()
        .await;
    let posted = app.say("[[tokens=4000]] [[rate=20]]").await;
    let reader = app.reader(&posted);
    for attempt in 1..=5 {
        app.start_worker();
        eventually("an attempt runs", || async {
            app.task(&posted).await["attempts"].as_u64().expect("a number") >= attempt
        })
        .await;
        app.workers.last_mut().expect("a worker").kill();
    }
    app.start_worker();
    let task = app.reaches(&posted, "failed").await;
    assert_eq!(task["error"]["code"], "worker_lost");
    let mut reader = reader;
    reader.follow([]).await;
    assert_eq!(reader.end.as_ref().expect("ended").event, "failed");
    assert_eq!(reader.answer, app.stored(&posted).await);
    let mut redis = app.redis().await;
    let dead = format!("{}:{{jobs}}:generate:dead", app.name);
    eventually("the dead letter is there", || {
        let (dead, mut redis) = (dead.clone(), redis.clone());
        async move { redis.xlen::<_, usize>(dead).await.expect("XLEN") == 1 }
    })
    .await;
    let letters: redis::streams::StreamRangeReply = redis.xrange_all(dead).await.expect("XRANGE");
    assert_eq!(letters.ids[0].get::<String>("task"), Some(posted.task.clone()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_its_worker_has_forgotten_is_queued_again() {
    let app = App::start().await;
    let first = app.say("[[tokens=3]] [[rate=0]]").await;
    app.reaches(&first, "done").await;
    let posted = app.say("[[tokens=3]] [[rate=0]] [[ttft=60s]]").await;
    app.reaches(&posted, "running").await;
    // Another task, as a panic would leave it: running under a worker that lives
    // and doesn't know of it, and not in the queue.
    let other = app.conversation().await;
    let row = sqlx::query(
        "WITH q AS (INSERT INTO messages (id, conversation_id, position, role, content)
                    VALUES (gen_random_uuid(), $1::uuid, 0, 'user', '\"hi\"') RETURNING id),
              m AS (INSERT INTO messages (id, conversation_id, parent_id, position, role)
                    SELECT gen_random_uuid(), $1::uuid, q.id, 1, 'assistant' FROM q RETURNING id)
         INSERT INTO tasks (id, account_id, conversation_id, message_id, model, parameters,
                            status, attempt, claim_id, worker_id, deadline_at, enqueued_at)
         SELECT $2::uuid, '00000000-0000-0000-0000-000000000000', $1::uuid, m.id, 'simulator', '{}',
                'running', 1, gen_random_uuid(), w.id, now() + interval '1 hour', now()
         FROM m, (SELECT id FROM workers LIMIT 1) w",
    );
    let task = uuid::Uuid::new_v4();
    row.bind(&other).bind(task.to_string()).execute(&app.pool).await.expect("inserts");
    eventually("the forgotten task has ended", || async {
        let (status, body) = app.get(&format!("/v1/tasks/{task}")).await;
        status == 200 && body["status"] == "done" && body["attempts"] == 2
    })
    .await;
}
