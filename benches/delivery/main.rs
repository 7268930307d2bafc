//! `cargo bench --bench delivery`: rill end to end under load, how late tokens
//! come, how many get lost (none may), and what a token costs whom.
//!
//! Each run has servers and processes of its own ([`rig`]); the load is made by
//! `benches/load`. No time is asserted.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

mod floor;
mod growth;
mod idle;
#[path = "../load/mod.rs"]
#[allow(dead_code)]
mod load;
mod options;
mod reconnect;
mod rig;
mod streams;
#[path = "../../tests/it/support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;

use load::figures::{self, Figures};
use load::process::{load_average, raise_file_limit};
use options::{Load, Options, Switch, What};
use rig::{Rig, Setup};

/// What a fresh rill does first is then done.
const SETTLE: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = measure(&options) => outcome,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminated.recv() => bail!("terminated"),
    }
}

async fn measure(options: &Options) -> Result<()> {
    let loads = options.loads()?;
    let files = raise_file_limit().unwrap_or_default();
    let cores = std::thread::available_parallelism()?;
    let load_before = load_average();
    let mut all: Vec<Vec<Figures>> = Vec::new();
    for load in &loads {
        all.push(Vec::new());
        for run in 1..=options.runs {
            eprintln!("{}: run {run} of {}, load {}", load.name, options.runs, load_average());
            let figures = one(options, load).await.with_context(|| load.name.clone())?;
            all.last_mut().context("a load")?.push(figures);
            if let Some(path) = &options.json {
                let runs: Vec<_> = all.iter().flatten().collect();
                let hints = options.hints == Switch::On;
                let text = json!({
                    "cores": cores, "load_before": load_before, "hints": hints, "redis_socket": options.redis_socket,
                    "workers": options.workers, "runs": runs,
                });
                std::fs::write(path, format!("{text:#}\n"))?;
            }
        }
    }
    println!("{cores} cores, load before: {load_before}, open files at most: {files}");
    figures::print(&all);
    growth::print_slopes(&all);
    Ok(())
}

/// Runs a load once.
async fn one(options: &Options, load: &Load) -> Result<Figures> {
    let Load { name, what, shape } = load;
    let setup = Setup {
        workers: if *what == What::Idle { 0 } else { options.workers },
        tasks: shape.streams,
        hints: options.hints == Switch::On,
        socket: options.redis_socket,
    };
    let start = async || {
        let rig = Rig::start(&setup).await?;
        tokio::time::sleep(SETTLE).await;
        anyhow::Ok(rig)
    };
    let window = Duration::from_secs(options.seconds.into());
    match *what {
        What::Streams => streams::run(name, shape, start().await?).await,
        What::Floor => floor::run(name, shape, options.relay.as_deref()).await,
        What::Idle => idle::run(name, shape, window, start().await?).await,
        What::Reconnect { running } => reconnect::run(name, shape, running, start().await?).await,
        What::Growth => growth::run(name, shape, window, start().await?).await,
    }
}
