//! What spans both stores: a task's transitions, one file each.
//!
//! PostgreSQL decides and Redis tells, in that order: an event that reports a
//! commit is appended after it, so a crash between the two leaves something
//! that anybody can finish. Each function says what happens when the process
//! dies in it.

mod accept;
mod cancel;
mod end;
mod follow;
mod readiness;
mod relay;
mod requeue;

use std::time::Duration;

pub use crate::streams::Entry;
pub use accept::{Accepted, Submission};
pub use end::Conclusion;
pub(crate) use follow::forwarded;
pub use follow::{Follow, Reader, watch_ends};
pub use readiness::Readiness;
pub use requeue::Requeued;

use crate::domain::retry::Backoff;
use crate::store::{self, Store};
use crate::streams::{self, Streams, tail::Tail};

/// Bounds of a task's life.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Tasks")]
#[group(skip)]
pub struct Options {
    /// How long a task may take in all, from its acceptance to its end
    #[arg(long, env = "RILL_TASK_DEADLINE", default_value = "1h", value_parser = crate::config::duration)]
    pub task_deadline: Duration,
}

/// Why a transition did not happen, or may not have.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PostgreSQL.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Redis.
    #[error(transparent)]
    Streams(#[from] streams::Error),
}

impl Error {
    /// Repeating won't help.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_permanent())
    }

    /// Repeating the call later may help.
    pub const fn is_unavailable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_unavailable(),
            Self::Streams(_) => true,
        }
    }
}

/// What every transition answers.
pub type Result<T> = std::result::Result<T, Error>;

/// How long accepting waits for Redis: a message is committed by then, and the
/// relay queues it when Redis is back.
const ENQUEUE_WAIT: Duration = Duration::from_millis(500);

/// How a step that must happen is repeated while a store is away.
pub(crate) const PERSIST: Backoff =
    Backoff { base: Duration::from_millis(100), max: Duration::from_secs(2) };

/// Acts on tasks. Clones share everything.
#[derive(Debug, Clone)]
pub struct Tasks {
    /// PostgreSQL.
    pub store: Store,
    /// Redis.
    pub streams: Streams,
    deadline: Duration,
    tail: Option<Tail>,
    readiness: readiness::Last,
}

impl Tasks {
    /// For a process that runs tasks; `tail` for one that serves streams.
    pub fn new(store: Store, streams: Streams, tail: Option<Tail>, options: &Options) -> Self {
        let deadline = options.task_deadline;
        Self { store, streams, deadline, tail, readiness: readiness::Last::default() }
    }
}
