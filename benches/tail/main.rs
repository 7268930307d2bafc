//! `cargo bench --bench tail`: how long an event takes from the append to a
//! client, and what it costs, in each of the tail's three modes.
//!
//! A real `rill api` serves real HTTP clients over loopback. The bench itself
//! is the worker: it appends to every stream as a worker does, and each event
//! says when it was sent, so a latency is the difference of two readings of one
//! clock. Every event is checked, by ID and by content: a lost or a doubled one
//! fails the bench. No time does.
//!
//! Each mode has a Redis of its own (AOF, `everysec`): its CPU is then nobody
//! else's, and a user that hints are refused to harms nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, IntoConnectionInfo, cmd};
use rill::domain::TaskId;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{interval_at, sleep, timeout};

mod ends;
#[path = "../../tests/it/support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;

use ends::{Seen, Stream, Viewer};
use support::{App, PATIENCE, PrivateRedis, Process};

/// How often it says how far it is.
const PROGRESS: Duration = Duration::from_secs(2);

const LEGEND: &str = "\
The table:
  events          received by all clients together
  ev/s            written a second; fewer than asked for: this machine can't keep up
  lost, doubled   anything but 0 fails the bench
  p50 ... max     milliseconds from just before the XADD to the client
  API, Redis      CPU milliseconds for 1,000 received events; Redis' include the appends
  XREADs          commands for 1,000 received events
and below it each mode as a multiple of hints on.";

/// How long an event takes from the append to a client, and what it costs: with hints, with
/// `--hints off`, and with hints that Redis refuses (ACL).
///
/// Run it by `scripts/with-services cargo bench --bench tail -- [OPTIONS]`, on a machine that is
/// otherwise quiet.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo bench --bench tail --", max_term_width = 100, after_help = LEGEND)]
struct Options {
    /// Streams that are written at the same time
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    streams: u32,
    /// Events a second in each stream
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// How long each mode is written to
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// HTTP clients that follow each stream
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    viewers: u32,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    On,
    Off,
    Refused,
}

impl Mode {
    const ALL: [Self; 3] = [Self::On, Self::Off, Self::Refused];

    fn name(self) -> &'static str {
        match self {
            Self::On => "hints on",
            Self::Off => "--hints off",
            Self::Refused => "refused by ACL",
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let clients = u64::from(options.streams) * u64::from(options.viewers);
    ensure!(clients <= 20_000, "--streams × --viewers: {clients} clients are more than 20,000");
    ensure!(
        options.rate * options.seconds <= ends::MAXLEN,
        "--rate × --seconds: streams are trimmed after {} events, so give at most that",
        ends::MAXLEN
    );
    // Appends that come too slowly take longer than asked for, but not for ever.
    let limit = PATIENCE * 6 + Duration::from_secs(9 * u64::from(options.seconds));
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = compare(&options) => outcome,
        () = sleep(limit) => bail!("not done after {limit:?}: ask for less"),
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminated.recv() => bail!("terminated"),
    }
}

async fn compare(options: &Options) -> Result<()> {
    let Options { streams, rate, seconds, viewers, .. } = options;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let cores = std::thread::available_parallelism()?;
    let mut all = Vec::new();
    for mode in Mode::ALL {
        all.push((mode, measure(options, mode).await.context(mode.name())?));
    }
    println!(
        "{streams} streams × {rate}/s for {seconds} s, {viewers} client(s) each; \
         {cores} cores, load before: {load}"
    );
    print_table(&all);
    let wrong: u64 = all.iter().map(|(_, figures)| figures.seen.lost + figures.seen.doubled).sum();
    ensure!(wrong == 0, "{wrong} events were lost or doubled");
    Ok(())
}

/// What came out of one mode.
struct Figures {
    /// The latencies sorted.
    seen: Seen,
    written_per_second: f64,
    api_cpu_ms: f64,
    redis_cpu_ms: f64,
    xreads: f64,
}

impl Figures {
    /// The columns that are compared: latencies, and what 1,000 events cost.
    fn compared(&self) -> [f64; 7] {
        let micros = &self.seen.latencies;
        let quantile = |q: f64| {
            let index = (micros.len().saturating_sub(1)) as f64 * q;
            micros.get(index.round() as usize).map_or(f64::NAN, |micros| *micros as f64 / 1e3)
        };
        let each = |cost: f64| cost / (micros.len() as f64 / 1e3);
        let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(quantile);
        [p50, p90, p99, max, each(self.api_cpu_ms), each(self.redis_cpu_ms), each(self.xreads)]
    }
}

fn print_table(all: &[(Mode, Figures)]) {
    let row = |name: &str, counts: [&str; 4], compared: [String; 7]| {
        print!("{name:<16}");
        counts.iter().for_each(|cell| print!("{cell:>9}"));
        compared.iter().for_each(|cell| print!("{cell:>9}"));
        println!();
    };
    let compared = ["p50 ms", "p90", "p99", "max", "API", "Redis", "XREADs"];
    row("", ["events", "ev/s", "lost", "doubled"], compared.map(str::to_owned));
    for (mode, figures) in all {
        let seen = &figures.seen;
        let counts = [seen.latencies.len() as u64, seen.lost, seen.doubled];
        let [events, lost, doubled] = counts.map(|count| count.to_string());
        let rate = format!("{:.0}", figures.written_per_second);
        let compared = figures.compared().map(|figure| format!("{figure:.2}"));
        row(mode.name(), [&events, &rate, &lost, &doubled], compared);
    }
    for (mode, figures) in &all[1..] {
        let (these, base) = (figures.compared(), all[0].1.compared());
        let times = std::array::from_fn(|i| format!("×{:.1}", these[i] / base[i]));
        row(mode.name(), ["", "", "", ""], times);
    }
}

async fn measure(options: &Options, mode: Mode) -> Result<Figures> {
    let redis = PrivateRedis::start().await;
    let mut admin = connect(&redis.url()).await?;
    cmd("CONFIG").arg(&["SET", "appendfsync", "everysec"]).exec_async(&mut admin).await?;
    let mut url = redis.url();
    if mode == Mode::Refused {
        // May do everything but publish and subscribe.
        let user = ["SETUSER", "nohints", "on", ">secret", "~*", "resetchannels", "+@all"];
        cmd("ACL").arg(&user).exec_async(&mut admin).await?;
        url = url.replace("redis://", "redis://nohints:secret@");
    }
    let hints = if mode == Mode::Off { "off" } else { "on" };
    let app = App::builder().redis(url.clone()).workers(0).with("RILL_HINTS", hints);
    let app = app.with("RILL_MAX_CONNECTIONS", "30000").with("RILL_CHECKS", "warn").start().await;
    let tasks = running_tasks(&app, options.streams).await?;
    let streams: Vec<_> = tasks.iter().map(|task| Stream::new(&app, *task)).collect();
    for stream in &streams {
        stream.begin(&mut admin).await?;
    }
    let urls = tasks.iter().flat_map(|task| {
        let url = format!("{}/v1/tasks/{task}/stream", app.url);
        std::iter::repeat_n(url, options.viewers as usize)
    });
    let opened = stream::iter(urls).map(|url| Viewer::open(&app.client, url));
    let viewers: Vec<_> = opened.buffer_unordered(64).try_collect().await?;
    eprintln!("{}: {} clients are connected", mode.name(), viewers.len());
    // Whatever the tail does for a new stream is then done.
    sleep(Duration::from_secs(2)).await;

    let (api_before, redis_before) = (cpu_ms(&app.api), redis_costs(&mut admin).await?);
    let clock = Instant::now();
    let total = u64::from(options.rate * options.seconds);
    let mut reading = JoinSet::new();
    for viewer in viewers {
        reading.spawn(viewer.follow(clock, total));
    }
    let redis = connect(&url).await?;
    let written = Arc::new(AtomicU64::new(0));
    let mut writing = JoinSet::new();
    let period = Duration::from_secs(1) / options.rate;
    for (index, stream) in streams.into_iter().enumerate() {
        // Evenly spread: models don't speak in chorus.
        let first = clock + period.mul_f64(index as f64 / f64::from(options.streams));
        let due = interval_at(first.into(), period);
        writing.spawn(stream.write(redis.clone(), clock, due, total, written.clone()));
    }
    let mut progress = interval_at((clock + PROGRESS).into(), PROGRESS);
    let took = loop {
        tokio::select! {
            done = writing.join_next() => match done {
                Some(done) => done??,
                None => break clock.elapsed(),
            },
            _ = progress.tick() => {
                let (second, count) = (clock.elapsed().as_secs(), written.load(Ordering::Relaxed));
                eprintln!("{}: {second} s of {}, {count} events", mode.name(), options.seconds);
            }
        }
    };
    let all_read = async {
        let mut all = Seen::default();
        while let Some(one) = reading.join_next().await {
            all.add(one??);
        }
        anyhow::Ok(all)
    };
    let mut seen = timeout(PATIENCE, all_read).await.context("clients wait for the end")??;
    let (api_after, redis_after) = (cpu_ms(&app.api), redis_costs(&mut admin).await?);
    let refused = app.api.log().contains("no wake-up hints");
    ensure!(refused == (mode == Mode::Refused), "hints refused: {refused}\n{}", app.api.log());
    seen.latencies.sort_unstable();
    Ok(Figures {
        seen,
        written_per_second: written.load(Ordering::Relaxed) as f64 / took.as_secs_f64(),
        api_cpu_ms: api_after - api_before,
        redis_cpu_ms: redis_after.0 - redis_before.0,
        xreads: redis_after.1 - redis_before.1,
    })
}

async fn connect(url: &str) -> Result<MultiplexedConnection> {
    let info = url.into_connection_info()?;
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    let client = redis::Client::open(info.set_tcp_settings(tcp))?;
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

/// Redis' CPU in milliseconds, and its XREADs, so far.
async fn redis_costs(redis: &mut MultiplexedConnection) -> Result<(f64, f64)> {
    let info: String = cmd("INFO").arg(&["cpu", "commandstats"]).query_async(redis).await?;
    let figure = |name: &str| {
        let rest = info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        rest.split(',').next().unwrap_or_default().parse::<f64>()
    };
    let seconds = figure("used_cpu_user:")? + figure("used_cpu_sys:")?;
    Ok((seconds * 1e3, figure("cmdstat_xread:calls=")?))
}

/// A process' CPU so far. Linux counts in ticks of 10 ms; elsewhere it isn't known.
fn cpu_ms(process: &Process) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid()));
    let ticks = stat.ok().and_then(|stat| {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
    });
    ticks.map_or(f64::NAN, |ticks| ticks * 10.0)
}

/// Tasks as they are while a worker runs them.
async fn running_tasks(app: &App, count: u32) -> Result<Vec<TaskId>> {
    let ids: Vec<uuid::Uuid> = sqlx::query_scalar(
        "WITH m AS (
             INSERT INTO messages (id, conversation_id, position, role)
             SELECT gen_random_uuid(), $1::uuid, n, 'assistant' FROM generate_series(1, $2) n RETURNING *)
         INSERT INTO tasks (id, account_id, conversation_id, message_id, model, parameters, request,
                            status, attempt, claim_id, worker_id, deadline_at, enqueued_at)
         SELECT gen_random_uuid(), '00000000-0000-0000-0000-000000000000', $1::uuid, id, 'simulator', '{}', '{}',
                'running', 1, gen_random_uuid(), gen_random_uuid(), now() + interval '1 day', now()
         FROM m RETURNING id",
    )
    .bind(app.conversation().await)
    .bind(i32::try_from(count)?)
    .fetch_all(&app.pool)
    .await?;
    Ok(ids.into_iter().map(TaskId).collect())
}
