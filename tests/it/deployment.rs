//! Whose Redis and whose PostgreSQL: each connection is compared before it is used.

use redis::AsyncCommands;

use crate::support::{App, PrivateRedis, Process, eventually};

const OTHER: &str = "0198d5f0-7d1c-4cc2-9d5b-0a6c3f1e2b4a";

fn key(app: &App) -> String {
    format!("{}:deployment", app.name)
}

async fn deployment(app: &App) -> String {
    let id = sqlx::query_scalar("SELECT id::text FROM deployment").fetch_one(&app.pool).await;
    id.expect("reads")
}

/// Breaks all connections to a Redis, the test's own as well.
async fn cut(redis: &mut redis::aio::MultiplexedConnection) {
    for kind in ["normal", "pubsub"] {
        let mut command = redis::cmd("CLIENT");
        command.arg("KILL").arg("TYPE").arg(kind).arg("SKIPME").arg("yes");
        let _: i64 = command.query_async(redis).await.expect("CLIENT KILL");
    }
}

async fn ready(app: &App) -> bool {
    app.get("/readyz").await.0 == 200
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_redis_is_adopted_and_adopted_again_when_it_lost_everything() {
    let redis = PrivateRedis::start().await;
    let app = App::builder().redis(redis.url()).start().await;
    let posted = app.say("[[tokens=3]] [[rate=0]]").await;
    app.read(&posted).await;
    let mut admin = app.redis().await;
    let id: String = admin.get(key(&app)).await.expect("GET");
    assert_eq!(id, deployment(&app).await);
    let _: String = redis::cmd("FLUSHALL").query_async(&mut admin).await.expect("FLUSHALL");
    cut(&mut admin).await;
    eventually("it is adopted again", || {
        let (mut admin, key) = (admin.clone(), key(&app));
        async move { admin.exists::<_, bool>(key).await.expect("EXISTS") }
    })
    .await;
    let posted = app.say("[[tokens=3]] [[rate=0]]").await;
    assert_eq!(app.read(&posted).await.answer, app.stored(&posted).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_deployment_s_redis_is_refused_with_what_to_do() {
    let app = App::builder().workers(0).start().await;
    let mut redis = app.redis().await;
    let _: () = redis.set(key(&app), OTHER).await.expect("SET");
    for role in ["api", "worker", "up"] {
        let environment = [
            ("DATABASE_URL", app.database_url()),
            ("REDIS_URL", app.redis_url.clone()),
            ("RILL_REDIS_PREFIX", app.name.clone()),
            ("RILL_LISTEN", "127.0.0.1:0".to_owned()),
            ("OPENAI_BASE_URL", app.model_url.clone()),
            ("RILL_MODELS", "simulator".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value));
        let mut process = Process::start(&[role], &environment);
        assert!(!process.ended().await.success(), "{role} started");
        let log = process.log();
        for text in ["names another deployment", OTHER, "--redis-prefix", "DEL "] {
            assert!(log.contains(text), "{role} did not say {text:?}:\n{log}");
        }
    }
    // Operators' commands don't touch it either.
    let dead = format!("{}:{{jobs}}:generate:dead", app.name);
    let _: String = redis.xadd(&dead, "*", &[("why", "theirs")]).await.expect("XADD");
    let environment = [
        ("DATABASE_URL", app.database_url()),
        ("REDIS_URL", app.redis_url.clone()),
        ("RILL_REDIS_PREFIX", app.name.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    let mut drop = Process::start(&["dead", "drop", "--all"], &environment);
    assert!(!drop.ended().await.success());
    assert!(drop.log().contains("names another deployment"), "{}", drop.log());
    assert_eq!(redis.xlen::<_, usize>(&dead).await.expect("XLEN"), 1);
    // Nothing was written there.
    let jobs: bool = redis.exists(format!("{}:{{jobs}}:generate", app.name)).await.expect("EXISTS");
    assert!(!jobs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_became_another_deployment_s_is_not_used_until_it_is_ours_again() {
    let redis = PrivateRedis::start().await;
    let app = App::builder().redis(redis.url()).start().await;
    app.read(&app.say("[[tokens=3]] [[rate=0]]").await).await;
    let mut admin = app.redis().await;
    let ours: String = admin.get(key(&app)).await.expect("GET");
    let jobs = format!("{}:{{jobs}}:generate", app.name);
    // Readers learn of the end before the job is deleted.
    eventually("the job is deleted", || {
        let (mut admin, jobs) = (admin.clone(), jobs.clone());
        async move { admin.xlen::<_, usize>(jobs).await.expect("XLEN") == 0 }
    })
    .await;
    // As after a failover behind one address, to the wrong server.
    let _: () = admin.set(key(&app), OTHER).await.expect("SET");
    cut(&mut admin).await;
    app.api.logged("names another deployment").await;
    app.workers[0].logged("names another deployment").await;
    eventually("it isn't ready", || async { !ready(&app).await }).await;
    // Committed all the same, and in nobody else's queue.
    let posted = app.say("[[tokens=3]] [[rate=0]]").await;
    assert_eq!(admin.xlen::<_, usize>(&jobs).await.expect("XLEN"), 0);
    let _: () = admin.set(key(&app), ours).await.expect("SET");
    assert_eq!(app.read(&posted).await.answer, app.stored(&posted).await);
    eventually("ready again", || ready(&app)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_became_another_deployment_s_is_not_used_until_it_is_ours_again() {
    let app = App::builder().workers(0).start().await;
    let conversation = app.conversation().await;
    let ours = deployment(&app).await;
    let change = async |id: &str| {
        sqlx::query("UPDATE deployment SET id = $1::uuid")
            .bind(id)
            .execute(&app.pool)
            .await
            .expect("updates");
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'rill'",
        )
        .execute(&app.pool)
        .await
        .expect("terminates");
    };
    let read = format!("/v1/conversations/{conversation}");
    change(OTHER).await;
    // What was asked over a connection that broke is answered by 503 as well.
    eventually("its rows are nobody's, and it says why", || async {
        app.get(&read).await.0 == 503 && app.api.log().contains("is another deployment's")
    })
    .await;
    assert!(!ready(&app).await);
    change(&ours).await;
    eventually("they are ours", || async { app.get(&read).await.0 == 200 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_with_another_number_of_partitions_is_refused() {
    let app = App::builder().workers(0).start().await;
    sqlx::query("UPDATE deployment SET partitions = 128")
        .execute(&app.pool)
        .await
        .expect("updates");
    // As a newer version's migration would, beside which this one restarts.
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'newer', true, '\\x01', 0)",
    )
    .execute(&app.pool)
    .await
    .expect("inserts");
    let environment = [
        ("DATABASE_URL", app.database_url()),
        ("REDIS_URL", app.redis_url.clone()),
        ("RILL_REDIS_PREFIX", app.name.clone()),
        ("OPENAI_BASE_URL", app.model_url.clone()),
        ("RILL_MODELS", "simulator".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    let mut process = Process::start(&["worker"], &environment);
    assert!(!process.ended().await.success());
    assert!(process.log().contains("128 partitions"), "{}", process.log());
}
