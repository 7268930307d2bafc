//! Streams that are generated and read at the same time.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::load::client::Client;
use crate::load::figures::{Asked, Figures, Quantiles};
use crate::load::post::{Posted, Poster};
use crate::load::request::Request;
use crate::load::tally::Progress;
use crate::rig::Rig;

/// How many streams, and how fast.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Answers generated at the same time.
    pub(crate) streams: u32,
    /// Tokens a second in each.
    pub(crate) rate: f64,
    /// Tokens of each.
    pub(crate) tokens: u32,
    /// Readers of each.
    pub(crate) viewers: u32,
    /// Over how long the POSTs are spread.
    pub(crate) ramp: Duration,
    /// How long the model thinks first.
    pub(crate) ttft: Duration,
    /// After so many tokens each reader drops its connection and comes back.
    pub(crate) drop_at: Option<u64>,
    /// The model falls silent after the last token, and the tasks go on.
    pub(crate) stalls: bool,
}

impl Shape {
    pub(crate) fn readers(&self) -> u64 {
        u64::from(self.streams) * u64::from(self.viewers)
    }

    /// What to post. The answers' rhythms are spread over a token's time: tasks
    /// that rill begins together must not say each word together.
    pub(crate) fn prompt(&self, n: u32) -> String {
        let Self { rate, tokens, ttft, .. } = self;
        let phase = (f64::from(n) * 0.618_034).fract() * (1000.0 / rate).min(500.0);
        let ttft = ttft.as_millis() + phase as u128;
        let stall = if self.stalls { format!("[[stall={tokens}]]") } else { String::new() };
        format!("[[tokens={tokens}]][[rate={rate}]][[ttft={ttft}ms]]{stall}[[stamped]] go {n}")
    }

    /// How long it may take until it counts as not complete: three times as
    /// long as it should.
    pub(crate) fn limit(&self) -> Duration {
        let generating = Duration::from_secs_f64(f64::from(self.tokens) / self.rate);
        Duration::from_secs(30) + 3 * (self.ttft + generating)
    }

    pub(crate) fn asked(&self) -> Asked {
        Asked {
            streams: self.readers(),
            tokens: self.readers() * u64::from(self.tokens),
            rate: self.readers() as f64 * self.rate,
            tasks: u64::from(self.streams),
        }
    }

    /// Posts all, and opens each stream `viewers` times as soon as it is known;
    /// how each was opened.
    pub(crate) async fn begin(
        &self,
        rig: &Rig,
        poster: &Poster,
        client: &Client,
        change: impl Fn(&mut Request),
    ) -> Result<Vec<Request>> {
        let mut requests = Vec::new();
        let open = |n: u32, posted: Posted| {
            let mut request = Request::get(rig.server, posted.stream, self.tokens.into());
            request.tag = n as usize;
            request.drop_at = self.drop_at;
            change(&mut request);
            (0..self.viewers).try_for_each(|_| client.open(request.clone()))?;
            requests.push(request);
            Ok(())
        };
        poster.say_evenly(self.streams, self.ramp, |n| self.prompt(n), open).await?;
        Ok(requests)
    }
}

/// Runs the load.
pub(crate) async fn run(name: &str, shape: &Shape, mut rig: Rig) -> Result<Figures> {
    let client = Client::start()?;
    let poster = rig.poster(shape.streams).await?;
    let before = rig.read().await?;
    let clock = Instant::now();
    shape.begin(&rig, &poster, &client, |_| {}).await?;
    let posted = clock.elapsed().as_secs_f64();
    eprintln!("{name}: posted {} in {posted:.1} s", shape.streams);
    let early = client.take()?;
    let all = shape.readers();
    let say = |progress: &Progress| tell(name, clock, progress);
    let over = |progress: &Progress| progress.ended.load(Ordering::Relaxed) >= all;
    // What isn't complete by then is a result, too.
    if let Err(error) = client.until(shape.limit(), over, say).await {
        eprintln!("{name}: {error}");
    }
    let after = rig.read().await?;
    let mut tally = client.finish()?;
    let later = Quantiles::of(&tally.latency);
    tally.add(early);
    let end = tally.last_end.unwrap_or_else(Instant::now);
    let wall = end.saturating_duration_since(clock).as_secs_f64();
    let mut figures = Figures::new(name, shape.asked(), tally, wall);
    Rig::charge(&mut figures, &before, after);
    figures.more.push(("posted in s".to_owned(), posted));
    figures.more.push(("p50 since then in ms".to_owned(), later.p50));
    figures.more.push(("p99".to_owned(), later.p99));
    figures
        .more
        .push(("Redis' data in MiB".to_owned(), rig.redis_memory().await? as f64 / 1048576.0));
    rig.complaints().iter().take(5).for_each(|line| eprintln!("{name}: rill says {line}"));
    Ok(figures)
}

/// Says how far it is.
pub(crate) fn tell(name: &str, clock: Instant, progress: &Progress) {
    let [opened, tokens, ended] =
        [&progress.opened, &progress.tokens, &progress.ended].map(|n| n.load(Ordering::Relaxed));
    let second = clock.elapsed().as_secs();
    eprintln!("{name}: {second} s, {opened} opened, {tokens} tokens, {ended} ended");
}
