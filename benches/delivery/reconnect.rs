//! Readers that all come back at once, each with a cursor in the middle of its
//! stream: how long until all have what they missed.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::time::sleep_until;

use crate::load::client::Client;
use crate::load::figures::{Asked, Figures, Quantiles};
use crate::load::request::{Cursor, Request};
use crate::load::tally::{Progress, Tally};
use crate::rig::Rig;
use crate::streams::{Shape, tell};

/// Within which all come back.
const WITHIN: Duration = Duration::from_secs(1);
/// In which all are to be caught up.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs the load; `running`: the tasks go on, their model silent, so that the
/// readers catch up with a live stream rather than read one that is over.
pub(crate) async fn run(name: &str, shape: &Shape, running: bool, mut rig: Rig) -> Result<Figures> {
    let requests = generate(name, shape, running, &rig).await?;
    let readers = shape.readers();
    let client = Client::start()?;
    let before = rig.read().await?;
    let (clock, begin) = (Instant::now(), tokio::time::Instant::now());
    for n in 0..readers {
        sleep_until(begin + WITHIN.mul_f64(n as f64 / readers as f64)).await;
        client.open(requests[n as usize % requests.len()].clone())?;
    }
    let over = |progress: &Progress| progress.ended.load(Ordering::Relaxed) >= readers;
    if let Err(error) = client.until(LIMIT, over, |progress| tell(name, clock, progress)).await {
        eprintln!("{name}: {error}");
    }
    let after = rig.read().await?;
    let tally = client.finish()?;
    let end = tally.last_end.unwrap_or_else(Instant::now);
    let wall = end.saturating_duration_since(clock).as_secs_f64();
    let stay = Quantiles::of(&tally.stay);
    let missed: u64 =
        requests.iter().filter_map(|request| request.cursor.as_ref()).map(|c| c.next).sum();
    let tokens = readers * u64::from(shape.tokens) - missed * u64::from(shape.viewers);
    let asked = Asked { streams: readers, tokens, rate: 0.0, tasks: u64::from(shape.streams) };
    let mut figures = Figures::new(name, asked, tally, wall);
    // They came as a lump, long after they were written.
    (figures.written_rate, figures.received_rate) = (0.0, figures.tokens as f64 / wall);
    Rig::charge(&mut figures, &before, after);
    figures.more = vec![
        ("readers".to_owned(), readers as f64),
        ("seconds until all had caught up".to_owned(), wall),
        ("of one, ms: p50".to_owned(), stay.p50),
        ("p90".to_owned(), stay.p90),
        ("p99".to_owned(), stay.p99),
        ("max".to_owned(), stay.max),
    ];
    Ok(figures)
}

/// Lets the answers be generated; what to come back with to each stream.
async fn generate(name: &str, shape: &Shape, running: bool, rig: &Rig) -> Result<Vec<Request>> {
    let client = Client::start()?;
    let clock = Instant::now();
    let first = Shape { viewers: 1, stalls: running, ..*shape };
    let change = |request: &mut Request| {
        request.leaves = running;
        request.mark_at = Some(u64::from(shape.tokens) / 2);
    };
    let poster = rig.poster(first.streams).await?;
    let requests = first.begin(rig, &poster, &client, change).await?;
    let all = u64::from(shape.streams);
    let over = |progress: &Progress| progress.ended.load(Ordering::Relaxed) >= all;
    client.until(first.limit(), over, |progress| tell(name, clock, progress)).await?;
    let Tally { done, cursors, .. } = client.finish()?;
    ensure!(done == all, "only {done} of {all} answers were generated");
    let mut cursors: HashMap<usize, Cursor> = cursors.into_iter().collect();
    let come_back = |request: Request| {
        let cursor = cursors.remove(&request.tag).context("a stream without a cursor")?;
        Ok(Request { cursor: Some(cursor), mark_at: None, timed: false, ..request })
    };
    requests.into_iter().map(come_back).collect()
}
