//! The same client straight on the model: what nothing in between can undercut.
//! Or through another server, for comparison.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;

use crate::load::client::Client;
use crate::load::counters::RedisCounters;
use crate::load::figures::Figures;
use crate::load::process::Usage;
use crate::load::request::Request;
use crate::load::tally::Progress;
use crate::rig::{address, costs, own_usage, start_redis, start_simulator};
use crate::streams::{Shape, tell};
use crate::support::{PrivateRedis, Process};

/// Another server between the client and the model, and a Redis for it.
struct Relay {
    process: Process,
    redis_pid: i32,
    _redis: PrivateRedis,
    server: SocketAddr,
}

impl Relay {
    async fn start(command: &str, model: SocketAddr) -> Result<Self> {
        let redis = start_redis(&[]).await;
        let redis_pid = RedisCounters::connect(&redis.url()).await?.pid().await?;
        let environment = [
            ("REDIS_URL".to_owned(), redis.url()),
            ("OPENAI_BASE_URL".to_owned(), format!("http://{model}/v1")),
        ];
        let mut words = command.split_whitespace();
        let program = words.next().context("--relay is a command")?;
        let arguments: Vec<_> = words.collect();
        let process = Process::start_program(program, &arguments, &environment);
        let server = address(&process, "the relay is at").await?;
        Ok(Self { process, redis_pid, _redis: redis, server })
    }

    fn usages(&self) -> [(&'static str, Usage); 2] {
        [("relay", Usage::of(self.process.pid())), ("Redis", Usage::of(self.redis_pid))]
    }
}

/// Runs the load.
pub(crate) async fn run(name: &str, shape: &Shape, relay: Option<&str>) -> Result<Figures> {
    let simulator = start_simulator();
    let model = address(&simulator, "a simulator is at").await?;
    let relay = match relay {
        Some(command) => Some(Relay::start(command, model).await?),
        None => None,
    };
    let server = relay.as_ref().map_or(model, |relay| relay.server);
    let client = Client::start()?;
    let usages = || {
        let relay = relay.iter().flat_map(Relay::usages).map(|(name, usage)| (name, true, usage));
        let own =
            [("simulator", false, Usage::of(simulator.pid())), ("client", false, own_usage())];
        relay.chain(own).collect::<Vec<_>>()
    };
    let before = usages();
    let clock = Instant::now();
    let begin = tokio::time::Instant::now();
    let all = shape.streams * shape.viewers;
    for n in 0..all {
        tokio::time::sleep_until(begin + shape.ramp.mul_f64(f64::from(n) / f64::from(all))).await;
        let message = json!({ "role": "user", "content": shape.prompt(n) });
        let body = json!({ "model": "simulator", "stream": true, "messages": [message] });
        let mut request = Request::get(server, "/v1/chat/completions", shape.tokens.into());
        request.body = Some(body.to_string());
        client.open(request)?;
    }
    let say = |progress: &Progress| tell(name, clock, progress);
    let over = |progress: &Progress| progress.ended.load(Ordering::Relaxed) >= all.into();
    if let Err(error) = client.until(shape.limit(), over, say).await {
        eprintln!("{name}: {error}");
    }
    let after = usages();
    let tally = client.finish()?;
    let end = tally.last_end.unwrap_or_else(Instant::now);
    let wall = end.saturating_duration_since(clock).as_secs_f64();
    let mut figures = Figures::new(name, shape.asked(), tally, wall);
    figures.costs = costs(&after, &before);
    Ok(figures)
}
