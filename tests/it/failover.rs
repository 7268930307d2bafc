//! Another server behind the same address: a replica of Redis or a standby of
//! PostgreSQL is promoted, and who was primary keeps its connections.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::in_both_modes;
use crate::support::{
    App, Builder, Cut, Posted, PrivatePostgres, PrivateRedis, Proxy, Reader, connect_to_redis,
    eventually, within,
};

/// Two servers of Redis, the second a replica of the first, behind a switch.
struct RedisPair {
    servers: [PrivateRedis; 2],
    switch: Proxy,
    primary: usize,
}

impl RedisPair {
    async fn start() -> Self {
        let servers = [PrivateRedis::start().await, PrivateRedis::start().await];
        let switch = Proxy::before(&servers[0].url()).await;
        let pair = Self { servers, switch, primary: 0 };
        pair.follow(1, 0).await;
        pair
    }

    fn url(&self) -> String {
        self.servers[self.primary].url()
    }

    /// Makes one a replica of the other, and waits until it has caught up.
    async fn follow(&self, replica: usize, primary: usize) {
        let mut redis = connect_to_redis(&self.servers[replica].url()).await;
        let url = reqwest::Url::parse(&self.servers[primary].url()).expect("a URL");
        let port = url.port().expect("a port").to_string();
        replica_of(&mut redis, &["127.0.0.1", &port]).await;
        eventually("the replica has caught up", || {
            let mut redis = redis.clone();
            async move {
                let info: String = redis::cmd("INFO")
                    .arg("replication")
                    .query_async(&mut redis)
                    .await
                    .unwrap_or_default();
                info.contains("master_link_status:up")
            }
        })
        .await;
    }

    /// The replica becomes primary, the primary its replica, and new connections
    /// lead to the one that is primary now.
    async fn fail_over(&mut self) {
        let (old, new) = (self.primary, 1 - self.primary);
        let mut promoted = connect_to_redis(&self.servers[new].url()).await;
        replica_of(&mut promoted, &["NO", "ONE"]).await;
        self.switch.lead_to(&self.servers[new].url());
        self.primary = new;
        let mut demoted = connect_to_redis(&self.servers[old].url()).await;
        let url = reqwest::Url::parse(&self.servers[new].url()).expect("a URL");
        let port = url.port().expect("a port").to_string();
        replica_of(&mut demoted, &["127.0.0.1", &port]).await;
    }
}

async fn replica_of(redis: &mut redis::aio::MultiplexedConnection, whom: &[&str]) {
    let _: String = redis::cmd("REPLICAOF").arg(whom).query_async(redis).await.expect("REPLICAOF");
}

/// Two servers of PostgreSQL, the second a standby of the first, behind a switch.
struct PostgresPair {
    servers: [PrivatePostgres; 2],
    switch: Proxy,
}

#[derive(Clone, Copy, PartialEq)]
enum Replication {
    Synchronous,
    Asynchronous,
}

impl PostgresPair {
    async fn start(replication: Replication) -> Self {
        let primary = PrivatePostgres::start();
        let standby = PrivatePostgres::standby_of(primary.url());
        let switch = Proxy::before(primary.url()).await;
        if replication == Replication::Synchronous {
            primary
                .execute(&[
                    "ALTER SYSTEM SET synchronous_standby_names = '*'",
                    "SELECT pg_reload_conf()",
                ])
                .await;
        }
        Self { servers: [primary, standby], switch }
    }

    /// What is committed from now on never reaches the standby.
    async fn stop_replicating(&self) {
        let [primary, standby] = &self.servers;
        standby
            .execute(&["ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"])
            .await;
        eventually("nothing is replicated", || async {
            let pool = sqlx::PgPool::connect(primary.url()).await.expect("PostgreSQL answers");
            sqlx::query_scalar::<_, i64>("SELECT count(*) FROM pg_stat_replication")
                .fetch_one(&pool)
                .await
                .expect("counts")
                == 0
        })
        .await;
    }

    /// The standby is promoted, who was primary refuses to write and keeps its
    /// connections, and new ones lead to the promoted one.
    async fn fail_over(&self) {
        let [old, new] = &self.servers;
        // Nobody waits for a standby that is none any more.
        old.execute(&[
            "ALTER SYSTEM SET default_transaction_read_only = on",
            "ALTER SYSTEM SET synchronous_standby_names = ''",
            "SELECT pg_reload_conf()",
        ])
        .await;
        new.execute(&["SELECT pg_promote()"]).await;
        self.switch.lead_to(new.url());
    }

    /// The promoted one, for what the test looks at.
    fn look_at_the_promoted(&self, app: &mut App) {
        let mut url = reqwest::Url::parse(self.servers[1].url()).expect("a URL");
        url.set_path(&app.name);
        app.pool = sqlx::PgPool::connect_lazy(url.as_str()).expect("a URL");
    }

    async fn app(&self, builder: Builder) -> App {
        let app = builder
            .database(self.servers[0].url())
            .database_through(self.switch.address())
            .start()
            .await;
        // The promoted one needs it, too.
        within("the database is replicated", async {
            let mut url = reqwest::Url::parse(self.servers[1].url()).expect("a URL");
            url.set_path(&app.name);
            while sqlx::PgPool::connect(url.as_str()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        app
    }
}

async fn readiness(app: &App) -> (u16, Value) {
    let (status, body) = app.get("/readyz").await;
    (status, body)
}

/// A message that is accepted at last: until then the answer is 503.
async fn accepted(app: &App, prompt: &str) -> Posted {
    within("a message is accepted", async {
        loop {
            if let Some(posted) = app.try_say(prompt).await {
                return posted;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

async fn is_exact(app: &App, reader: &Reader, posted: &Posted) {
    assert_eq!(reader.end.as_ref().expect("ended").event, "done", "{:?}", reader.events);
    let stored = app.stored(posted).await;
    assert_eq!(reader.answer, stored);
    assert_eq!(app.read(posted).await.answer, stored, "late");
}

in_both_modes! {
    async fn a_replica_of_redis_that_is_promoted_takes_over_within_seconds(builder: Builder) {
        let mut redis = RedisPair::start().await;
        let app = builder.redis(redis.url()).redis_through(redis.switch.address()).workers(2).start().await;
        let posted = app.say("[[tokens=200]] [[rate=40]]").await;
        let mut reader = app.reader(&posted);
        reader.connect(Cut::AfterEvents(20)).await.expect("connects");
        let mut live = app.reader(&posted);
        let failing = async {
            redis.fail_over().await;
            // What is accepted meanwhile is answered as well.
            let meanwhile = accepted(&app, "[[tokens=10]] [[rate=0]]").await;
            let late = app.read(&meanwhile).await;
            is_exact(&app, &late, &meanwhile).await;
            eventually("ready", || async { readiness(&app).await.1["status"] == "ok" }).await;
        };
        tokio::join!(live.follow([]), failing);
        reader.follow([]).await;
        is_exact(&app, &reader, &posted).await;
        is_exact(&app, &live, &posted).await;
        assert_eq!(app.task(&posted).await["attempts"], 1, "a healthy run was taken over");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_of_postgresql_that_is_promoted_takes_over_and_has_lost_nothing() {
    let postgres = PostgresPair::start(Replication::Synchronous).await;
    let mut app = postgres.app(App::builder().workers(2)).await;
    let posted = app.say("[[tokens=200]] [[rate=40]]").await;
    let mut reader = app.reader(&posted);
    reader.connect(Cut::AfterEvents(20)).await.expect("connects");
    postgres.fail_over().await;
    postgres.look_at_the_promoted(&mut app);
    let meanwhile = accepted(&app, "[[tokens=10]] [[rate=0]]").await;
    let late = app.read(&meanwhile).await;
    is_exact(&app, &late, &meanwhile).await;
    reader.follow([]).await;
    is_exact(&app, &reader, &posted).await;
    assert_eq!(app.task(&posted).await["attempts"], 1, "a healthy run was taken over");
    eventually("ready", || async { readiness(&app).await.0 == 200 }).await;
    assert!(!app.workers[0].log().contains("ERROR"), "{}", app.workers[0].log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_that_only_reads_is_told_of_and_waited_for() {
    let postgres = PrivatePostgres::start();
    let app = App::builder().database(postgres.url()).start().await;
    let posted = app.say("[[tokens=3]] [[rate=0]]").await;
    app.read(&posted).await;
    eventually("ready", || async { readiness(&app).await.0 == 200 }).await;
    postgres
        .execute(&[
            "ALTER SYSTEM SET default_transaction_read_only = on",
            "SELECT pg_reload_conf()",
        ])
        .await;
    eventually("not ready", || async { readiness(&app).await.0 == 503 }).await;
    let detail = readiness(&app).await.1["detail"].clone();
    assert!(detail.as_str().expect("text").contains("PostgreSQL: read-only"), "{detail}");
    let url = format!("{}/v1/conversations", app.url);
    let refused = app.client.post(url).json(&serde_json::json!({})).send().await.expect("answers");
    assert_eq!(refused.status().as_u16(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    // What was answered before is still read.
    assert_eq!(app.task(&posted).await["status"], "done");
    postgres
        .execute(&["ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()"])
        .await;
    eventually("ready", || async { readiness(&app).await.0 == 200 }).await;
    let posted = app.say("[[tokens=3]] [[rate=0]]").await;
    is_exact(&app, &app.read(&posted).await, &posted).await;
    let log = app.api.log() + &app.workers[0].log();
    assert!(!log.contains("ERROR"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_only_reads_is_not_ready_and_one_that_is_away_takes_no_readers_away() {
    let mut redis = PrivateRedis::start().await;
    let app = App::builder().redis(redis.url()).start().await;
    let posted = app.say("[[tokens=3]] [[rate=0]]").await;
    app.read(&posted).await;
    eventually("ready", || async { readiness(&app).await.1["status"] == "ok" }).await;
    assert_eq!(readiness(&app).await.1["workers"], 1);
    let mut admin = connect_to_redis(&redis.url()).await;
    replica_of(&mut admin, &["127.0.0.1", "1"]).await;
    eventually("not ready", || async { readiness(&app).await.0 == 503 }).await;
    let detail = readiness(&app).await.1["detail"].to_string();
    assert!(detail.contains("commands: ") && detail.contains("PostgreSQL: ok"), "{detail}");
    replica_of(&mut admin, &["NO", "ONE"]).await;
    eventually("ready", || async { readiness(&app).await.1["status"] == "ok" }).await;
    redis.kill();
    eventually("degraded", || async {
        let (status, body) = readiness(&app).await;
        assert_eq!(status, 200, "{body}");
        body["status"] == "degraded"
    })
    .await;
    redis.launch().await;
    eventually("ready", || async { readiness(&app).await.1["status"] == "ok" }).await;
}

/// A standby that is promoted without the newest commits hands the number of an
/// attempt out again, whose owner lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_s_number_that_is_handed_out_again_never_has_two_writers() {
    let postgres = PostgresPair::start(Replication::Asynchronous).await;
    // Its heartbeat would tell the first owner before anybody else begins.
    let options = [("RILL_LEASE", "8s"), ("RILL_HEARTBEAT", "2500ms")];
    let builder = options.iter().fold(App::builder().workers(0), |b, (n, v)| b.with(n, v));
    let mut app = postgres.app(builder).await;
    let posted = app.say("[[tokens=400]] [[rate=40]]").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    postgres.stop_replicating().await;
    app.start_worker();
    let mut reader = app.reader(&posted);
    reader.connect(Cut::AfterEvents(20)).await.expect("connects");
    postgres.fail_over().await;
    postgres.look_at_the_promoted(&mut app);
    assert_eq!(app.task(&posted).await["attempts"], 0, "the standby has not got the attempt");
    // Somebody else takes it up at once.
    app.start_worker();
    add_job(&app, &posted).await;
    reader.follow([]).await;
    is_exact(&app, &reader, &posted).await;
    let starts: Vec<_> = reader.events.iter().filter(|sse| sse.event == "started").collect();
    let mut ids: Vec<_> = starts.iter().map(|sse| sse.id.clone()).collect();
    ids.dedup();
    assert_eq!(ids.len(), starts.len(), "one start a number: {starts:?}");
    let attempts = app.task(&posted).await["attempts"].as_u64().expect("a number");
    println!("attempts: {attempts}, starts: {ids:?}");
}

async fn add_job(app: &App, posted: &Posted) {
    use redis::AsyncCommands;
    let jobs = format!("{}:{{jobs}}:generate", app.name);
    let fields = [("task", posted.task.as_str())];
    let _: String = app.redis().await.xadd(jobs, "*", &fields).await.expect("XADD");
}

/// From the switch to the first message that is accepted and to the next token that
/// a reader sees, twenty times for each store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: make failover"]
async fn failover_times() {
    let mut redis = RedisPair::start().await;
    let app = App::builder()
        .redis(redis.url())
        .redis_through(redis.switch.address())
        .with("RILL_LEASE", "15s")
        .with("RILL_HEARTBEAT", "5s")
        .start()
        .await;
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..20 {
        let (token, message) = times(&app, async {
            redis.fail_over().await;
            Instant::now()
        })
        .await;
        figures[0].push(token);
        figures[1].push(message);
        redis.follow(1 - redis.primary, redis.primary).await;
    }
    print("Redis: first token", &mut figures[0]);
    print("Redis: first message", &mut figures[1]);
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..20 {
        let postgres = PostgresPair::start(Replication::Synchronous).await;
        let builder = App::builder().with("RILL_LEASE", "15s").with("RILL_HEARTBEAT", "5s");
        let app = postgres.app(builder).await;
        let (token, message) = times(&app, async {
            postgres.fail_over().await;
            Instant::now()
        })
        .await;
        figures[0].push(token);
        figures[1].push(message);
    }
    print("PostgreSQL: first token", &mut figures[0]);
    print("PostgreSQL: first message", &mut figures[1]);
}

/// How long after the switch a reader's next token came, of an answer that was under
/// way, and a message was accepted.
async fn times(app: &App, fail_over: impl Future<Output = Instant>) -> (Duration, Duration) {
    let posted = app.say("[[tokens=2000]] [[rate=100]]").await;
    let mut reader = app.reader(&posted);
    reader.connect(Cut::AfterEvents(20)).await.expect("connects");
    let switched = fail_over.await;
    let token = async {
        // What was on its way counts for nothing: ten further events.
        while reader.connect(Cut::AfterEvents(10)).await.is_err() {}
        switched.elapsed()
    };
    let message = async {
        accepted(app, "[[tokens=1]] [[rate=0]]").await;
        switched.elapsed()
    };
    let times = tokio::join!(token, message);
    app.cancel(&posted).await;
    times
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |share: f64| {
        times[((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1]
    };
    println!(
        "{what}: p50 {:.2?}, p90 {:.2?}, highest {:.2?} of {}",
        at(0.5),
        at(0.9),
        at(1.0),
        times.len()
    );
}
