//! `cargo bench --bench architectures`: the two designs that rill replaces, and
//! rill, on one stack and under one load.
//!
//! | module | what it is |
//! |---|---|
//! | [`baseline`] | the two designs; the bench starts itself again as their processes |
//! | [`stage`] | servers and processes of a run, fresh each time |
//! | [`check`] | that a design is exact; the only thing that fails the bench |
//! | [`run`], [`search`] | a load; the most streams that a design carries |
//! | [`numbers`], [`sampler`], [`sockets`] | what processes counted, when rill's chunks are in Redis, who is connected to whom |
//! | [`rows`], [`report`], [`charts`] | the tables; the pictures |

use anyhow::{Result, bail};
use clap::Parser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

mod architecture;
mod baseline;
mod charts;
mod check;
#[path = "../load/mod.rs"]
#[allow(dead_code)]
mod load;
mod numbers;
mod options;
mod report;
mod rows;
mod run;
mod sampler;
mod search;
mod sockets;
mod stage;
#[path = "../../tests/it/support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;

use architecture::Architecture;
use load::process::{load_average, raise_file_limit};
use options::{Command, Options};
use rows::Known;
use run::{Outcome, measure};
use search::{Found, search};

fn main() -> Result<()> {
    let options = Options::parse();
    match options.command {
        // On as many threads as rill's own processes.
        Some(Command::Serve(process)) => {
            let runtime = rill::runtime::Options { threads: None }.start()?;
            runtime.block_on(baseline::serve(*process))
        }
        None => tokio::runtime::Runtime::new()?.block_on(bench(options)),
    }
}

async fn bench(mut options: Options) -> Result<()> {
    if let (Some(from), Some(to)) = (&options.from, &options.charts) {
        return charts::draw(&serde_json::from_str(&std::fs::read_to_string(from)?)?, to);
    }
    options.designs.sort_unstable();
    options.designs.dedup();
    let mut terminated = signal(SignalKind::terminate())?;
    // What is dropped here takes its processes along.
    tokio::select! {
        outcome = compare(&options) => outcome,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminated.recv() => bail!("terminated"),
    }
}

async fn compare(options: &Options) -> Result<()> {
    let files = raise_file_limit().unwrap_or_default();
    let (cores, load_before) = (std::thread::available_parallelism()?, load_average());
    if !options.no_check {
        for design in &options.designs {
            check::check(options, *design).await?;
        }
    }
    if options.check {
        return Ok(());
    }
    println!("{cores} cores, load before: {load_before}, open files at most: {files}");
    let mut all = Measured::default();
    all.measure_loads(options).await?;
    all.save(options, &load_before)?;
    report::print_loads(&all.loads);
    all.measure_rows(options).await?;
    if !options.no_search {
        for design in &options.designs {
            all.found.push(search(options, *design, &all.loads).await?);
        }
    }
    all.save(options, &load_before)?;
    let known = all.known();
    report::print_rows(&known);
    report::print_timeline(&known);
    Ok(())
}

/// Everything that was measured.
#[derive(Default)]
struct Measured {
    loads: Vec<Outcome>,
    /// At the rows' number of streams: a run, and one that tells when chunks
    /// were in the store.
    rows: Vec<(Outcome, Outcome)>,
    found: Vec<Found>,
}

impl Measured {
    async fn measure_loads(&mut self, options: &Options) -> Result<()> {
        for streams in &options.streams {
            for design in &options.designs {
                self.loads.push(measure(options, *design, options.load(*streams), false).await?);
            }
        }
        Ok(())
    }

    async fn measure_rows(&mut self, options: &Options) -> Result<()> {
        let load = options.load(options.rows_at);
        for design in &options.designs {
            let mut known = self.loads.iter().filter(|outcome| outcome.architecture == *design);
            let run = match known.find(|outcome| outcome.streams == load.streams) {
                Some(run) => run.clone(),
                None => measure(options, *design, load, false).await?,
            };
            let sampled = match design {
                Architecture::Rill => measure(options, *design, load, true).await?,
                _ => run.clone(),
            };
            self.rows.push((run, sampled));
        }
        Ok(())
    }

    fn known(&self) -> Vec<Known<'_>> {
        self.rows.iter().map(|(run, sampled)| self.known_of(run, sampled)).collect()
    }

    fn known_of<'a>(&'a self, run: &'a Outcome, sampled: &'a Outcome) -> Known<'a> {
        let design = run.architecture;
        let mine = self.loads.iter().filter(|outcome| outcome.architecture == design);
        let good = mine.filter(|outcome| outcome.figures.breaks.is_none());
        let carried = good.map(|outcome| outcome.streams).max().unwrap_or_default();
        let found = self.found.iter().find(|found| found.architecture == design);
        Known { run, sampled, found, carried }
    }

    fn save(&self, options: &Options, load_before: &str) -> Result<()> {
        let rows = self.rows.iter().map(|(run, sampled)| json!({ "run": run, "sampled": sampled }));
        let text = json!({
            "cores": std::thread::available_parallelism()?,
            "load_before": load_before,
            "rate": options.rate,
            "tokens": options.tokens,
            "connections": options.connections,
            "loads": self.loads,
            "rows": rows.collect::<Vec<_>>(),
            "search": self.found,
        });
        if let Some(path) = &options.json {
            std::fs::write(path, format!("{text:#}\n"))?;
        }
        options.charts.as_ref().map_or(Ok(()), |charts| charts::draw(&text, charts))
    }
}
