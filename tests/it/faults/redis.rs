//! Redis fails in every way while tasks wait, stream and have just ended:
//! every accepted task ends, and every reader gets exactly its text.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::complaints;
use crate::in_both_modes;
use crate::support::{App, Builder, Cut, Posted, PrivateRedis, Reader, eventually};

const LEASE: Duration = Duration::from_millis(1500);

/// Tasks in every state, and their readers.
struct Crowd {
    app: App,
    /// Ended, streaming, queued: in the order in which they were accepted.
    tasks: Vec<Posted>,
    /// They follow each task through the fault.
    live: Vec<JoinHandle<Reader>>,
    /// They stopped before the fault, and come back after it.
    absent: Vec<(usize, Reader)>,
}

impl Crowd {
    /// Two workers of two places each: four tasks stream, the others wait.
    async fn gather(builder: Builder, redis: &PrivateRedis) -> Self {
        let app = builder
            .redis(redis.url())
            .with("RILL_LEASE", "1500ms")
            .with("RILL_HEARTBEAT", "400ms")
            .with("RILL_CONCURRENCY", "2")
            .workers(2)
            .start()
            .await;
        let mut crowd = Self { app, tasks: Vec::new(), live: Vec::new(), absent: Vec::new() };
        for _ in 0..2 {
            let ended = crowd.accept("[[tokens=30]] [[rate=0]]", None).await;
            crowd.app.reaches(&crowd.tasks[ended], "done").await;
            crowd.leave_after(ended, 2).await;
        }
        for _ in 0..4 {
            crowd.accept("[[tokens=90]] [[rate=40]]", Some(())).await;
        }
        for task in 2..6 {
            crowd.leave_after(task, 20).await;
        }
        for _ in 0..3 {
            crowd.accept("[[tokens=20]] [[rate=40]]", Some(())).await;
        }
        crowd
    }

    /// Accepts a message, and follows its answer if that is asked for.
    async fn accept(&mut self, content: &str, live: Option<()>) -> usize {
        let content = format!("{content} [[seed={}]]", self.tasks.len() + 1);
        let posted = self.app.say(&content).await;
        if live.is_some() {
            let mut reader = self.app.reader(&posted);
            self.live.push(tokio::spawn(async move {
                reader.follow([]).await;
                reader
            }));
        }
        self.tasks.push(posted);
        self.tasks.len() - 1
    }

    async fn leave_after(&mut self, task: usize, events: usize) {
        let mut reader = self.app.reader(&self.tasks[task]);
        reader.connect(Cut::AfterEvents(events)).await.expect("connects");
        self.absent.push((task, reader));
    }

    /// Everybody gets everything.
    async fn all_are_served(self) {
        let Self { app, tasks, live, absent } = self;
        let mut readers = Vec::new();
        for reader in live {
            readers.push(reader.await.expect("a live reader"));
        }
        for (_, mut reader) in absent {
            reader.follow([Cut::AfterEvents(5)]).await;
            readers.push(reader);
        }
        for task in &tasks {
            readers.push(app.read(task).await);
        }
        for task in &tasks {
            let stored = app.stored(task).await;
            let of_it: Vec<_> = readers.iter().filter(|r| r.url.contains(&task.task)).collect();
            assert!(!of_it.is_empty() && !stored.text.is_empty());
            for reader in of_it {
                assert_eq!(reader.end.as_ref().expect("ended").event, "done", "{}", reader.url);
                assert!(reader.answer == stored, "{} differs from PostgreSQL", reader.url);
            }
            let state = app.task(task).await;
            assert_eq!(state["failures"], 0, "{state}");
        }
        complaints::assert_few(&app);
    }
}

async fn command(redis: &PrivateRedis, arguments: &[&str]) {
    let mut connection = crate::support::connect_to_redis(&redis.url()).await;
    let mut command = redis::cmd(arguments[0]);
    command.arg(&arguments[1..]);
    let _: redis::Value = command.query_async(&mut connection).await.expect("Redis does it");
}

/// The file that Redis appends its commands to.
fn appended_to(redis: &PrivateRedis) -> PathBuf {
    let files = std::fs::read_dir(redis.directory().join("appendonlydir")).expect("AOF");
    let mut files = files.map(|file| file.expect("a file").path());
    files.find(|file| file.to_string_lossy().ends_with(".incr.aof")).expect("an increment")
}

fn length(file: &std::path::Path) -> u64 {
    std::fs::metadata(file).expect("a file").len()
}

in_both_modes! {
    async fn redis_comes_back_without_its_last_second(builder: Builder) {
        let mut redis =
            PrivateRedis::start_with(&["--appendonly", "yes", "--appendfsync", "everysec"], &[]).await;
        let mut crowd = Crowd::gather(builder, &redis).await;
        let file = appended_to(&redis);
        // Redis writes whole commands.
        let kept = length(&file);
        // What is to be lost: ends, jobs, events that readers have seen.
        crowd.accept("[[tokens=10]] [[rate=0]]", Some(())).await;
        let mut another = crowd.absent[2].1.clone();
        another.connect(Cut::AfterEvents(30)).await.expect("connects");
        crowd.absent.push((2, another));
        redis.kill();
        assert!(length(&file) > kept);
        let aof = std::fs::File::options().write(true).open(&file).expect("AOF");
        aof.set_len(kept).expect("cut");
        drop(aof);
        redis.launch().await;
        crowd.all_are_served().await;
    }

    async fn redis_is_flushed_mid_stream(builder: Builder) {
        let redis = PrivateRedis::start().await;
        let crowd = Crowd::gather(builder, &redis).await;
        command(&redis, &["FLUSHALL"]).await;
        crowd.all_are_served().await;
    }

    async fn the_group_is_destroyed_mid_run(builder: Builder) {
        let redis = PrivateRedis::start().await;
        let crowd = Crowd::gather(builder, &redis).await;
        let jobs = format!("{}:{{jobs}}:generate", crowd.app.name);
        command(&redis, &["XGROUP", "DESTROY", &jobs, "workers"]).await;
        let state = crowd.app.task(&crowd.tasks[2]).await;
        assert_eq!(state["status"], "running", "{state}");
        crowd.all_are_served().await;
    }

    async fn redis_is_full_for_seconds(builder: Builder) {
        let redis = PrivateRedis::start().await;
        let mut crowd = Crowd::gather(builder, &redis).await;
        command(&redis, &["CONFIG", "SET", "maxmemory", "1"]).await;
        // Accepted all the same, and queued later.
        crowd.accept("[[tokens=10]] [[rate=0]]", Some(())).await;
        crowd.app.workers[0].logged("an append is not confirmed").await;
        tokio::time::sleep(LEASE * 2).await;
        command(&redis, &["CONFIG", "SET", "maxmemory", "0"]).await;
        crowd.all_are_served().await;
    }

    /// `RILL_TEST_AWAY=60` makes it a real minute.
    async fn redis_is_away_for_longer_than_a_lease(builder: Builder) {
        let away = std::env::var("RILL_TEST_AWAY").ok().and_then(|s| s.parse().ok());
        let mut redis = PrivateRedis::start().await;
        let mut crowd = Crowd::gather(builder, &redis).await;
        redis.kill();
        let away = tokio::time::sleep(away.map_or(LEASE * 3, Duration::from_secs));
        crowd.accept("[[tokens=10]] [[rate=0]]", None).await;
        away.await;
        redis.launch().await;
        crowd.all_are_served().await;
    }
}

/// Every key but the queue and the dead letters goes by itself: also those that
/// were made again after a loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_made_again_after_a_flush_expire() {
    let redis = PrivateRedis::start().await;
    let app = App::builder().redis(redis.url()).start().await;
    let posted = app.say("[[tokens=80]] [[rate=40]]").await;
    let mut reader = app.reader(&posted);
    reader.connect(Cut::AfterEvents(10)).await.expect("connects");
    command(&redis, &["FLUSHALL"]).await;
    reader.follow([]).await;
    let mut connection = app.redis().await;
    eventually("every stream has an expiry", || {
        let mut connection = connection.clone();
        let key = app.stream_key(&posted);
        async move {
            let ttl: i64 =
                redis::cmd("TTL").arg(key).query_async(&mut connection).await.expect("TTL");
            ttl > 0
        }
    })
    .await;
    let keys: Vec<String> =
        redis::cmd("KEYS").arg("*").query_async(&mut connection).await.expect("KEYS");
    let stays = |key: &&String| key.contains("{jobs}") || key.ends_with(":deployment");
    for key in keys.iter().filter(|key| !stays(key)) {
        let ttl: i64 = redis::cmd("TTL").arg(key).query_async(&mut connection).await.expect("TTL");
        assert!(ttl > 0, "{key} has no expiry");
    }
}
