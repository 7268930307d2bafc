//! What a run takes place on, of its own and fresh: Redis, PostgreSQL, the
//! model, and one design's API and worker.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, PgConnection};

use crate::architecture::Architecture;
use crate::baseline;
use crate::load::counters::{Commands, PostgresCounters, RedisCounters, commands_since};
use crate::load::figures::{Cost, Figures};
use crate::load::process::Usage;
use crate::support::{PrivatePostgres, PrivateRedis, Process};

/// What a fresh server does first is then done.
const SETTLE: Duration = Duration::from_secs(2);

/// How the processes are to be started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) architecture: Architecture,
    /// Tasks that run at the same time.
    pub(crate) tasks: u32,
    /// Connections of each pool.
    pub(crate) connections: u32,
}

/// The processes. Dropped from top to bottom.
pub(crate) struct Stage {
    worker: Process,
    api: Process,
    simulator: Process,
    redis_counters: RedisCounters,
    postgres_counters: PostgresCounters,
    redis_pid: i32,
    postgres_pid: i32,
    pub(crate) redis: PrivateRedis,
    pub(crate) postgres: PrivatePostgres,
    pub(crate) architecture: Architecture,
    /// The API.
    pub(crate) server: SocketAddr,
    /// Where the worker shows its numbers.
    pub(crate) worker_numbers: SocketAddr,
}

/// What everything had used at one moment.
pub(crate) struct Reading {
    usages: Vec<(&'static str, bool, Usage)>,
    commands: Commands,
    statements: u64,
}

impl Stage {
    pub(crate) async fn start(setup: Setup) -> Result<Self> {
        let redis =
            ["--appendonly", "yes", "--appendfsync", "everysec", "--stream-node-max-entries", "16"];
        let redis = PrivateRedis::start_with(&redis, &[]).await;
        let postgres = PrivatePostgres::start_with("on");
        let mut redis_counters = RedisCounters::connect(&redis.url()).await?;
        let mut postgres_counters = PostgresCounters::connect(postgres.url()).await?;
        ensure!(postgres_counters.durable().await?, "PostgreSQL doesn't wait for the disk");
        let simulator = Process::start(&["simulate", "--listen", "127.0.0.1:0"], &[]);
        let model = format!("http://{}/v1", address(&simulator, "a simulator is at").await?);
        let urls = Urls { redis: redis.url(), postgres: postgres.url().to_owned(), model };
        let started = match setup.architecture {
            Architecture::Rill => start_rill(setup, &urls).await?,
            _ => start_baseline(setup, &urls).await?,
        };
        tokio::time::sleep(SETTLE).await;
        Ok(Self {
            worker: started.worker,
            api: started.api,
            server: started.server,
            worker_numbers: started.worker_numbers,
            simulator,
            redis_pid: redis_counters.pid().await?,
            postgres_pid: postgres_counters.pid().await?,
            redis_counters,
            postgres_counters,
            redis,
            postgres,
            architecture: setup.architecture,
        })
    }

    /// What everything has used so far.
    pub(crate) async fn read(&mut self) -> Result<Reading> {
        let own = i32::try_from(std::process::id()).map(Usage::alone).unwrap_or_default();
        let usages = vec![
            ("API", true, Usage::of(self.api.pid())),
            ("worker", true, Usage::of(self.worker.pid())),
            ("Redis", true, Usage::of(self.redis_pid)),
            ("Postgres", true, Usage::of(self.postgres_pid)),
            ("simulator", false, Usage::of(self.simulator.pid())),
            ("client", false, own),
        ];
        let commands = self.redis_counters.commands().await?;
        Ok(Reading { usages, commands, statements: self.postgres_counters.statements().await? })
    }

    /// Adds to `figures` what was used between two moments.
    pub(crate) fn charge(figures: &mut Figures, before: &Reading, after: Reading) {
        let pairs = after.usages.iter().zip(&before.usages);
        let cost = |(now, before): (&(_, _, Usage), &(_, _, Usage))| Cost {
            name: now.0,
            counted: now.1,
            usage: now.2.since(before.2),
        };
        figures.costs = pairs.map(cost).collect();
        figures.statements = after.statements - before.statements;
        figures.commands = commands_since(after.commands, &before.commands);
    }

    pub(crate) fn api_pid(&self) -> i32 {
        self.api.pid()
    }

    /// What API and worker complained about; it belongs to the result.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let odd = |line: &&str| {
            ["ERROR", "WARN", "fail", "breaks off", "can't", "has no end", "panicked"]
                .iter()
                .any(|sign| line.contains(sign))
        };
        let logs = [self.api.log(), self.worker.log()];
        logs.iter().flat_map(|log| log.lines().filter(odd).map(str::to_owned)).collect()
    }
}

/// Where the servers are.
struct Urls {
    redis: String,
    postgres: String,
    model: String,
}

/// One design's processes.
struct Started {
    api: Process,
    worker: Process,
    server: SocketAddr,
    worker_numbers: SocketAddr,
}

async fn start_rill(setup: Setup, urls: &Urls) -> Result<Started> {
    let worker_numbers = free_address()?;
    // 256 tasks is what a worker has by default.
    let slots = setup.tasks.max(256);
    let environment = [
        ("DATABASE_URL", urls.postgres.clone()),
        ("REDIS_URL", urls.redis.clone()),
        ("OPENAI_BASE_URL", urls.model.clone()),
        ("RILL_LISTEN", "127.0.0.1:0".to_owned()),
        ("RILL_MODELS", "simulator".to_owned()),
        ("RILL_CONCURRENCY", slots.to_string()),
        ("RILL_MAX_CONNECTIONS", "30000".to_owned()),
        // As many as the machine allows.
        ("RILL_CHECKS", "warn".to_owned()),
        ("RILL_DATABASE_CONNECTIONS", setup.connections.to_string()),
        ("RILL_METRICS_LISTEN", worker_numbers.to_string()),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value));
    let mut migrate = Process::start(&["migrate"], &environment);
    ensure!(migrate.ended().await.success(), "{}", migrate.log());
    let api = Process::start(&["api"], &environment);
    let server = address(&api, "rill is at").await?;
    let worker = Process::start(&["worker"], &environment);
    worker.logged("metrics at").await;
    Ok(Started { api, worker, server, worker_numbers })
}

async fn start_baseline(setup: Setup, urls: &Urls) -> Result<Started> {
    let mut database = PgConnection::connect(&urls.postgres).await?;
    sqlx::raw_sql(baseline::SCHEMA).execute(&mut database).await?;
    let program = std::env::current_exe()?;
    let program = program.to_str().context("the bench's path is not UTF-8")?;
    let kind = match setup.architecture {
        Architecture::List => "list",
        _ => "database",
    };
    let start = |role| {
        let (connections, tasks) =
            (setup.connections.to_string(), setup.tasks.max(256).to_string());
        let mut arguments = vec![
            "serve",
            kind,
            role,
            "--database-url",
            &urls.postgres,
            "--redis-url",
            &urls.redis,
            "--model-url",
            &urls.model,
            "--connections",
            &connections,
            "--concurrency",
            &tasks,
        ];
        if setup.architecture == Architecture::DatabaseRelaxed {
            arguments.push("--relaxed");
        }
        Process::start_program(program, &arguments, &[])
    };
    let (api, worker) = (start("api"), start("worker"));
    let server = address(&api, "a baseline is at").await?;
    let worker_numbers = address(&worker, "a baseline is at").await?;
    Ok(Started { api, worker, server, worker_numbers })
}

async fn address(process: &Process, text: &str) -> Result<SocketAddr> {
    let address = process.address(text).await;
    address.parse().with_context(|| format!("no address: {address}"))
}

/// Free a moment ago: for what can't say which port it was given.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
