//! The two designs that rill is compared with, on rill's own stack: the same
//! accept loop and poem, the same client of the model, sqlx and redis-rs, tokio.
//!
//! What they share is here and in the files beside it; what tells them apart is
//! a [`Design`]: where chunks go, how readers get them, how jobs travel. API and
//! worker are processes of their own, as rill's are. Both are as good as their
//! design allows while everything works: a reader that comes back with the
//! number of its last chunk gets what follows, once and in order. Neither
//! survives what rill does: a worker that dies takes its tasks with it.

mod api;
mod channels;
mod database;
mod frames;
mod gauges;
mod list;
mod records;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use rill::http::{self, Limits};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use gauges::Gauges;
pub(crate) use gauges::{Shown, Spread};
use records::Records;

/// What makes the tables of both.
pub(crate) const SCHEMA: &str = include_str!("schema.sql");

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Rows, polled.
    Database,
    /// A list, and pub/sub.
    List,
}

/// What a process of it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Accepts messages, serves streams.
    Api,
    /// Calls the model, writes chunks.
    Worker,
}

/// One process of a baseline. For the bench itself.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Which baseline
    kind: Kind,
    /// Which of its processes
    role: Role,
    #[arg(long)]
    database_url: String,
    #[arg(long)]
    redis_url: String,
    /// Where the model is, with /v1
    #[arg(long)]
    model_url: String,
    /// Connections of its pool
    #[arg(long)]
    connections: u32,
    /// Tasks that a worker runs at the same time
    #[arg(long)]
    concurrency: usize,
    /// Chunks' commits don't wait for the disk
    #[arg(long)]
    relaxed: bool,
}

/// One event of a stream, without its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Its name.
    pub(crate) event: String,
    /// One line of JSON.
    pub(crate) data: String,
}

impl Chunk {
    /// Nothing follows it.
    fn is_terminal(&self) -> bool {
        self.event != "delta"
    }
}

/// A task that waits for a worker.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Job {
    id: Uuid,
    conversation_id: Uuid,
    message_id: Uuid,
}

/// What a worker takes: a job that it has begun, or one that it has yet to begin.
#[derive(Debug, Clone)]
pub(crate) enum Ticket {
    Begun(Job),
    Waiting(Uuid),
}

/// What tells the baselines apart.
pub(crate) trait Design: Clone + Send + Sync + 'static {
    /// Reads one stream.
    type Reader: Reader;

    /// A task was committed: lets workers know.
    fn submitted(&self, task: Uuid) -> impl Future<Output = Result<()>> + Send;

    /// Waits for jobs, and takes at most so many; perhaps none, after a while.
    fn jobs(&self, most: usize) -> impl Future<Output = Result<Vec<Ticket>>> + Send;

    /// Writes a task's chunk number `seq`, from 1, when that before it is written.
    fn append(
        &self,
        task: Uuid,
        seq: u64,
        chunk: &Chunk,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Reads a task's chunks after number `after`.
    fn read(&self, task: Uuid, after: u64) -> impl Future<Output = Result<Self::Reader>> + Send;
}

/// Reads one stream.
pub(crate) trait Reader: Send + 'static {
    /// Waits for the next chunks, at least one, in order.
    fn next(&mut self) -> impl Future<Output = Result<Vec<Chunk>>> + Send;
}

/// Runs a process of a baseline, until it is told to stop.
pub(crate) async fn serve(options: Options) -> Result<()> {
    // As `main` does; the second to try is told no, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let stop = rill::shutdown::on_signal()?;
    let gauges = Arc::new(Gauges::default());
    let records = Records::connect(&options.database_url, options.connections, options.relaxed)?;
    match options.kind {
        Kind::Database => {
            let design = database::Database::new(&records, gauges.clone());
            run(&options, design, records, gauges, stop).await
        }
        Kind::List => {
            let design = list::List::connect(&options.redis_url, gauges.clone()).await?;
            run(&options, design, records, gauges, stop).await
        }
    }
}

async fn run<D: Design>(
    options: &Options,
    design: D,
    records: Records,
    gauges: Arc<Gauges>,
    stop: CancellationToken,
) -> Result<()> {
    let listener = http::listen(SocketAddr::from(([127, 0, 0, 1], 0))).context("no free port")?;
    eprintln!("a baseline is at http://{}", listener.local_addr()?);
    // As rill's API has them. Streams that are open end with the process.
    let limits = Limits {
        max_connections: 30_000,
        max_requests: 30_000,
        drain_timeout: Duration::from_secs(1),
        ..Limits::default()
    };
    match options.role {
        Role::Api => {
            let api = api::Api { design, records, gauges };
            http::serve(listener, api, limits, stop).await;
        }
        Role::Worker => {
            let shown = api::Numbers(gauges.clone());
            let worker = worker::Worker::new(options, design, records, gauges)?;
            tokio::join!(http::serve(listener, shown, limits, stop.clone()), worker.run(stop));
        }
    }
    Ok(())
}
