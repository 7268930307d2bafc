//! The same client straight on the model: what nothing in between can undercut.

use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use crate::load::client::Client;
use crate::load::figures::{Cost, Figures};
use crate::load::process::Usage;
use crate::load::request::Request;
use crate::load::tally::Progress;
use crate::rig::{address, own_usage, start_simulator};
use crate::streams::{Shape, tell};

/// Runs the load.
pub(crate) async fn run(name: &str, shape: &Shape) -> Result<Figures> {
    let simulator = start_simulator();
    let model = address(&simulator, "a simulator is at").await?;
    let client = Client::start()?;
    let before = (Usage::of(simulator.pid()), own_usage());
    let clock = Instant::now();
    let begin = tokio::time::Instant::now();
    let all = shape.streams * shape.viewers;
    for n in 0..all {
        tokio::time::sleep_until(begin + shape.ramp.mul_f64(f64::from(n) / f64::from(all))).await;
        let message = json!({ "role": "user", "content": shape.prompt(n) });
        let body = json!({ "model": "simulator", "stream": true, "messages": [message] });
        let mut request = Request::get(model, "/v1/chat/completions", shape.tokens.into());
        request.body = Some(body.to_string());
        client.open(request)?;
    }
    let say = |progress: &Progress| tell(name, clock, progress);
    let over = |progress: &Progress| progress.ended.load(Ordering::Relaxed) >= all.into();
    if let Err(error) = client.until(shape.limit(), over, say).await {
        eprintln!("{name}: {error}");
    }
    let after = (Usage::of(simulator.pid()), own_usage());
    let tally = client.finish()?;
    let end = tally.last_end.unwrap_or_else(Instant::now);
    let wall = end.saturating_duration_since(clock).as_secs_f64();
    let mut figures = Figures::new(name, shape.asked(), tally, wall);
    let cost = |name, usage| Cost { name, counted: false, usage };
    figures.costs =
        vec![cost("simulator", after.0.since(before.0)), cost("client", after.1.since(before.1))];
    Ok(figures)
}
