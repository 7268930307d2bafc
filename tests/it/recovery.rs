//! How long readers wait when something dies, as distributions: a measurement,
//! not a test. `make recovery` runs it and prints the table.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::support::{App, Cut, PrivateRedis, Reader, eventually};

const LEASE: Duration = Duration::from_secs(3);
const STREAMS: usize = 20;
const ROUNDS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: make recovery"]
async fn recovery_times() {
    println!("{STREAMS} streams, {ROUNDS} rounds, lease {LEASE:?}, heartbeat 1 s");
    println!("| what | samples | p50 | p90 | max |\n|---|---|---|---|---|");
    row("worker killed → next attempt's first event", &worker_killed().await);
    row("API killed → first event at another (waits as `retry:` asks)", &api_killed(true).await);
    row("API killed → first event at another (comes back at once)", &api_killed(false).await);
    row("Redis killed and back at once → first event", &redis_restarted().await);
}

fn row(what: &str, samples: &[Duration]) {
    let mut sorted = samples.to_vec();
    sorted.sort();
    let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part) as usize].as_secs_f64();
    let (p50, p90, max) = (at(0.5), at(0.9), at(1.0));
    println!("| {what} | {} | {p50:.2} s | {p90:.2} s | {max:.2} s |", sorted.len());
}

/// Readers of answers that take long, each past its first events.
async fn readers(app: &App, tokens: usize) -> Vec<Reader> {
    let mut readers = JoinSet::new();
    for _ in 0..STREAMS {
        let posted = app.say(&format!("[[tokens={tokens}]] [[rate=20]]")).await;
        let mut reader = app.reader(&posted);
        readers.spawn(async move {
            reader.connect(Cut::AfterEvents(3)).await.expect("connects");
            reader
        });
    }
    readers.join_all().await
}

/// Follows all, and answers with the time from `since` to the first event after it that counts.
async fn first_events(
    readers: Vec<Reader>,
    since: impl Future<Output = Instant>,
    counts: fn(&str) -> bool,
) -> Vec<Duration> {
    let mut following = JoinSet::new();
    for mut reader in readers {
        following.spawn(async move {
            reader.follow([]).await;
            reader
        });
    }
    let since = since.await;
    let waited = |reader: &Reader| {
        let mut events = reader.events.iter().zip(&reader.times);
        let first = events.find(|(event, at)| **at > since && counts(&event.id))?;
        Some(first.1.duration_since(since))
    };
    following.join_all().await.iter().filter_map(waited).collect()
}

async fn worker_killed() -> Vec<Duration> {
    let mut samples = Vec::new();
    for _ in 0..ROUNDS {
        let mut app = App::builder().workers(1).start().await;
        let readers = readers(&app, 200).await;
        app.start_worker();
        eventually("both workers are steady", || async {
            let steady =
                "SELECT count(*) FROM workers WHERE steady_since <= now() - interval '3 s'";
            sqlx::query_scalar::<_, i64>(steady).fetch_one(&app.pool).await.expect("counts") == 2
        })
        .await;
        let kill = async {
            app.workers[0].kill();
            Instant::now()
        };
        samples.extend(first_events(readers, kill, |id| id.starts_with("2-")).await);
    }
    samples
}

async fn api_killed(patient: bool) -> Vec<Duration> {
    let mut samples = Vec::new();
    for _ in 0..ROUNDS {
        let mut app = App::builder().start().await;
        let (_other, url) = app.start_api().await;
        let readers = readers(&app, 200).await;
        let mut following = JoinSet::new();
        for mut reader in readers {
            let path = reader.url.split_once("/v1").expect("a path").1.to_owned();
            let url = format!("{url}/v1{path}");
            following.spawn(async move {
                let cut = reader.connect(Cut::Never).await;
                assert!(cut.is_err(), "the API was killed");
                let killed = Instant::now();
                if patient {
                    let wait = reader.retry.expect("a stream says when to come back");
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
                reader.url = url;
                reader.follow([]).await;
                let first = reader.times.iter().find(|at| **at > killed).expect("resumed");
                first.duration_since(killed)
            });
        }
        eventually("all readers are back", || async {
            app.metric("rill_readers_open", "").await as usize == STREAMS
        })
        .await;
        app.api.kill();
        samples.extend(following.join_all().await);
    }
    samples
}

async fn redis_restarted() -> Vec<Duration> {
    let mut samples = Vec::new();
    for _ in 0..ROUNDS {
        let mut redis = PrivateRedis::start().await;
        let app = App::builder().redis(redis.url()).start().await;
        let readers = readers(&app, 120).await;
        let restart = async {
            redis.kill();
            redis.launch().await;
            Instant::now()
        };
        samples.extend(first_events(readers, restart, |_| true).await);
    }
    samples
}
