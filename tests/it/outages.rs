//! PostgreSQL or Redis away: accepted is never lost, readers get exact text.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::in_both_modes;
use crate::support::{App, Builder, Cut, PrivateRedis, Proxy, eventually};

fn database() -> String {
    std::env::var("DATABASE_URL").expect("make test")
}

/// How many lines of a log are warnings or errors.
fn complaints(log: &str) -> usize {
    log.lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR")).count()
}

in_both_modes! {
    async fn redis_killed_mid_stream_costs_nothing_but_time(builder: Builder) {
        let mut redis = PrivateRedis::start().await;
        let app = builder.redis(redis.url()).start().await;
        let posted = app.say("[[tokens=240]] [[rate=40]]").await;
        let mut reader = app.reader(&posted);
        reader.connect(Cut::AfterEvents(20)).await.expect("connects");
        redis.kill();
        // Accepted all the same, and run when Redis is back.
        let started = Instant::now();
        let meanwhile = app.say("[[tokens=10]] [[rate=0]]").await;
        let took = started.elapsed();
        // It happens to every process: taking them out of service would only end more.
        eventually("degraded", || async { app.get("/readyz").await.1["status"] == "degraded" }).await;
        assert_eq!(app.get("/readyz").await.0, 200);
        assert_eq!(app.get("/healthz").await.0, 200);
        redis.launch().await;
        reader.follow([Cut::AfterEvents(50)]).await;
        assert_eq!(reader.end.as_ref().expect("ended").event, "done");
        assert_eq!(reader.answer, app.stored(&posted).await);
        assert_eq!(app.task(&posted).await["attempts"], 1);
        let late = app.read(&meanwhile).await;
        assert_eq!(late.answer, app.stored(&meanwhile).await);
        println!("accepting without Redis took {took:?}");
        assert!(complaints(&app.api.log()) < 60 && complaints(&app.workers[0].log()) < 60);
    }

    async fn everything_that_redis_held_can_be_lost(builder: Builder) {
        let redis = PrivateRedis::start().await;
        let mut app = builder.redis(redis.url()).workers(0).start().await;
        let waiting = app.say("[[tokens=10]] [[rate=0]]").await;
        flush(&app).await;
        app.start_worker();
        // Its job is gone; PostgreSQL knows.
        assert_eq!(app.read(&waiting).await.answer, app.stored(&waiting).await);

        let posted = app.say("[[tokens=160]] [[rate=40]]").await;
        let mut reader = app.reader(&posted);
        reader.connect(Cut::AfterEvents(20)).await.expect("connects");
        let mut live = app.reader(&posted);
        let (_, ()) = tokio::join!(live.follow([]), async {
            flush(&app).await;
            reader.follow([]).await;
        });
        let stored = app.stored(&posted).await;
        assert_eq!(reader.answer, stored);
        assert_eq!(live.answer, stored);
        assert_eq!(app.read(&posted).await.answer, stored);
        assert_eq!(app.task(&posted).await["attempts"], 1);
    }

    async fn connections_to_redis_cut_again_and_again_lose_nothing(builder: Builder) {
        let redis = PrivateRedis::start().await;
        let proxy = Proxy::before(&redis.url()).await;
        let app = builder.redis(redis.url()).redis_through(proxy.address()).start().await;
        let posted = app.say("[[tokens=200]] [[rate=50]]").await;
        let mut reader = app.reader(&posted);
        let cutting = async {
            loop {
                tokio::time::sleep(Duration::from_millis(600)).await;
                proxy.cut();
            }
        };
        tokio::select! {
            () = reader.follow([]) => {}
            () = cutting => {}
        }
        assert_eq!(reader.answer, app.stored(&posted).await);
    }

    async fn postgresql_away_mid_stream_delays_only_the_end(builder: Builder) {
        let database = Proxy::before(&database()).await;
        let app = builder.database_through(database.address()).start().await;
        let posted = app.say("[[tokens=60]] [[rate=40]]").await;
        let mut reader = app.reader(&posted);
        reader.connect(Cut::AfterEvents(10)).await.expect("connects");
        let mut live = app.reader(&posted);
        live.cursor.clone_from(&reader.cursor);
        live.answer.clone_from(&reader.answer);
        live.connect(Cut::AfterEvents(1)).await.expect("connects");
        let following = live.connect(Cut::AfterEvents(40));
        tokio::pin!(following);
        tokio::select! {
            _ = &mut following => panic!("the stream was over before PostgreSQL went"),
            () = async { database.take_away() } => {}
        }
        // Tokens still stream, for who is there already.
        following.await.expect("streams on");
        let request = app.client.post(format!("{}/v1/conversations", app.url)).json(&json!({}));
        let response = request.send().await.expect("answers");
        assert_eq!(response.status().as_u16(), 503);
        assert!(response.headers().contains_key("retry-after"));
        assert_eq!(app.get("/readyz").await.0, 503);
        database.bring_back();
        reader.follow([]).await;
        assert_eq!(reader.end.as_ref().expect("ended").event, "done");
        assert_eq!(reader.answer, app.stored(&posted).await);
        assert_eq!(app.task(&posted).await["attempts"], 1, "a healthy run was taken over");
        eventually("ready again", || async { app.get("/readyz").await.0 == 200 }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobodys_healthy_run_is_stolen_when_postgresql_comes_back() {
    let database = Proxy::before(&database()).await;
    let app = App::builder().workers(3).database_through(database.address()).start().await;
    eventually("all workers are steady for a lease", || async {
        sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM workers WHERE steady_since <= now() - interval '3 s'",
        )
        .fetch_one(&app.pool)
        .await
        .expect("counts")
            == 3
    })
    .await;
    let posted = app.say("[[tokens=400]] [[rate=30]]").await;
    let mut reader = app.reader(&posted);
    reader.connect(Cut::AfterEvents(10)).await.expect("connects");
    database.take_away();
    // Longer than the lease: every worker looks dead to every other.
    eventually("the last heartbeat is older than a lease", || async {
        sqlx::query_scalar::<_, bool>(
            "SELECT bool_and(heartbeat_at < now() - interval '4 s') FROM workers",
        )
        .fetch_one(&app.pool)
        .await
        .expect("reads")
    })
    .await;
    database.bring_back();
    reader.follow([]).await;
    assert_eq!(reader.answer, app.stored(&posted).await);
    let task = app.task(&posted).await;
    assert_eq!((&task["attempts"], &task["failures"]), (&1.into(), &0.into()), "{task}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_work_again_after_redis_was_away() {
    let redis = PrivateRedis::start().await;
    let proxy = Proxy::before(&redis.url()).await;
    let app = App::builder().redis(redis.url()).redis_through(proxy.address()).start().await;
    let posted = app.say("[[tokens=400]] [[rate=30]]").await;
    let mut reader = app.reader(&posted);
    reader.connect(Cut::AfterEvents(10)).await.expect("connects");
    let outage = async {
        proxy.take_away();
        app.api.logged("task streams can't be read").await;
        proxy.bring_back();
        // One that was there before, and read by blocking reads at worst.
        eventually("it is read on", || async { app.metric("rill_readers_open", "").await > 0.0 })
            .await;
        let hinted = || app.metric("rill_tail_reads_total", "hint");
        let before = hinted().await;
        eventually("it is read because of hints", || async { hinted().await > before + 20.0 })
            .await;
    };
    tokio::join!(reader.follow([]), outage);
    assert_eq!(reader.answer, app.stored(&posted).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overdue_tasks_end_together_while_redis_is_away() {
    let mut redis = PrivateRedis::start().await;
    let mut app = App::builder().redis(redis.url()).workers(0).start().await;
    let conversation = app.conversation().await;
    let say = |_| app.say_in(&conversation, json!({ "content": "[[tokens=5]]" }));
    futures_util::future::join_all((0..200).map(say)).await;
    // Some had begun, under a worker that is gone.
    sqlx::query(
        "UPDATE tasks SET deadline_at = now() - interval '1 h',
                status = CASE WHEN n <= 20 THEN 'running' ELSE status END,
                attempt = CASE WHEN n <= 20 THEN 1 ELSE 0 END
         FROM (SELECT id AS numbered, row_number() OVER () AS n FROM tasks) AS numbers
         WHERE id = numbered",
    )
    .execute(&app.pool)
    .await
    .expect("updates");
    redis.kill();
    app.start_worker();
    eventually("all have ended", || async {
        let open = "SELECT count(*) FROM tasks WHERE status <> 'failed'";
        sqlx::query_scalar::<_, i64>(open).fetch_one(&app.pool).await.expect("counts") == 0
    })
    .await;
    let took: f64 = sqlx::query_scalar(
        "SELECT extract(epoch FROM max(finished_at) - min(finished_at))::float8 FROM tasks",
    )
    .fetch_one(&app.pool)
    .await
    .expect("times");
    println!("200 overdue tasks ended within {took:.1} s");
    let unbegun_first: bool = sqlx::query_scalar(
        "SELECT max(finished_at) FILTER (WHERE started_at IS NULL AND attempt = 1)
              < min(finished_at) FILTER (WHERE attempt = 2) FROM tasks",
    )
    .fetch_one(&app.pool)
    .await
    .expect("times");
    assert!(unbegun_first);
}

async fn flush(app: &App) {
    let mut redis = app.redis().await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut redis).await.expect("FLUSHALL");
}
