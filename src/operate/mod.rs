//! What operators ask and do: `rill queue`, `workers`, `dead`, `task`, `models`; and what
//! a process looks at when it starts ([`startup`]).
//!
//! The commands (but `models`) ask the stores, never a rill process. Ages are on the servers'
//! clocks. Where one of the stores is away they print what the other knows, say
//! what is missing, and end with an error.

pub mod dead;
pub mod models;
mod output;
mod queue;
pub mod startup;
mod story;
pub mod task;
mod verdict;
mod workers;

use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::model::catalog;
use crate::store::{self, Store};
use crate::streams::{self, Streams};
use crate::tasks::{self, Tasks};

pub use queue::queue;
pub use workers::workers;

/// Where the stores are, and how to answer.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Options {
    /// PostgreSQL.
    #[command(flatten)]
    pub database: store::Address,
    /// Redis.
    #[command(flatten)]
    pub redis: streams::Address,
    /// How long a worker may be silent before others take over its tasks
    #[arg(long, global = true, env = "RILL_LEASE", default_value = "15s", value_parser = crate::config::duration, help_heading = "Worker")]
    pub lease: Duration,
    /// Answer in JSON, for scripts
    #[arg(long, global = true)]
    pub json: bool,
}

/// Why a command did not do all that it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option can't be used.
    #[error("{0}")]
    Invalid(String),
    /// What was asked for isn't there, or can't be done; what to do instead.
    #[error("{0}")]
    Refused(String),
    /// The models' options don't fit together.
    #[error(transparent)]
    Models(#[from] catalog::Error),
    /// A store is away.
    #[error("{}", missing(.0))]
    Unavailable(Vec<Unavailable>),
    /// A store was away in the middle.
    #[error(transparent)]
    Tasks(#[from] tasks::Error),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Tasks(error.into())
    }
}

impl From<streams::Error> for Error {
    fn from(error: streams::Error) -> Self {
        Self::Tasks(error.into())
    }
}

/// What every command answers.
pub type Result<T> = std::result::Result<T, Error>;

/// A store that could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unavailable {
    /// PostgreSQL or Redis.
    pub store: &'static str,
    /// Why.
    pub error: String,
}

fn missing(unavailable: &[Unavailable]) -> String {
    let option = |store: &str| if store == "Redis" { "REDIS_URL" } else { "DATABASE_URL" };
    let one = |away: &Unavailable| {
        let Unavailable { store, error } = away;
        format!("what {store} knows is missing: {error}. (Is {} right?)", option(store))
    };
    unavailable.iter().map(one).collect::<Vec<_>>().join("\nrill: ")
}

/// How long connecting may take.
const REACH: Duration = Duration::from_secs(3);
/// How long one question may take in all.
const ASK: Duration = Duration::from_secs(10);

/// Both stores, as far as they are there.
struct Desk {
    tasks: Tasks,
    lease: Duration,
    json: bool,
    unavailable: Vec<Unavailable>,
    closing: CancellationToken,
}

impl Desk {
    async fn open(options: &Options) -> Result<Self> {
        let closing = CancellationToken::new();
        let store = Store::at(&options.database, 2)
            .map_err(|error| Error::Invalid(format!("DATABASE_URL can't be used: {error}")))?;
        let streams = Streams::observe(&options.redis, closing.clone())
            .map_err(|error| Error::Invalid(format!("REDIS_URL can't be used: {error}")))?;
        let (postgresql, redis) = tokio::join!(store.reach(REACH), streams.reach(REACH));
        // Nothing is accepted here, so the deadline doesn't matter.
        let bounds = tasks::Options { task_deadline: Duration::ZERO };
        let mut desk = Self {
            tasks: Tasks::new(store, streams, None, &bounds),
            lease: options.lease,
            json: options.json,
            unavailable: Vec::new(),
            closing,
        };
        let schema = match postgresql {
            Ok(()) => desk.tasks.store.check_schema().await,
            Err(error) => Err(error),
        };
        if let Some(findings) = desk.note("PostgreSQL", schema) {
            let breaking = findings.into_iter().find(|finding| finding.breaks);
            desk.note("PostgreSQL", breaking.map_or(Ok(()), |finding| Err(finding.text)));
        }
        desk.note("Redis", redis);
        if desk.unavailable.is_empty() {
            let compared = desk.compare().await;
            desk.note("Redis", compared);
        }
        Ok(desk)
    }

    /// That both stores are one deployment's: letters of another's must not be
    /// dropped.
    async fn compare(&self) -> std::result::Result<(), String> {
        let Tasks { store, streams, .. } = &self.tasks;
        let id = store.deployment().await.map_err(|error| error.to_string())?;
        let other = streams.check_deployment(id).await.map_err(|error| error.to_string())?;
        other.map_or(Ok(()), |finding| Err(finding.text))
    }

    fn note<T, E: std::fmt::Display>(
        &mut self,
        store: &'static str,
        answer: std::result::Result<T, E>,
    ) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.unavailable.push(Unavailable { store, error: error.to_string() });
                None
            }
        }
    }

    fn is_away(&self, store: &str) -> bool {
        self.unavailable.iter().any(|away| away.store == store)
    }

    /// Asks PostgreSQL, if it is there.
    async fn ask_store<T>(
        &mut self,
        question: impl AsyncFnOnce(&Store, Duration) -> store::Result<T>,
    ) -> Option<T> {
        if self.is_away("PostgreSQL") {
            return None;
        }
        let answer = question(&self.tasks.store, self.lease).await;
        self.note("PostgreSQL", answer)
    }

    /// Asks Redis, if it is there.
    async fn ask_streams<T>(
        &mut self,
        question: impl AsyncFnOnce(&Streams) -> streams::Result<T>,
    ) -> Option<T> {
        if self.is_away("Redis") {
            return None;
        }
        let answer = match tokio::time::timeout(ASK, question(&self.tasks.streams)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no whole answer within {}", humantime::format_duration(ASK))),
        };
        self.note("Redis", answer)
    }

    /// Both have to be there.
    fn needs_both(&self) -> Result<()> {
        match self.unavailable.is_empty() {
            true => Ok(()),
            false => Err(Error::Unavailable(self.unavailable.clone())),
        }
    }

    /// Prints the answer; an error if a part of it is missing.
    fn answer(&self, view: &impl Serialize, human: impl FnOnce() -> String) -> Result<()> {
        if self.json {
            output::json(view);
        } else {
            output::text(&human());
        }
        self.needs_both()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}
