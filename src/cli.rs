//! The command line: one binary, a role for each kind of process.

use clap::{Args, Parser, Subcommand};

use crate::model::{catalog, simulator};
use crate::{api, http, operate, runtime, store, streams, tasks, telemetry, worker};

/// Durable, resumable LLM token streams, native to Redis Streams.
///
/// POST a message, follow its answer over server-sent events, lose the
/// connection, come back with Last-Event-ID: nothing is lost and nothing is
/// generated twice. Every option can be given as the environment variable that
/// stands beside it.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// What the process is.
    #[command(subcommand)]
    pub command: Command,
    /// How it logs.
    #[command(flatten)]
    pub telemetry: telemetry::Options,
    /// What it runs on.
    #[command(flatten)]
    pub runtime: runtime::Options,
}

/// What a process can be.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Everything in one process: migrations, API and worker; and the simulator, if no model is
    /// configured
    Up(Box<Up>),
    /// The HTTP API: accepts messages, serves streams
    Api(Box<Api>),
    /// A worker: runs tasks
    Worker(Box<Worker>),
    /// Brings PostgreSQL's schema up to date, and ends
    Migrate(store::Options),
    /// Prints the OpenAPI document
    Openapi,
    /// A model for trying out and for tests: OpenAI's wire format, invented answers
    Simulate(simulator::Options),
    /// Asks a process whether it is ready; exit status 0 if it is
    Healthcheck(Healthcheck),
    /// The models that the options describe, or what is wrong with them; starts nothing
    Models(operate::models::Options),
    /// How much is waiting and running, for how long, and who works on it
    Queue(operate::Options),
    /// The workers: who is alive, and what they have
    Workers(operate::Options),
    /// What was given up on: list it, show it, ask again, drop it
    Dead(operate::dead::Options),
    /// One task's whole story, and what happens next
    Task(operate::task::Options),
}

/// Where the two stores are.
#[derive(Debug, Args)]
pub struct Stores {
    /// PostgreSQL.
    #[command(flatten)]
    pub database: store::Options,
    /// Redis.
    #[command(flatten)]
    pub redis: streams::Options,
    /// Tasks.
    #[command(flatten)]
    pub tasks: tasks::Options,
}

/// Options of `up`.
#[derive(Debug, Args)]
pub struct Up {
    /// The stores.
    #[command(flatten)]
    pub stores: Stores,
    /// What is checked.
    #[command(flatten)]
    pub checks: operate::startup::Options,
    /// The API.
    #[command(flatten)]
    pub api: api::Options,
    /// The tail.
    #[command(flatten)]
    pub tail: streams::tail::Options,
    /// The worker.
    #[command(flatten)]
    pub worker: worker::Options,
    /// The models.
    #[command(flatten)]
    pub models: catalog::Options,
}

/// Options of `api`.
#[derive(Debug, Args)]
pub struct Api {
    /// The stores.
    #[command(flatten)]
    pub stores: Stores,
    /// What is checked.
    #[command(flatten)]
    pub checks: operate::startup::Options,
    /// The API.
    #[command(flatten)]
    pub api: api::Options,
    /// The tail.
    #[command(flatten)]
    pub tail: streams::tail::Options,
    /// The models.
    #[command(flatten)]
    pub models: catalog::Options,
}

/// Options of `worker`.
#[derive(Debug, Args)]
pub struct Worker {
    /// The stores.
    #[command(flatten)]
    pub stores: Stores,
    /// What is checked.
    #[command(flatten)]
    pub checks: operate::startup::Options,
    /// The worker.
    #[command(flatten)]
    pub worker: worker::Options,
    /// The models.
    #[command(flatten)]
    pub models: catalog::Options,
    /// Where to serve /metrics, /healthz and /readyz, as in 127.0.0.1:9100; nowhere if left out
    #[arg(long, env = "RILL_METRICS_LISTEN")]
    pub metrics_listen: Option<http::Address>,
}

/// Options of `healthcheck`.
#[derive(Debug, Args)]
pub struct Healthcheck {
    /// What to ask
    #[arg(long, env = "RILL_HEALTHCHECK_URL", default_value = "http://127.0.0.1:8080/readyz")]
    pub url: String,
}
