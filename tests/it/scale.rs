//! Many readers share few connections; hints are never relied on.

use futures_util::stream::{self, StreamExt};
use redis::AsyncCommands;
use rill::domain::TaskId;

use crate::in_both_modes;
use crate::support::{
    App, Builder, Cut, PrivateRedis, Reader, connect_to_redis, eventually, typed, within,
};

const STREAMS: usize = 2_000;

in_both_modes! {
    /// The streams are written by the test: what is measured is the reading.
    async fn two_thousand_readers_share_sixteen_connections(builder: Builder) {
        let redis = PrivateRedis::start().await;
        let app = builder.redis(redis.url()).workers(0).start().await;
        let tasks = running_tasks(&app, STREAMS).await;
        let client = &app.client;
        let opened = stream::iter(&tasks).map(|task| {
            let url = format!("{}/v1/tasks/{task}/stream", app.url);
            async move {
                let mut reader = Reader::new(client.clone(), url);
                // Open, and served what there is.
                reader.connect(Cut::AfterEvents(1)).await.expect("connects");
                reader
            }
        });
        let readers: Vec<_> = within("all streams are opened", opened.buffer_unordered(100).collect()).await;
        let all = futures_util::future::join_all(readers.into_iter().map(|mut reader| async move {
            reader.follow([]).await;
            reader
        }));
        let writing = async {
            let mut redis = app.redis().await;
            eventually("all readers are back", || async {
                app.metric("rill_readers_open", "").await as usize == STREAMS
            })
            .await;
            let ours = connections(&mut redis).await;
            println!("connections of the API to Redis with {STREAMS} readers: {ours}");
            assert!(ours <= 16, "{ours} connections");
            for round in 1..=3 {
                append_to_all(&app, &mut redis, &tasks, round, "delta", r#"{"text":"more "}"#).await;
            }
            let failed = r#"{"message_id":"00000000-0000-0000-0000-000000000000","code":"x","message":"y"}"#;
            append_to_all(&app, &mut redis, &tasks, 4, "failed", failed).await;
        };
        let (readers, ()) = within("all readers are served", async { tokio::join!(all, writing) }).await;
        assert_eq!(readers.len(), STREAMS);
        for reader in readers {
            assert_eq!(reader.answer.text, "more more more ");
        }
    }
}

in_both_modes! {
    async fn a_reader_whose_buffer_overflows_catches_up_by_itself(builder: Builder) {
        let app = builder.with("RILL_READER_BUFFER", "600").start().await;
        let posted = app.say("[[tokens=400]] [[rate=200]]").await;
        // So much at once that it can't fit.
        app.reaches(&posted, "done").await;
        let (one, other) = tokio::join!(app.read(&posted), app.read(&posted));
        let stored = app.stored(&posted).await;
        assert!(one.answer == stored && other.answer == stored, "a text differs from PostgreSQL's");
        assert_eq!(one.count("snapshot") + other.count("snapshot"), 0);
        assert!(app.metric("rill_tail_reads_total", "catch_up").await > 0.0, "nothing overflowed");
    }
}

/// Tasks as they are while a worker runs them, each with its `started`.
pub(crate) async fn running_tasks(app: &App, count: usize) -> Vec<TaskId> {
    let conversation = app.conversation().await;
    let ids: Vec<uuid::Uuid> = sqlx::query_scalar(
        "WITH m AS (
             INSERT INTO messages (id, conversation_id, position, role)
             SELECT gen_random_uuid(), $1::uuid, n, 'assistant' FROM generate_series(1, $2) n RETURNING id)
         INSERT INTO tasks (id, account_id, conversation_id, message_id, model, parameters,
                            status, attempt, claim_id, worker_id, deadline_at, enqueued_at)
         SELECT gen_random_uuid(), '00000000-0000-0000-0000-000000000000', $1::uuid, id, 'simulator',
                '{}', 'running', 1, gen_random_uuid(), gen_random_uuid(), now() + interval '1 hour', now()
         FROM m RETURNING id",
    )
    .bind(&conversation)
    .bind(i32::try_from(count).expect("small"))
    .fetch_all(&app.pool)
    .await
    .expect("inserts");
    let tasks: Vec<_> = ids.into_iter().map(TaskId).collect();
    let mut redis = app.redis().await;
    append_to_all(app, &mut redis, &tasks, 0, "started", r#"{"attempt":1,"model":"simulator"}"#)
        .await;
    tasks
}

/// As a worker appends: the entry, then the hint.
pub(crate) async fn append_to_all(
    app: &App,
    redis: &mut redis::aio::MultiplexedConnection,
    tasks: &[TaskId],
    seq: usize,
    name: &str,
    data: &str,
) {
    append(app, redis, tasks, (seq, name, data), true).await;
}

async fn append(
    app: &App,
    redis: &mut redis::aio::MultiplexedConnection,
    tasks: &[TaskId],
    (seq, name, data): (usize, &str, &str),
    hinted: bool,
) {
    let data = typed(name, data);
    for batch in tasks.chunks(200) {
        let mut commands = redis::pipe();
        for task in batch {
            let (prefix, partition, id) = (&app.name, task.partition(), format!("1-{seq}"));
            commands
                .xadd(
                    format!("{prefix}:{{{partition}}}:task:{task}"),
                    &id,
                    &[("e", name), ("d", data.as_str())],
                )
                .ignore();
            if hinted {
                commands.publish(format!("{prefix}:wake"), format!("{task} {id}")).ignore();
            }
        }
        let _: () = commands.query_async(redis).await.expect("appends");
    }
}

const DELTA: &str = r#"{"text":"more "}"#;
const FAILED: &str =
    r#"{"message_id":"00000000-0000-0000-0000-000000000000","code":"x","message":"y"}"#;

/// A running task, and a reader that has its first event.
async fn followed_task(app: &App) -> (Vec<TaskId>, Reader) {
    let tasks = running_tasks(app, 1).await;
    let url = format!("{}/v1/tasks/{}/stream", app.url, tasks[0]);
    let mut reader = Reader::new(app.client.clone(), url);
    reader.connect(Cut::AfterEvents(1)).await.expect("connects");
    (tasks, reader)
}

/// Waits for the next look at quiet streams.
async fn looked(app: &App) {
    let looks = || app.metric("rill_tail_reads_total", "look");
    let before = looks().await;
    eventually("quiet streams are looked at", || async { looks().await > before }).await;
}

/// Reads of a way that brought something.
async fn fruitful(app: &App, way: &str) -> f64 {
    app.metric("rill_tail_reads_total", way).await
        - app.metric("rill_tail_empty_reads_total", way).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_hints_cost_time_and_no_event() {
    let redis = PrivateRedis::start().await;
    let app = App::builder().redis(redis.url()).workers(0).start().await;
    let (tasks, mut reader) = followed_task(&app).await;
    let mut redis = app.redis().await;
    let lose = async {
        looked(&app).await;
        append(&app, &mut redis, &tasks, (1, "delta", DELTA), false).await;
        eventually("it is found", || async { fruitful(&app, "look").await == 1.0 }).await;
        // Now somebody waits for it,
        append(&app, &mut redis, &tasks, (2, "delta", DELTA), false).await;
        eventually("it is waited for", || async { fruitful(&app, "block").await > 0.0 }).await;
        // until a hint comes.
        append(&app, &mut redis, &tasks, (3, "delta", DELTA), true).await;
        looked(&app).await;
        append(&app, &mut redis, &tasks, (4, "delta", DELTA), false).await;
        eventually("it is found", || async { fruitful(&app, "look").await == 2.0 }).await;
        append(&app, &mut redis, &tasks, (5, "failed", FAILED), false).await;
    };
    within("the reader is served", async { tokio::join!(reader.follow([]), lose) }).await;
    assert_eq!(reader.answer.text, "more ".repeat(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_stream_whose_hints_come_is_waited_for_by_no_blocking_read() {
    const TOKENS: usize = 4;
    let redis = PrivateRedis::start().await;
    let app = App::builder().redis(redis.url()).workers(0).start().await;
    let (tasks, mut reader) = followed_task(&app).await;
    let mut redis = app.redis().await;
    let without_hint = async || fruitful(&app, "look").await + fruitful(&app, "block").await;
    let all = async || fruitful(&app, "hint").await + without_hint().await;
    let before = without_hint().await;
    let say = async {
        for token in 1..=TOKENS {
            // Just after a look, so that the next is far from the hint.
            looked(&app).await;
            let so_far = all().await;
            append(&app, &mut redis, &tasks, (token, "delta", DELTA), true).await;
            eventually("it is read", || async { all().await > so_far }).await;
        }
        append(&app, &mut redis, &tasks, (TOKENS + 1, "failed", FAILED), true).await;
    };
    within("the reader is served", async { tokio::join!(reader.follow([]), say) }).await;
    assert_eq!(reader.answer.text, "more ".repeat(TOKENS));
    // One may be read just before its hint comes, on a machine that stood still,
    // and the end may be while that is made good for.
    assert!(without_hint().await <= before + 2.0, "hints were not enough");
}

in_both_modes! {
    /// Ordered by what comes first, as times say nothing on a busy machine.
    async fn a_stream_of_five_thousand_tokens_a_second_starves_nobody(builder: Builder) {
        let app = builder.start().await;
        let fast = app.say("[[tokens=40000]] [[rate=5000]]").await;
        let mut fast_reader = app.reader(&fast);
        fast_reader.connect(Cut::AfterEvents(3)).await.expect("connects");
        let mut slow = Vec::new();
        for _ in 0..10 {
            slow.push(app.say("[[tokens=40]] [[rate=20]]").await);
        }
        let slow_readers = async {
            let readers: Vec<_> = slow.iter().map(|posted| app.read(posted)).collect();
            (futures_util::future::join_all(readers).await, std::time::Instant::now())
        };
        let fast_reader = async {
            fast_reader.follow([]).await;
            (fast_reader, std::time::Instant::now())
        };
        let ((slow_readers, slow_ended), (fast_reader, fast_ended)) =
            tokio::join!(slow_readers, fast_reader);
        assert!(slow_ended < fast_ended, "two seconds of the slow took eight of the fast");
        assert!(fast_reader.answer == app.stored(&fast).await, "the fast text differs");
        for (reader, posted) in slow_readers.iter().zip(&slow) {
            assert_eq!(reader.answer, app.stored(posted).await);
        }
    }
}

/// `CLIENT LIST` without the test's own.
async fn connections(redis: &mut redis::aio::MultiplexedConnection) -> usize {
    let list: String =
        redis::cmd("CLIENT").arg("LIST").query_async(redis).await.expect("CLIENT LIST");
    list.lines().filter(|line| !line.contains("cmd=client|list")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_refused_by_acl_leave_streams_exact() {
    let server = PrivateRedis::start().await;
    let mut admin = connect_to_redis(&server.url()).await;
    // A user that may do everything but publish and subscribe.
    let _: () = redis::cmd("ACL")
        .arg(&["SETUSER", "nohints", "on", ">secret", "~*", "resetchannels", "+@all"])
        .query_async(&mut admin)
        .await
        .expect("ACL SETUSER");
    let url = server.url().replace("redis://", "redis://nohints:secret@");
    let app = App::builder().redis(url).start().await;
    let posted = app.say("[[tokens=60]] [[rate=60]]").await;
    let mut cut = app.reader(&posted);
    let (whole, ()) =
        tokio::join!(app.read(&posted), cut.follow([Cut::AfterEvents(7), Cut::AfterBytes(900)]));
    let stored = app.stored(&posted).await;
    assert_eq!(whole.answer, stored);
    assert_eq!(cut.answer, stored);
    app.api.logged("no wake-up hints").await;
    let _: Option<String> = admin.get("x").await.expect("GET");
}
