//! What the bench is asked for.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::architecture::Architecture;
use crate::baseline;

const LEGEND: &str = "\
What it prints:
  the loads       for each load and design: latency from the model's writing a token to the
                  client's receipt; CPU milliseconds for 1,000 tokens received, of API, worker,
                  Redis and PostgreSQL (its backends included); tokens lost (in parentheses: not there
                  when the time was up), doubled, misplaced.
                  BREAKS: p99 above 1 s, or not complete within twice the time and 5 s
  the eight rows  at --rows-at streams: what a chunk costs in each design, with ratios
  the timeline    medians of a chunk's way: model, worker has written, client has it
  the search      the most streams with p99 within 1 s and all complete, at --rate: doubled
                  from 50 up, then bisected; a run that fails is tried once more
Each run has a Redis (AOF, everysec), a PostgreSQL (fsync), an API, a worker and a model of its own.
Times fail nothing; a token that is lost, doubled or misplaced in the check fails the bench.";

/// Three designs for streaming a model's answer, on the same stack and under the same load: rows in
/// a database that each stream polls every 100 ms; a Redis list with pub/sub; rill.
///
/// Run it by `cargo bench --bench architectures -- [OPTIONS]`, on a machine that is otherwise quiet.
/// The whole takes about half an hour; `--check` a minute.
#[derive(Debug, Parser)]
#[command(
    bin_name = "cargo bench --bench architectures --",
    override_usage = "cargo bench --bench architectures -- [OPTIONS]",
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = LEGEND
)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Designs to compare, by commas
    #[arg(long, value_delimiter = ',', default_value = "database,list,rill")]
    pub(crate) designs: Vec<Architecture>,
    /// Streams at the same time, a load each, by commas
    #[arg(long, value_delimiter = ',', default_value = "10,100,500,1000", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) streams: Vec<u32>,
    /// Tokens a second in each stream
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rate: u32,
    /// Tokens of each stream
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) tokens: u32,
    /// Streams that the eight rows and the timeline are measured with
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rows_at: u32,
    /// Connections to PostgreSQL that each process opens at most, in every design
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(4..=100))]
    pub(crate) connections: u32,
    /// Only the check: 20 streams in each design, readers cut and coming back wherever they were
    #[arg(long, conflicts_with = "no_check")]
    pub(crate) check: bool,
    /// Don't check first
    #[arg(long)]
    pub(crate) no_check: bool,
    /// Search for the most streams that each design carries (the default)
    #[arg(long, overrides_with = "no_search")]
    pub(crate) search: bool,
    /// Don't
    #[arg(long)]
    pub(crate) no_search: bool,
    /// Where the search ends
    #[arg(long, default_value_t = 3_200, value_parser = clap::value_parser!(u32).range(50..=10_000))]
    pub(crate) search_most: u32,
    /// Writes all figures there
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Draws the charts into this directory
    #[arg(long)]
    pub(crate) charts: Option<PathBuf>,
    /// Draws them from figures that --json wrote, and measures nothing
    #[arg(long, requires = "charts")]
    pub(crate) from: Option<PathBuf>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// For the bench itself, which starts itself again.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// One process of a baseline
    #[command(hide = true)]
    Serve(Box<baseline::Options>),
}

/// One load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) streams: u32,
    pub(crate) rate: u32,
    pub(crate) tokens: u32,
}

/// How long the model thinks first.
const TTFT: Duration = Duration::from_millis(200);

impl Load {
    /// What to post. The answers' rhythms are spread over a token's time: tasks
    /// that rill begins together must not say each word together.
    pub(crate) fn prompt(&self, n: u32) -> String {
        let Self { rate, tokens, .. } = self;
        let phase = (f64::from(n) * 0.618_034).fract() * 1000.0 / f64::from(*rate);
        let ttft = TTFT.as_millis() + phase as u128;
        format!("[[tokens={tokens}]][[rate={rate}]][[ttft={ttft}ms]][[stamped]] go {n}")
    }

    /// Over how long the POSTs are spread: at most 500 a second.
    pub(crate) fn ramp(&self) -> Duration {
        Duration::from_secs(2).max(Duration::from_millis(2) * self.streams)
    }

    /// How long it may take until it counts as not complete.
    pub(crate) fn limit(&self) -> Duration {
        let generating = Duration::from_secs(self.tokens.into()) / self.rate;
        Duration::from_secs(5) + 2 * (self.ramp() + TTFT + generating)
    }

    pub(crate) fn name(&self) -> String {
        format!("{}x{}", self.streams, self.rate)
    }
}

impl Options {
    /// A load of so many streams.
    pub(crate) fn load(&self, streams: u32) -> Load {
        Load { streams, rate: self.rate, tokens: self.tokens }
    }
}
