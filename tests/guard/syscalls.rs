//! System calls a token, of the API and of the worker, counted by strace.
//!
//! One stream at 40/s: no token waits for another, so each is a hint, a read
//! and a write of its own, and the counts of reads and writes are all but fixed.
//! How often a thread goes to sleep and is woken (`epoll_wait`, `futex`) depends
//! on the moment: the bound of all calls is that of the highest seen. What the
//! processes do without a stream is counted for as long, and taken off; few
//! heartbeats, that it may be little.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::bounds::{Figures, not_measured};
use crate::counted;
use crate::support::{App, PrivateRedis, Process, eventually};

const TOKENS: usize = 200;

const READS_AND_WRITES: &[&str] = &[
    "read", "readv", "recv", "recvfrom", "recvmsg", "write", "writev", "send", "sendto", "sendmsg",
];
const WAITS: &[&str] = &["epoll_wait", "epoll_pwait", "epoll_pwait2", "futex"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "counts: make guard"]
async fn of_one_stream() {
    let redis = PrivateRedis::start().await;
    let app = counted()
        .redis(redis.url())
        .with("RILL_LEASE", "180s")
        .with("RILL_HEARTBEAT", "60s")
        .start()
        .await;
    let first = app.say("[[tokens=3]]").await;
    app.read(&first).await;
    app.reaches(&first, "done").await;

    let started = Instant::now();
    let tracers = match Tracer::of_both(&app).await {
        Ok(tracers) => tracers,
        Err(why) => return not_measured("system calls a token", why),
    };
    let posted = app.say(&format!("[[tokens={TOKENS}]] [[rate=40]]")).await;
    let reader = app.read(&posted).await;
    app.reaches(&posted, "done").await;
    let lasted = started.elapsed();
    let busy = Tracer::counts_of_both(tracers).await;
    let events = reader.count("delta");

    let tracers = Tracer::of_both(&app).await.expect("attached before");
    tokio::time::sleep(lasted).await;
    let idle = Tracer::counts_of_both(tracers).await;

    println!("guard: one stream of {TOKENS} tokens: {events} events");
    let mut figures = Figures::default();
    for ((name, busy), idle) in ["API", "worker"].into_iter().zip(&busy).zip(&idle) {
        let of = |names: Option<&[&str]>| {
            let count = |counts: &Counts| {
                let counted = counts
                    .iter()
                    .filter(|(call, _)| names.is_none_or(|names| names.contains(&call.as_str())));
                counted.map(|(_, count)| *count).sum::<u64>() as f64
            };
            (count(busy) - count(idle)) / TOKENS as f64
        };
        println!("guard: {name}: {busy:?}; idle: {idle:?}");
        println!("guard: {name}: {:.2} waits and wakes a token", of(Some(WAITS)));
        figures.add(&format!("{name}: reads and writes a token"), of(Some(READS_AND_WRITES)));
        figures.add(&format!("{name}: system calls a token (highest)"), of(None));
    }
    figures.hold();
}

/// Calls by name.
type Counts = BTreeMap<String, u64>;

/// strace, attached to a process.
struct Tracer {
    strace: Process,
    counts: PathBuf,
}

impl Tracer {
    /// Of the API and the worker; or why not.
    async fn of_both(app: &App) -> Result<[Self; 2], String> {
        Ok([Self::of(&app.api).await?, Self::of(&app.workers[0]).await?])
    }

    async fn of(traced: &Process) -> Result<Self, String> {
        let found = std::process::Command::new("strace").arg("-V").output();
        if !found.is_ok_and(|output| output.status.success()) {
            return Err("strace is not installed: scripts/install strace".to_owned());
        }
        let name = format!("rill-strace-{}", uuid::Uuid::new_v4());
        let counts = std::env::temp_dir().join(name);
        let (file, pid) = (counts.display().to_string(), traced.pid().to_string());
        let options = ["-c", "-f", "-o", &file, "-p", &pid];
        let strace = Process::start_program("strace", &options, &[]);
        let mut tracer = Self { strace, counts };
        let deadline = Instant::now() + Duration::from_secs(20);
        // «Process 7 attached with 3 threads», once it has all of them.
        while !tracer.strace.log().contains(" attached") {
            if tracer.strace.has_ended() || Instant::now() > deadline {
                let why = tracer.strace.last_lines(1);
                return Err(format!("strace can't attach (ptrace refused?): {why}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(tracer)
    }

    async fn counts_of_both(tracers: [Self; 2]) -> [Counts; 2] {
        let [api, worker] = tracers;
        [api.counts().await, worker.counts().await]
    }

    /// Detaches.
    async fn counts(mut self) -> Counts {
        self.strace.signal("INT");
        self.strace.ended().await;
        let file = &self.counts;
        eventually("strace has written", || async { file.exists() }).await;
        let text = std::fs::read_to_string(file).expect("strace's table");
        let _ = std::fs::remove_file(file);
        // `% time  seconds  usecs/call  calls  [errors]  syscall`
        let rows = text.lines().filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let name = words.last().filter(|name| **name != "total")?;
            Some(((*name).to_owned(), words.get(3)?.parse().ok()?))
        });
        rows.collect()
    }
}
