//! The most streams that a design carries: all complete, p99 within a second.

use anyhow::Result;
use serde::Serialize;

use crate::architecture::Architecture;
use crate::options::Options;
use crate::run::{Outcome, measure};

/// Where the doubling begins.
const FIRST: u32 = 50;
/// Loads that are tried, at most.
const LOADS: usize = 14;

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Found {
    pub(crate) architecture: Architecture,
    /// This many it carries.
    pub(crate) carries: u32,
    /// This many not; nothing where the search ended before.
    pub(crate) breaks_at: Option<u32>,
    /// Why.
    pub(crate) because: Option<String>,
}

/// Doubles, then bisects, from what the loads have shown.
pub(crate) async fn search(
    options: &Options,
    architecture: Architecture,
    outcomes: &[Outcome],
) -> Result<Found> {
    let mine = outcomes.iter().filter(|outcome| outcome.architecture == architecture);
    let good = mine.filter(|outcome| outcome.figures.breaks.is_none());
    let carries = good.map(|outcome| outcome.streams).max().unwrap_or_default();
    let mut found = Found { architecture, carries, breaks_at: None, because: None };
    for _ in 0..LOADS {
        let Some(streams) = next(&found, options.search_most) else { break };
        match why_it_breaks(options, architecture, streams).await? {
            None => found.carries = streams,
            Some(why) => {
                eprintln!("search {}: {streams} streams: {why}", architecture.name());
                found.breaks_at = Some(streams);
                found.because = Some(why);
            }
        }
    }
    Ok(found)
}

/// The next number to try; nothing when it is near enough.
fn next(found: &Found, most: u32) -> Option<u32> {
    let Found { carries, breaks_at, .. } = *found;
    match breaks_at {
        None if carries >= most => None,
        None => Some((2 * carries).clamp(FIRST, most)),
        Some(breaks_at) => {
            let near = (carries / 10).max(5);
            (breaks_at - carries > near).then(|| carries.midpoint(breaks_at))
        }
    }
}

/// What is wrong with so many; tried again, as a machine has bad moments.
async fn why_it_breaks(
    options: &Options,
    architecture: Architecture,
    streams: u32,
) -> Result<Option<String>> {
    let mut why = None;
    for _ in 0..2 {
        why = measure(options, architecture, options.load(streams), false).await?.figures.breaks;
        if why.is_none() {
            break;
        }
    }
    Ok(why)
}
