//! What the bench is asked for.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

use crate::load::figures::LEGEND;
use crate::streams::Shape;

/// What `--load` knows.
const LOADS: &str = "\
The loads; --streams, --rate, --tokens and --viewers change them:
  100x20, 500x20, 1000x20, 2000x10, 2000x20
                  so many streams, each with so many tokens a second; 200 tokens each
  1x5000, 20x1000 fast ones, 10,000 tokens each
  viewers         one stream that 1,000 follow
  idle            10,000 readers of tasks that stay queued (there is no worker): memory a stream,
                  and CPU over --seconds
  reconnect       5,000 readers come back within a second, each with the cursor of the middle of
                  one of 500 answers, which goes on: how long until all have caught up
  reconnect-done  the same, after the answers have ended
  floor-...       the same client straight on the model, without rill, or through --relay; floor:
                  all of them
  growth          10 to 10,000 streams with 2,000 tokens a second in all (growth-total-N), and
                  with 2 in each (growth-each-N): --seconds in the middle of them, and how each
                  cost grows. Not in all
  all             the rest";

/// How rill delivers under load, and what it costs: real `rill api` and `rill worker` processes, a
/// simulator as the model, Redis (AOF, everysec) and PostgreSQL (fsync) of each run's own, and a
/// client that checks every token.
///
/// Run it by `cargo bench --bench delivery -- [OPTIONS]`, on a machine that is otherwise quiet. It
/// fails when a load doesn't run at all, not when it is slow.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo bench --bench delivery --", max_term_width = 100, after_help = format!("{LOADS}\n\n{LEGEND}"))]
pub(crate) struct Options {
    /// Loads to run, by commas: see below
    #[arg(long, value_delimiter = ',', default_value = "all")]
    pub(crate) load: Vec<String>,
    /// So many streams; without --load, one load of your own
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) streams: Option<u32>,
    /// Tokens a second in each stream
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Tokens of each stream
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) tokens: Option<u32>,
    /// Readers of each stream
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    pub(crate) viewers: Option<u32>,
    /// Over how long the POSTs are spread
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub(crate) ramp: Duration,
    /// How long the model thinks before it begins; 200ms, with many viewers 2s
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) ttft: Option<Duration>,
    /// Each reader drops its connection after so many tokens and comes back
    #[arg(long)]
    pub(crate) drop_at: Option<u64>,
    /// Worker processes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) workers: u32,
    /// Wake-up hints for the API's tail
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub(crate) hints: Switch,
    /// Reach Redis over a Unix socket, as on a machine of one's own
    #[arg(long)]
    pub(crate) redis_socket: bool,
    /// For the floor: a server to go through, by its command. It speaks OpenAI's protocol, calls
    /// OPENAI_BASE_URL, may use REDIS_URL, and says on stderr that «the relay is at http://…»
    #[arg(long, value_name = "COMMAND")]
    pub(crate) relay: Option<String>,
    /// How long `idle` and each step of `growth` is measured
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub(crate) seconds: u32,
    /// Runs of each load; of several, the median is printed, too
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// Writes all figures there, after each run
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

/// A load by its name.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) name: String,
    pub(crate) what: What,
    pub(crate) shape: Shape,
}

/// What is done with the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Generated and read at the same time.
    Streams,
    /// Read straight from the model.
    Floor,
    /// Read, and silent.
    Idle,
    /// Read on from the middle, by all at once; while they run, or after.
    Reconnect { running: bool },
    /// A window in the middle.
    Growth,
}

/// Streams × tokens a second, tokens, viewers.
type Plan = (&'static str, What, u32, f64, u32, u32);

#[rustfmt::skip]
const PLANS: &[Plan] = &[
    ("100x20", What::Streams, 100, 20.0, 200, 1),
    ("500x20", What::Streams, 500, 20.0, 200, 1),
    ("1000x20", What::Streams, 1000, 20.0, 200, 1),
    ("2000x10", What::Streams, 2000, 10.0, 200, 1),
    ("2000x20", What::Streams, 2000, 20.0, 200, 1),
    ("1x5000", What::Streams, 1, 5000.0, 10_000, 1),
    ("20x1000", What::Streams, 20, 1000.0, 10_000, 1),
    ("viewers", What::Streams, 1, 20.0, 200, 1000),
    ("idle", What::Idle, 10_000, 1.0, 1, 1),
    ("reconnect", What::Reconnect { running: true }, 500, 20.0, 200, 10),
    ("reconnect-done", What::Reconnect { running: false }, 500, 20.0, 200, 10),
    ("floor-100x20", What::Floor, 100, 20.0, 200, 1),
    ("floor-500x20", What::Floor, 500, 20.0, 200, 1),
    ("floor-1000x20", What::Floor, 1000, 20.0, 200, 1),
    ("floor-2000x10", What::Floor, 2000, 10.0, 200, 1),
    ("floor-2000x20", What::Floor, 2000, 20.0, 200, 1),
    // 2,000 tokens a second in all; then 2 a second in each.
    ("growth-total-10", What::Growth, 10, 200.0, 120_000, 1),
    ("growth-total-30", What::Growth, 30, 66.7, 40_000, 1),
    ("growth-total-100", What::Growth, 100, 20.0, 12_000, 1),
    ("growth-total-300", What::Growth, 300, 6.67, 4_000, 1),
    ("growth-total-1000", What::Growth, 1_000, 2.0, 1_200, 1),
    ("growth-total-3000", What::Growth, 3_000, 0.667, 400, 1),
    ("growth-total-10000", What::Growth, 10_000, 0.2, 120, 1),
    ("growth-each-10", What::Growth, 10, 2.0, 1_200, 1),
    ("growth-each-30", What::Growth, 30, 2.0, 1_200, 1),
    ("growth-each-100", What::Growth, 100, 2.0, 1_200, 1),
    ("growth-each-300", What::Growth, 300, 2.0, 1_200, 1),
    ("growth-each-1000", What::Growth, 1_000, 2.0, 1_200, 1),
    ("growth-each-3000", What::Growth, 3_000, 2.0, 1_200, 1),
    ("growth-each-10000", What::Growth, 10_000, 2.0, 1_200, 1),
];

impl Options {
    /// What is to be run.
    pub(crate) fn loads(&self) -> Result<Vec<Load>> {
        if self.streams.is_some() && self.load == ["all"] {
            return Ok(vec![self.build(("custom", What::Streams, 100, 20.0, 200, 1))]);
        }
        let mut loads = Vec::new();
        for name in &self.load {
            let picked: Vec<_> = PLANS.iter().filter(|plan| picks(name, plan.0)).collect();
            loads.extend(picked.iter().map(|plan| self.build(**plan)));
            ensure!(!picked.is_empty(), "there is no load {name}: see --help");
        }
        Ok(loads)
    }

    fn build(&self, (name, what, streams, rate, tokens, viewers): Plan) -> Load {
        let viewers = self.viewers.unwrap_or(viewers);
        // Viewers are to be there when it begins.
        let ttft = Duration::from_millis(if viewers > 1 { 2_000 } else { 200 });
        let streams = self.streams.unwrap_or(streams);
        let rate = self.rate.unwrap_or(rate);
        let shape = Shape {
            streams,
            rate,
            tokens: self.tokens.unwrap_or(tokens),
            viewers,
            ramp: self.ramp,
            ttft: self.ttft.unwrap_or(ttft),
            drop_at: self.drop_at,
            stalls: false,
        };
        let name = match name {
            "custom" => format!("{streams}x{rate}x{viewers}"),
            name => name.to_owned(),
        };
        Load { name, what, shape }
    }
}

/// Whether `--load NAME` means this one.
fn picks(name: &str, plan: &str) -> bool {
    match name {
        "all" => !plan.starts_with("growth-"),
        "floor" | "growth" => plan.strip_prefix(name).is_some_and(|rest| rest.starts_with('-')),
        _ => name == plan,
    }
}
