//! Clocks jump by an hour, forward and back. Leases and deadlines are on
//! PostgreSQL's clock, waits on monotonic ones; nobody compares two machines'.
//!
//! Needs libfaketime, which `make test` installs.

use std::path::PathBuf;

use crate::in_both_modes;
use crate::support::{App, Builder, Cut, Posted, PrivateRedis, Reader, eventually};

const HOUR: i64 = 3600;

/// A clock that jumps; for every process that has its environment.
struct Clock {
    offset: PathBuf,
    libraries: String,
}

impl Clock {
    fn new() -> Self {
        let clock = Self {
            offset: std::env::temp_dir().join(format!("rill-clock-{}", uuid::Uuid::new_v4())),
            // Redis' jemalloc asks for the time before libfaketime can tell.
            libraries: format!("{}:libc.so.6", library().display()),
        };
        clock.jump(0);
        clock
    }

    /// To so many seconds from the real time.
    fn jump(&self, seconds: i64) {
        let new = self.offset.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n")).expect("writes");
        // At once: nobody reads half of it.
        std::fs::rename(new, &self.offset).expect("renames");
    }

    fn environment(&self) -> [(&'static str, &str); 4] {
        [
            ("LD_PRELOAD", &self.libraries),
            ("FAKETIME_TIMESTAMP_FILE", self.offset.to_str().expect("a path")),
            ("FAKETIME_NO_CACHE", "1"),
            // No machine's monotonic clock jumps.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.offset);
    }
}

/// macOS protects its programs from being preloaded into.
fn works_here() -> bool {
    if cfg!(target_os = "macos") {
        println!("not tested: macOS has no LD_PRELOAD for this");
    }
    !cfg!(target_os = "macos")
}

/// The variant for programs with threads.
fn library() -> PathBuf {
    const NAME: &str = "faketime/libfaketimeMT.so.1";
    let multiarch = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut places = multiarch
        .map(|entry| entry.path())
        .chain(["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from));
    places
        .find_map(|place| Some(place.join(NAME)).filter(|library| library.exists()))
        .expect("libfaketime is missing: scripts/install faketime")
}

/// Everybody gets everything, and no attempt was taken from its worker.
async fn are_exact(app: &App, tasks: &[Posted], readers: Vec<Reader>) {
    for reader in readers {
        let posted = tasks.iter().find(|task| reader.url.contains(&task.task)).expect("its task");
        assert_eq!(reader.end.as_ref().expect("ended").event, "done");
        assert!(reader.answer == app.stored(posted).await, "{} differs", reader.url);
        let task = app.task(posted).await;
        let tries = (&task["attempts"], &task["failures"]);
        assert_eq!(tries, (&1.into(), &0.into()), "a healthy run was taken over: {task}");
    }
}

/// Tasks that stream: with a reader each that stays, and one that comes back.
async fn streaming(app: &App, count: usize) -> (Vec<Posted>, Vec<Reader>) {
    let (mut tasks, mut readers) = (Vec::new(), Vec::new());
    for seed in 0..count {
        let posted = app.say(&format!("[[tokens=120]] [[rate=30]] [[seed={seed}]]")).await;
        let mut reader = app.reader(&posted);
        reader.connect(Cut::AfterEvents(5)).await.expect("connects");
        readers.push(app.reader(&posted));
        readers.push(reader);
        tasks.push(posted);
    }
    (tasks, readers)
}

async fn follow_all(readers: Vec<Reader>) -> Vec<Reader> {
    let all = readers.into_iter().map(|mut reader| async {
        reader.follow([]).await;
        reader
    });
    futures_util::future::join_all(all).await
}

/// Another reader gets so many events more.
async fn goes_on(app: &App, posted: &Posted, events: usize) {
    let mut reader = app.reader(posted);
    reader.connect(Cut::AfterEvents(events)).await.expect("connects");
    reader.connect(Cut::AfterEvents(10)).await.expect("connects");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rills_clocks_jump_an_hour_and_nothing_happens() {
    if !works_here() {
        return;
    }
    let (clock, right) = (Clock::new(), Clock::new());
    let builder = clock.environment().iter().fold(App::builder(), |b, (n, v)| b.with(n, v));
    let mut app = builder.with("RILL_LOG", "info,rill::api::edge=debug").start().await;
    // Another worker, whose clock is right.
    app.start_worker_with(&right.environment());
    let (mut tasks, readers) = streaming(&app, 4).await;
    let jumps = async {
        let mut more = Vec::new();
        for offset in [HOUR, -HOUR, 0] {
            clock.jump(offset);
            goes_on(&app, &tasks[0], 1).await;
            more.push(app.say("[[tokens=20]] [[rate=50]]").await);
            eventually("the clock jumps", || async { (app_clock(&app).await - offset).abs() < 30 })
                .await;
        }
        more
    };
    let (mut readers, more) = tokio::join!(follow_all(readers), jumps);
    for posted in more {
        readers.push(app.read(&posted).await);
        tasks.push(posted);
    }
    are_exact(&app, &tasks, readers).await;
}

/// How far the API's clock is from this process', by the time in its log.
async fn app_clock(app: &App) -> i64 {
    app.conversation().await;
    let log = app.api.log();
    let time = log.lines().next_back().and_then(|line| line.split(' ').next()).expect("a line");
    let format = &time::format_description::well_known::Rfc3339;
    let theirs = time::OffsetDateTime::parse(time, format).expect("a time");
    (theirs - time::OffsetDateTime::now_utc()).whole_seconds()
}

in_both_modes! {
    async fn redis_clock_jumps_an_hour_and_every_task_ends_exactly(builder: Builder) {
        if !works_here() {
            return;
        }
        let clock = Clock::new();
        let redis = PrivateRedis::start_with(&[], &clock.environment()).await;
        let app = builder
            .redis(redis.url())
            .workers(2)
            .with("RILL_CONCURRENCY", "2")
            .with("RILL_LEASE", "1500ms")
            .with("RILL_HEARTBEAT", "400ms")
            .start()
            .await;
        let ended = app.say("[[tokens=30]] [[rate=0]]").await;
        let mut late = app.reader(&ended);
        late.connect(Cut::AfterEvents(2)).await.expect("connects");
        app.reaches(&ended, "done").await;
        let (mut tasks, readers) = streaming(&app, 4).await;
        let mut queued = Vec::new();
        for _ in 0..2 {
            queued.push(app.say("[[tokens=20]] [[rate=50]]").await);
        }
        let jumps = async {
            let mut last = last_job(&app).await;
            // Every stream's hour is over at once; and then it has two.
            for offset in [HOUR + 60, 0, -HOUR] {
                clock.jump(offset);
                eventually("Redis' clock jumps", || async {
                    (redis_clock(&app).await - offset).abs() < 30
                })
                .await;
                queued.push(app.say("[[tokens=20]] [[rate=50]]").await);
                let now = last_job(&app).await;
                assert!(now > last, "job {now:?} after {last:?}");
                last = now;
                goes_on(&app, &tasks[0], 1).await;
            }
            queued
        };
        let (mut readers, queued) = tokio::join!(follow_all(readers), jumps);
        late.follow([]).await;
        readers.push(late);
        for posted in &queued {
            readers.push(app.read(posted).await);
        }
        tasks.push(ended);
        tasks.extend(queued);
        are_exact(&app, &tasks, readers).await;
    }
}

/// How far Redis' clock is from this process'.
async fn redis_clock(app: &App) -> i64 {
    let mut redis = app.redis().await;
    let (seconds, _): (i64, i64) = redis::cmd("TIME").query_async(&mut redis).await.expect("TIME");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("now");
    seconds - now.as_secs().cast_signed()
}

/// The last job's ID.
async fn last_job(app: &App) -> (u64, u64) {
    let mut redis = app.redis().await;
    let mut command = redis::cmd("XINFO");
    command.arg("STREAM").arg(format!("{}:{{jobs}}:generate", app.name));
    let info: std::collections::HashMap<String, redis::Value> =
        command.query_async(&mut redis).await.expect("XINFO");
    let last: String = redis::from_redis_value(info["last-generated-id"].clone()).expect("a text");
    let (ms, seq) = last.split_once('-').expect("an ID");
    (ms.parse().expect("a number"), seq.parse().expect("a number"))
}
