//! What the cases have in common: a process that reaches the servers through
//! proxies of its own, the fault, somebody sound who takes over, and the checks.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use futures_util::{FutureExt, StreamExt, stream};
use redis::streams::StreamRangeReply;
use redis::{AsyncCommands, RedisResult};

use crate::support::{App, Builder, Posted, Process, Proxy, Reader, eventually};

/// Cases of one test that run at the same time.
const AT_ONCE: usize = 4;

/// What is done to the process under fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGKILL.
    Killed,
    /// Its connections are cut; it lives.
    Cut,
}

/// An app, and proxies for the process under fault.
pub(super) struct Stage {
    pub(super) app: App,
    pub(super) redis: Proxy,
    pub(super) database: Proxy,
    /// Options of its workers.
    options: Vec<(String, String)>,
    victim: Victim,
    /// Of the model, before this case.
    calls: u64,
}

/// The worker that the fault will hit, once it has a process.
#[derive(Debug, Clone, Default)]
pub(super) struct Victim(Arc<Mutex<Option<i32>>>);

impl Victim {
    /// SIGSTOP: what is about to be killed must not go on until the test, on a
    /// machine that is busy, has its turn to do it.
    pub(super) fn halt(&self) {
        let pid = self.0.lock().expect("a pid").and_then(rustix::process::Pid::from_raw);
        let halted = rustix::process::Signal::STOP;
        rustix::process::kill_process(pid.expect("it was started"), halted).expect("it runs");
    }
}

/// Apps for one case after another: making a database takes longer than most.
#[derive(Default)]
pub(super) struct Stages(Mutex<Vec<App>>);

impl Stages {
    /// A stage whose workers have these options.
    pub(super) async fn set(&self, options: &[(&str, &str)]) -> Stage {
        let app = self.0.lock().expect("apps").pop();
        let mut stage = match app {
            Some(app) => {
                let (redis, database) = proxies(&app.redis_url).await;
                let calls = app.model_calls().await;
                Stage {
                    app,
                    redis,
                    database,
                    options: Vec::new(),
                    victim: Victim::default(),
                    calls,
                }
            }
            None => Stage::set(App::builder()).await,
        };
        stage.options = options.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        stage
    }

    /// The case is over, and went well: the next one finds nothing of it.
    pub(super) async fn clear(&self, stage: Stage) {
        let Stage { mut app, .. } = stage;
        app.workers.clear();
        sqlx::query("DELETE FROM workers").execute(&app.pool).await.expect("deletes");
        let _: () = app.redis().await.del(dead(&app)).await.expect("DEL");
        self.0.lock().expect("apps").push(app);
    }
}

impl Stage {
    /// The API is sound; workers are started one by one.
    pub(super) async fn set(builder: Builder) -> Self {
        let (redis, database) = proxies(&builder.redis_url()).await;
        Self::of(builder.workers(0).start().await, redis, database)
    }

    fn of(app: App, redis: Proxy, database: Proxy) -> Self {
        Self { app, redis, database, options: Vec::new(), victim: Victim::default(), calls: 0 }
    }

    /// The API is the process under fault.
    pub(super) async fn set_with_api_under_fault(builder: Builder) -> Self {
        let (redis, database) = proxies(&builder.redis_url()).await;
        let builder = builder.redis_through(redis.address());
        let builder = builder.database_through(database.address());
        Self::of(builder.workers(0).start().await, redis, database)
    }

    /// A worker that the fault will hit.
    pub(super) fn start_under_fault(&mut self) {
        let (redis, database) = (self.redis.address(), self.database.address());
        let victim = self.victim.clone();
        // Whoever halts it waits until it can be.
        let mut victim = victim.0.lock().expect("a pid");
        self.start(Some(redis), Some(database));
        *victim = self.app.workers.last().map(Process::pid);
    }

    pub(super) fn victim(&self) -> Victim {
        self.victim.clone()
    }

    /// A worker whom nothing befalls.
    pub(super) fn start_sound(&mut self) {
        self.start(None, None);
    }

    /// A worker that reaches the servers at these addresses, if not directly.
    pub(super) fn start(&mut self, redis: Option<SocketAddr>, database: Option<SocketAddr>) {
        let redis = redis.map_or(self.app.redis_url.clone(), |proxy| format!("redis://{proxy}"));
        let mut url = reqwest::Url::parse(&self.app.database_url()).expect("a URL");
        if let Some(proxy) = database {
            url.set_ip_host(proxy.ip()).expect("a host");
            url.set_port(Some(proxy.port())).expect("a port");
        }
        let mut options = self.options.clone();
        options.push(("REDIS_URL".to_owned(), redis));
        options.push(("DATABASE_URL".to_owned(), url.to_string()));
        let options: Vec<_> = options.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        self.app.start_worker_with(&options);
    }

    /// [`ended_well`], with the calls of the model in this case.
    pub(super) async fn ended_well(&self, posted: &Posted, reader: &Reader, expected: &Expected) {
        let (least, most) = (expected.calls.start(), expected.calls.end());
        let calls = self.calls + least..=self.calls + most;
        ended_well(&self.app, posted, reader, &Expected { calls, ..expected.clone() }).await;
    }

    /// The fault, to the worker that was started last.
    pub(super) fn strike(&mut self, fault: Fault) {
        if fault == Fault::Killed {
            self.app.workers.last_mut().expect("a worker").kill();
        }
        self.redis.cut();
        self.database.cut();
    }
}

async fn proxies(redis_url: &str) -> (Proxy, Proxy) {
    let database = std::env::var("DATABASE_URL").expect("make test");
    (Proxy::before(redis_url).await, Proxy::before(&database).await)
}

/// As short as a lease can be on a machine that is busy.
pub(super) fn with_short_lease(builder: Builder) -> Builder {
    builder.with("RILL_LEASE", "1500ms").with("RILL_HEARTBEAT", "400ms")
}

/// Waits until so many workers have been steady for a lease (milliseconds), and
/// so may judge.
pub(super) async fn steady(app: &App, workers: i64, lease: u64) {
    eventually("the workers are steady for a lease", || async {
        sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM workers WHERE steady_since <= now() - $1 * interval '1 ms'",
        )
        .bind(i64::try_from(lease).expect("small"))
        .fetch_one(&app.pool)
        .await
        .expect("counts")
            == workers
    })
    .await;
}

/// The relay leaves the tasks alone for seconds, so that each has one job. Not for
/// ever: a worker that is killed between its heartbeat and the renewal of its jobs
/// seems to live when its job is claimed, which is then taken for a duplicate.
pub(super) async fn without_relay(app: &App) {
    sqlx::query("UPDATE tasks SET enqueued_at = now() + interval '10 s'")
        .execute(&app.pool)
        .await
        .expect("updates");
}

/// What a task must have come to.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) end: &'static str,
    pub(super) attempts: u64,
    /// Failures, and workers lost.
    pub(super) failures: u64,
    pub(super) calls: RangeInclusive<u64>,
    pub(super) letters: usize,
}

/// Everything that holds of a task that has ended, whatever happened to it.
/// `reader` has followed it from its start.
pub(super) async fn ended_well(app: &App, posted: &Posted, reader: &Reader, expected: &Expected) {
    let end = reader.end.as_ref().expect("the reader saw the end");
    assert_eq!(end.event, expected.end, "{:?}", reader.events);
    let ends = ["done", "failed", "cancelled"].map(|event| reader.count(event));
    assert_eq!(ends.iter().sum::<usize>(), 1, "{:?}", reader.events);
    let task = app.task(posted).await;
    assert_eq!(task["status"], expected.end, "{task}");
    let counts = (task["attempts"].as_u64(), app.charges(posted).await);
    assert_eq!(counts, (Some(expected.attempts), expected.failures), "{task}");
    let calls = app.model_calls().await;
    assert!(expected.calls.contains(&calls), "{calls} calls of the model, not {expected:?}");
    assert_eq!(answers(app, posted).await, 1);
    let stored = app.stored(posted).await;
    assert_eq!(reader.answer, stored, "live");
    let late = app.read(posted).await;
    assert_eq!(late.answer, stored, "late");
    assert_eq!(late.end.as_ref().expect("ended"), end, "late");
    the_queue_is_empty(app).await;
    assert_eq!(letters(app).await.ids.len(), expected.letters, "dead letters");
    assert_eq!(app.task(posted).await, task, "it changed after its end");
}

/// How many answers there are to a message.
pub(super) async fn answers(app: &App, posted: &Posted) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM messages WHERE conversation_id = $1::uuid AND role = 'assistant'",
    )
    .bind(&posted.conversation)
    .fetch_one(&app.pool)
    .await
    .expect("counts")
}

/// The key of the job stream.
pub(super) fn jobs(app: &App) -> String {
    format!("{}:{{jobs}}:generate", app.name)
}

/// Waits until no job is left, waiting or pending.
pub(super) async fn the_queue_is_empty(app: &App) {
    let (redis, jobs) = (app.redis().await, jobs(app));
    eventually("no job is left", || {
        let (mut redis, jobs) = (redis.clone(), jobs.clone());
        async move {
            let pending: RedisResult<(u64, redis::Value, redis::Value, redis::Value)> =
                redis::cmd("XPENDING").arg(&jobs).arg("workers").query_async(&mut redis).await;
            let left: u64 = redis.xlen(&jobs).await.expect("XLEN");
            left == 0 && pending.map_or(true, |(pending, ..)| pending == 0)
        }
    })
    .await;
}

/// The dead letters.
pub(super) async fn letters(app: &App) -> StreamRangeReply {
    app.redis().await.xrange_all(dead(app)).await.expect("XRANGE")
}

fn dead(app: &App) -> String {
    format!("{}:dead", jobs(app))
}

/// A task's stream as it is stored: IDs, names, data.
pub(super) async fn entries(app: &App, posted: &Posted) -> Vec<(String, String, String)> {
    let stored: StreamRangeReply =
        app.redis().await.xrange_all(app.stream_key(posted)).await.expect("XRANGE");
    let field = |entry: &redis::streams::StreamId, name| entry.get(name).expect("a field");
    stored
        .ids
        .iter()
        .map(|entry| (entry.id.clone(), field(entry, "e"), field(entry, "d")))
        .collect()
}

/// Plays cases, some at a time, a line each; says which failed.
pub(super) async fn play<F: Future<Output = ()>>(cases: impl IntoIterator<Item = (String, F)>) {
    let played = cases.into_iter().map(|(name, case)| async move {
        let started = std::time::Instant::now();
        let outcome = AssertUnwindSafe(case).catch_unwind().await;
        println!(
            "{name}: {} in {:?}",
            ["FAILED", "ok"][usize::from(outcome.is_ok())],
            started.elapsed()
        );
        outcome.is_err().then_some(name)
    });
    let played: Vec<_> = stream::iter(played).buffer_unordered(AT_ONCE).collect().await;
    let failed: Vec<_> = played.into_iter().flatten().collect();
    assert!(failed.is_empty(), "these cases failed, see above why: {failed:#?}");
}
