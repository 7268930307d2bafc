//! Everything that a load runs on, of its own and fresh: Redis, PostgreSQL, the
//! simulator, an API, workers.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use crate::load::counters::{Commands, PostgresCounters, RedisCounters, commands_since};
use crate::load::figures::{Cost, Figures};
use crate::load::post::Poster;
use crate::load::process::Usage;
use crate::support::{PrivatePostgres, PrivateRedis, Process};

/// Where Redis listens beside its port.
const REDIS_SOCKET: &str = "redis.sock";
/// Slots of a worker, at least: what it has by default.
const SLOTS: u32 = 256;
/// And at most: it refuses more.
const MOST_SLOTS: u32 = 10_000;

/// How rill is to be started.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// Worker processes.
    pub(crate) workers: u32,
    /// Tasks that run at the same time, of all workers together.
    pub(crate) tasks: u32,
    /// The API's tail gets wake-up hints.
    pub(crate) hints: bool,
    /// Redis is reached over a Unix socket, and not over TCP.
    pub(crate) socket: bool,
}

/// A running rill, and what it needs. Dropped from top to bottom.
pub(crate) struct Rig {
    workers: Vec<Process>,
    api: Process,
    simulator: Process,
    redis_counters: RedisCounters,
    postgres_counters: PostgresCounters,
    redis_pid: i32,
    postgres_pid: i32,
    _redis: PrivateRedis,
    _postgres: PrivatePostgres,
    /// The API.
    pub(crate) server: SocketAddr,
}

/// A part by its name, whether it counts as the server, and what it has used.
type Part = (&'static str, bool, Usage);

/// What everything had used at one moment.
pub(crate) struct Reading {
    usages: Vec<Part>,
    /// Redis', by name.
    pub(crate) commands: Commands,
    /// PostgreSQL's.
    pub(crate) statements: u64,
}

impl Rig {
    pub(crate) async fn start(setup: &Setup) -> Result<Self> {
        // As scripts/run and docker-compose.yml have it; the socket is relative to
        // Redis' own directory.
        let redis = [["--stream-node-max-entries", "16"], ["--unixsocket", REDIS_SOCKET]].concat();
        let redis = start_redis(&redis).await;
        let postgres = PrivatePostgres::start_with("on");
        let mut redis_counters = RedisCounters::connect(&redis.url()).await?;
        let mut postgres_counters = PostgresCounters::connect(postgres.url()).await?;
        ensure!(postgres_counters.durable().await?, "PostgreSQL doesn't wait for the disk");
        let simulator = start_simulator();
        let model = address(&simulator, "a simulator is at").await?;
        let slots = setup.tasks.div_ceil(setup.workers.max(1)).clamp(SLOTS, MOST_SLOTS);
        let redis_url = match setup.socket {
            true => format!("unix://{}", redis.directory().join(REDIS_SOCKET).display()),
            false => redis.url(),
        };
        let environment = [
            ("DATABASE_URL", postgres.url().to_owned()),
            ("REDIS_URL", redis_url),
            ("RILL_LISTEN", "127.0.0.1:0".to_owned()),
            ("OPENAI_BASE_URL", format!("http://{model}/v1")),
            ("RILL_MODELS", "simulator".to_owned()),
            ("RILL_CONCURRENCY", slots.to_string()),
            ("RILL_MAX_CONNECTIONS", "30000".to_owned()),
            // As many as the machine allows.
            ("RILL_CHECKS", "warn".to_owned()),
            ("RILL_HINTS", if setup.hints { "on" } else { "off" }.to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value));
        let mut migrate = Process::start(&["migrate"], &environment);
        ensure!(migrate.ended().await.success(), "{}", migrate.log());
        let api = Process::start(&["api"], &environment);
        let server = address(&api, "rill is at").await?;
        let start_worker = |_| Process::start(&["worker"], &environment);
        Ok(Self {
            workers: (0..setup.workers).map(start_worker).collect(),
            api,
            simulator,
            redis_pid: redis_counters.pid().await?,
            postgres_pid: postgres_counters.pid().await?,
            redis_counters,
            postgres_counters,
            _redis: redis,
            _postgres: postgres,
            server,
        })
    }

    /// Who posts `messages`.
    pub(crate) async fn poster(&self, messages: u32) -> Result<Poster> {
        let mut poster = Poster::new(&format!("http://{}", self.server))?;
        poster.prepare(messages).await?;
        Ok(poster)
    }

    /// What everything has used so far.
    pub(crate) async fn read(&mut self) -> Result<Reading> {
        let workers = self.workers.iter().map(|worker| Usage::of(worker.pid()));
        let usages = vec![
            ("API", true, Usage::of(self.api.pid())),
            ("worker", true, workers.fold(Usage::default(), Usage::and)),
            ("Redis", true, Usage::of(self.redis_pid)),
            ("Postgres", true, Usage::of(self.postgres_pid)),
            ("simulator", false, Usage::of(self.simulator.pid())),
            ("client", false, own_usage()),
        ];
        let commands = self.redis_counters.commands().await?;
        Ok(Reading { usages, commands, statements: self.postgres_counters.statements().await? })
    }

    /// Adds to `figures` what was used between two moments.
    pub(crate) fn charge(figures: &mut Figures, before: &Reading, after: Reading) {
        figures.costs = costs(&after.usages, &before.usages);
        figures.statements = after.statements - before.statements;
        figures.commands = commands_since(after.commands, &before.commands);
    }

    /// Bytes that Redis' data takes.
    pub(crate) async fn redis_memory(&mut self) -> Result<u64> {
        self.redis_counters.memory().await
    }

    /// Errors and warnings that were logged; they belong to the result.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let logs = self.workers.iter().chain([&self.api]).map(Process::log);
        let odd = |line: &&str| line.contains("ERROR") || line.contains("WARN");
        logs.flat_map(|log| log.lines().filter(odd).map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }
}

impl Reading {
    /// What one part uses and has used.
    pub(crate) fn of(&self, name: &str) -> Usage {
        let found = self.usages.iter().find(|usage| usage.0 == name);
        found.map(|usage| usage.2).unwrap_or_default()
    }
}

/// What each part has used between two moments.
pub(crate) fn costs(after: &[Part], before: &[Part]) -> Vec<Cost> {
    let cost = |(now, before): (&Part, &Part)| Cost {
        name: now.0,
        counted: now.1,
        usage: now.2.since(before.2),
    };
    after.iter().zip(before).map(cost).collect()
}

/// A Redis that keeps its data, with these options beside.
pub(crate) async fn start_redis(options: &[&str]) -> PrivateRedis {
    let durable = ["--appendonly", "yes", "--appendfsync", "everysec"];
    PrivateRedis::start_with(&[&durable, options].concat(), &[]).await
}

/// The bench's own, most of it the client's.
pub(crate) fn own_usage() -> Usage {
    i32::try_from(std::process::id()).map(Usage::alone).unwrap_or_default()
}

pub(crate) fn start_simulator() -> Process {
    Process::start(&["simulate", "--listen", "127.0.0.1:0"], &[])
}

pub(crate) async fn address(process: &Process, text: &str) -> Result<SocketAddr> {
    let address = process.address(text).await;
    address.parse().with_context(|| format!("no address: {address}"))
}
