//! How costs grow with the number of streams: a window in the middle of
//! streams that never end, and the slopes through several such windows.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::sleep;

use crate::load::client::Client;
use crate::load::figures::{Asked, Figures};
use crate::load::tally::Progress;
use crate::rig::Rig;
use crate::streams::{Shape, tell};

/// Every stream speaks, and what the POSTs took is over.
const SETTLE: Duration = Duration::from_secs(5);
/// How long opening them all may take.
const LIMIT: Duration = Duration::from_secs(180);

/// Measures `window`.
pub(crate) async fn run(
    name: &str,
    shape: &Shape,
    window: Duration,
    mut rig: Rig,
) -> Result<Figures> {
    let client = Client::start()?;
    let clock = Instant::now();
    let poster = rig.poster(shape.streams).await?;
    shape.begin(&rig, &poster, &client, |_| {}).await?;
    let all = shape.readers();
    let opened = |progress: &Progress| progress.opened.load(Ordering::Relaxed) >= all;
    client.until(LIMIT, opened, |progress| tell(name, clock, progress)).await?;
    sleep(SETTLE).await;
    drop(client.take()?);
    let (before, measured) = (rig.read().await?, Instant::now());
    sleep(window).await;
    let (tally, seconds) = (client.take()?, measured.elapsed().as_secs_f64());
    let after = rig.read().await?;
    // The streams are left in the middle: that is no fault of theirs.
    let asked = Asked { streams: 0, ..shape.asked() };
    let mut figures = Figures::new(name, asked, tally, seconds);
    figures.received_rate = figures.tokens as f64 / seconds;
    figures.written_rate = figures.received_rate;
    Rig::charge(&mut figures, &before, after);
    figures.more.push(("streams".to_owned(), all as f64));
    drop(client.finish()?);
    Ok(figures)
}

/// Prints how each figure grows with the number of streams: the exponent, by
/// least squares of the logarithms. 0: not at all; 1: in proportion.
pub(crate) fn print_slopes(loads: &[Vec<Figures>]) {
    for series in ["growth-total-", "growth-each-"] {
        let steps: Vec<&Figures> =
            loads.iter().flatten().filter(|step| step.load.starts_with(series)).collect();
        if steps.len() < 2 {
            continue;
        }
        println!("\n{series}N: figure ~ N^x");
        let memory = |step: &Figures, name| {
            let cost = step.costs.iter().find(|cost| cost.name == name);
            cost.map_or(0.0, |cost| cost.usage.pss_kib as f64)
        };
        let cpu = |step: &Figures, name| {
            let cost = step.costs.iter().find(|cost| cost.name == name);
            cost.map_or(0.0, |cost| cost.usage.cpu_ms / step.tokens.max(1) as f64)
        };
        let show = |what: &str, figure: &dyn Fn(&Figures) -> f64| {
            let points = steps.iter().map(|step| (step.asked.tasks as f64, figure(step)));
            println!("  {what:<28} x = {:+.2}", slope(points));
        };
        show("CPU a token", &Figures::cpu_each);
        for name in ["API", "worker", "Redis", "Postgres"] {
            show(&format!("  {name}"), &|step| cpu(step, name));
        }
        show("Redis' commands a token", &Figures::commands_each);
        for name in ["API", "worker", "Redis"] {
            show(&format!("memory of {name}"), &|step| memory(step, name));
        }
        show("p50", &|step| step.latency.p50);
    }
}

/// Of the line through the points' logarithms; points at 0 have none.
fn slope(points: impl Iterator<Item = (f64, f64)>) -> f64 {
    let logs: Vec<(f64, f64)> =
        points.filter(|(x, y)| *x > 0.0 && *y > 0.0).map(|(x, y)| (x.ln(), y.ln())).collect();
    let count = logs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| logs.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let covariance: f64 = logs.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = logs.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    covariance / variance
}
