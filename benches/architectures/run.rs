//! One load on one design.

use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use tokio::time::timeout;

use crate::architecture::Architecture;
use crate::load::client::Client;
use crate::load::figures::{Asked, Figures};
use crate::load::post::Poster;
use crate::load::request::Request;
use crate::load::tally::Progress;
use crate::numbers::Numbers;
use crate::options::{Load, Options};
use crate::sampler::Sampler;
use crate::sockets::connections;
use crate::stage::{Setup, Stage};

/// Streams that are sampled, when some are.
const SAMPLED: u32 = 8;

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    pub(crate) architecture: Architecture,
    pub(crate) streams: u32,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    pub(crate) numbers: Numbers,
}

impl Outcome {
    /// CPU milliseconds of a part.
    pub(crate) fn cpu_ms(&self, part: &str) -> f64 {
        let cost = self.figures.costs.iter().find(|cost| cost.name == part);
        cost.map_or(f64::NAN, |cost| cost.usage.cpu_ms)
    }

    /// CPU milliseconds of a part for 1,000 tokens received.
    pub(crate) fn cpu_each(&self, part: &str) -> f64 {
        self.cpu_ms(part) / (self.figures.tokens.max(1) as f64 / 1e3)
    }

    /// CPU of a part, in percent of a core.
    pub(crate) fn cpu_percent(&self, part: &str) -> f64 {
        self.cpu_ms(part) / 10.0 / self.figures.wall_seconds.max(1e-9)
    }

    /// PostgreSQL's statements a second.
    pub(crate) fn statements_per_second(&self) -> f64 {
        self.figures.statements as f64 / self.figures.wall_seconds.max(1e-9)
    }
}

/// Runs `load` on a stage of its own. `sampled`: rill's streams are looked into.
pub(crate) async fn measure(
    options: &Options,
    architecture: Architecture,
    load: Load,
    sampled: bool,
) -> Result<Outcome> {
    let name = format!("{} {}", architecture.name(), load.name());
    eprintln!("{name}: starts servers");
    let setup = Setup { architecture, tasks: load.streams, connections: options.connections };
    let mut stage = Stage::start(setup).await?;
    let mut sampler = sampled.then(|| Sampler::new(stage.redis.url()));
    let client = Client::start()?;
    let mut poster = Poster::new(&format!("http://{}", stage.server))?;
    poster.prepare(load.streams).await?;
    let before = stage.read().await?;
    let clock = Instant::now();
    // What can't even be posted is a result, too.
    let posted =
        timeout(load.limit(), post(&stage, &poster, &client, load, sampler.as_mut())).await;
    match posted {
        Ok(Ok(())) => {}
        Ok(Err(error)) => eprintln!("{name}: {error:#}"),
        Err(_) => eprintln!("{name}: not posted in time"),
    }
    let mut open = (0, 0);
    let (redis, postgres) = (port(&stage.redis.url())?, port(stage.postgres.url())?);
    let watch = |progress: &Progress| {
        open.0 = open.0.max(connections(stage.api_pid(), redis));
        open.1 = open.1.max(connections(stage.api_pid(), postgres));
        tell(&name, clock, progress);
    };
    let all = u64::from(load.streams);
    let over = |progress: &Progress| progress.ended.load(Ordering::Relaxed) >= all;
    let left = load.limit().saturating_sub(clock.elapsed());
    if let Err(error) = client.until(left, over, watch).await {
        eprintln!("{name}: {error:#}");
    }
    let after = stage.read().await?;
    let tally = client.finish()?;
    let end = tally.last_end.filter(|_| tally.broken == 0).unwrap_or_else(Instant::now);
    let wall = end.saturating_duration_since(clock).as_secs_f64();
    let tokens = all * u64::from(load.tokens);
    let rate = all as f64 * f64::from(load.rate);
    let asked = Asked { streams: all, tokens, rate, tasks: all };
    let mut figures = Figures::new(&name, asked, tally, wall);
    Stage::charge(&mut figures, &before, after);
    let mut numbers = Numbers::ask(&stage).await.unwrap_or_else(|error| {
        eprintln!("{name}: its processes don't say what they counted: {error:#}");
        Numbers::default()
    });
    (numbers.to_redis, numbers.to_postgres) = open;
    if let Some(sampler) = sampler {
        numbers.written = sampler.seen();
    }
    stage.complaints().iter().take(3).for_each(|line| eprintln!("{name}: it says {line}"));
    Ok(Outcome { architecture, streams: load.streams, figures, numbers })
}

/// Posts all, and opens each stream as soon as it is known.
async fn post(
    stage: &Stage,
    poster: &Poster,
    client: &Client,
    load: Load,
    mut sampler: Option<&mut Sampler>,
) -> Result<()> {
    let prompt = |n| load.prompt(n);
    let every = load.streams.div_ceil(SAMPLED);
    poster
        .say_evenly(load.streams, load.ramp(), prompt, |n, posted| {
            if let Some(sampler) = sampler.as_mut().filter(|_| n % every == 0) {
                sampler.follow(&posted.task)?;
            }
            client.open(Request::get(stage.server, posted.stream, load.tokens.into()))
        })
        .await
}

fn port(url: &str) -> Result<u16> {
    let url = reqwest::Url::parse(url)?;
    url.port().ok_or_else(|| anyhow::anyhow!("{url} has no port"))
}

/// Says how far it is.
fn tell(name: &str, clock: Instant, progress: &Progress) {
    let [opened, tokens, ended] =
        [&progress.opened, &progress.tokens, &progress.ended].map(|n| n.load(Ordering::Relaxed));
    let second = clock.elapsed().as_secs();
    eprintln!("{name}: {second} s, {opened} opened, {tokens} tokens, {ended} ended");
}
