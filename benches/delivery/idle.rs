//! Readers of streams on which nothing happens: what an open one takes.
//!
//! No worker runs, so the tasks stay queued, and their streams silent but for
//! a ping now and then.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::time::{interval, sleep};

use crate::load::client::Client;
use crate::load::counters::commands_since;
use crate::load::figures::{Asked, Figures};
use crate::load::process::Usage;
use crate::load::request::Request;
use crate::load::tally::Progress;
use crate::rig::{Reading, Rig};
use crate::streams::{Shape, tell};

/// Readers that arrive in one tick: 1,000 a second.
const A_TICK: usize = 10;
const TICK: Duration = Duration::from_millis(10);
/// Whatever is done for a new stream is then done.
const SETTLE: Duration = Duration::from_secs(5);
/// How long opening them all may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Opens the streams, and measures `window`.
pub(crate) async fn run(
    name: &str,
    shape: &Shape,
    window: Duration,
    mut rig: Rig,
) -> Result<Figures> {
    let clock = Instant::now();
    let poster = rig.poster(shape.streams).await?;
    let mut paths = Vec::new();
    let keep = |_, posted: crate::load::post::Posted| {
        paths.push(posted.stream);
        Ok(())
    };
    poster.say_evenly(shape.streams, Duration::ZERO, |n| shape.prompt(n), keep).await?;
    eprintln!("{name}: posted {} in {:.1} s", shape.streams, clock.elapsed().as_secs_f64());
    sleep(SETTLE).await;

    let client = Client::start()?;
    let empty = rig.read().await?;
    let (empty_redis, mut ticks) = (rig.redis_memory().await?, interval(TICK));
    let all: Vec<_> = paths.iter().flat_map(|path| vec![path; shape.viewers as usize]).collect();
    for some in all.chunks(A_TICK) {
        ticks.tick().await;
        for path in some {
            client.open(Request::get(rig.server, path.as_str(), 0))?;
        }
    }
    let readers = shape.readers();
    let opened = |progress: &Progress| progress.opened.load(Ordering::Relaxed) >= readers;
    client.until(LIMIT, opened, |progress| tell(name, clock, progress)).await?;
    let ended = client.progress.ended.load(Ordering::Relaxed);
    ensure!(ended == 0, "{ended} streams ended");
    sleep(SETTLE).await;

    let (before, measured) = (rig.read().await?, Instant::now());
    sleep(window).await;
    let (after, seconds) = (rig.read().await?, measured.elapsed().as_secs_f64());
    let redis = rig.redis_memory().await?;
    let ended = client.progress.ended.load(Ordering::Relaxed);
    ensure!(ended == 0, "{ended} streams ended");
    let asked = Asked { streams: 0, tokens: 0, rate: 0.0, tasks: u64::from(shape.streams) };
    let mut figures = Figures::new(name, asked, client.take()?, seconds);
    drop(client.finish()?);
    figures.more = memory(&empty, &before, readers);
    let growth = (redis as f64 - empty_redis as f64) / 1024.0 / readers as f64;
    figures.more.push(("Redis' KiB a stream".to_owned(), growth));
    let spent = spending(&before, &after, seconds);
    figures.more.extend(spent);
    let commands: u64 = commands_since(after.commands.clone(), &before.commands).values().sum();
    let statements = after.statements - before.statements;
    figures.more.push(("Redis commands/s".to_owned(), commands as f64 / seconds));
    figures.more.push(("statements/s".to_owned(), statements as f64 / seconds));
    Rig::charge(&mut figures, &before, after);
    Ok(figures)
}

/// The API's memory, and what a stream adds to it.
fn memory(empty: &Reading, open: &Reading, readers: u64) -> Vec<(String, f64)> {
    let (empty, open) = (empty.of("API"), open.of("API"));
    let mib = |kib: u64| kib as f64 / 1024.0;
    let each = |before: u64, now: u64| (now as f64 - before as f64) / readers as f64;
    vec![
        ("streams".to_owned(), readers as f64),
        ("API MiB (PSS) without them".to_owned(), mib(empty.pss_kib)),
        ("with them".to_owned(), mib(open.pss_kib)),
        ("KiB a stream (PSS)".to_owned(), each(empty.pss_kib, open.pss_kib)),
        ("KiB a stream (RSS)".to_owned(), each(empty.rss_kib, open.rss_kib)),
    ]
}

/// How much of a core each part uses.
fn spending(before: &Reading, after: &Reading, seconds: f64) -> Vec<(String, f64)> {
    let share = |name: &str| {
        let used: Usage = after.of(name).since(before.of(name));
        (format!("{name} CPU %"), used.cpu_ms / 10.0 / seconds)
    };
    ["API", "Redis", "Postgres", "client"].map(share).into()
}
