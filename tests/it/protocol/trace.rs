//! What a chaos run observes of one task.
//!
//! Four sources, each in its own order; how they interleaved is not known, and
//! [`replay`](super::replay::replay) looks for an order that the protocol
//! allows. A trace is one line of JSON ([`TaskTrace::to_line`]).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Everything that was seen of one task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskTrace {
    /// Which task; only for people.
    pub(crate) task: String,
    /// The task's row after each change, oldest first; the first is its insert.
    pub(crate) db: Vec<RowSeen>,
    /// What happened to the task's stream, oldest first.
    #[serde(default)]
    pub(crate) log: Vec<LogSeen>,
    /// What happened to the task's entries in the job stream, oldest first.
    #[serde(default)]
    pub(crate) jobs: Vec<JobSeen>,
    /// How many calls of the model got as far as a first token, if known. (Those
    /// that fail before it are repeated within an attempt.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) calls: Option<u32>,
    /// The text of the committed answer (`messages.answer`), if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) answer: Option<String>,
    /// The run is over and the task has had the time to end: a trace that ends
    /// otherwise breaks promise 1.
    #[serde(default)]
    pub(crate) settled: bool,
}

/// The row of `tasks` as a trigger sees it (`AFTER INSERT OR UPDATE`, only when
/// one of these columns changed).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RowSeen {
    /// `queued`, `running`, `done`, `failed` or `cancelled`.
    pub(crate) status: String,
    /// The newest attempt, 0 before the first.
    pub(crate) attempt: u32,
    /// `worker_id`.
    #[serde(default)]
    pub(crate) worker: Option<String>,
    /// `claim_id`.
    #[serde(default)]
    pub(crate) claim: Option<String>,
    /// Failures counted.
    #[serde(default)]
    pub(crate) failures: u32,
    /// `cancel_requested_at IS NOT NULL`.
    #[serde(default)]
    pub(crate) cancel_requested: bool,
    /// `run_after IS NULL`: nothing holds it back.
    #[serde(default = "yes")]
    pub(crate) queued_due: bool,
    /// `final_id`, such as `2-17`.
    #[serde(default)]
    pub(crate) final_id: Option<String>,
    /// `final_event`: the terminal event's name.
    #[serde(default)]
    pub(crate) final_event: Option<String>,
    /// `final_data`: the terminal event's data, if the harness records it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) final_data: Option<String>,
    /// Whether the worker of the row *before* this change (`OLD.worker_id`) had
    /// a heartbeat within a lease at that moment. Unknown is never a violation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner_fresh: Option<bool>,
}

const fn yes() -> bool {
    true
}

/// One thing that happened to the task's stream, from Redis' append-only file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub(crate) enum LogSeen {
    /// An entry was added.
    Append {
        /// Its ID.
        id: String,
        /// Field `e`.
        event: String,
        /// Field `d`, whole: deltas and snapshots are read back.
        data: String,
    },
    /// The key is gone: deleted, flushed or expired.
    Gone,
    /// Redis came back without its tail: the entries from this ID on.
    Lost {
        /// The first ID that is missing.
        from: String,
    },
}

/// One thing that happened to one of the task's entries in the job stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub(crate) enum JobSeen {
    /// An entry was added.
    Added {
        /// Its ID.
        entry: String,
    },
    /// An entry was delivered (`XREADGROUP`) to a consumer or claimed
    /// (`XAUTOCLAIM`) by it. Optional: without it, less is checked.
    Delivered {
        /// Its ID.
        entry: String,
        /// The consumer's name: the worker's ID.
        consumer: String,
    },
    /// An entry was acknowledged and deleted by a worker (`XDEL`).
    Deleted {
        /// Its ID.
        entry: String,
    },
    /// Redis lost it (restart, flush).
    Lost {
        /// Its ID.
        entry: String,
    },
}

impl TaskTrace {
    /// As one line of JSON.
    ///
    /// # Errors
    /// Never, for what this type can hold.
    pub(crate) fn to_line(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// From one line of JSON.
    ///
    /// # Errors
    /// When it is no trace.
    pub(crate) fn from_line(line: &str) -> serde_json::Result<Self> {
        serde_json::from_str(line)
    }
}

/// A trace that the protocol allows, in figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// Observations that were put in order.
    pub(crate) steps: usize,
    /// Combinations of positions that were looked at for it.
    pub(crate) tried: usize,
}

/// Where in a trace: the source and the index in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// `db[n]`
    Db(usize),
    /// `log[n]`
    Log(usize),
    /// `jobs[n]`
    Jobs(usize),
    /// The trace as a whole.
    End,
}

/// A trace that the protocol does not allow: the first observation that cannot
/// happen in any order, and the rule that it breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Which observation.
    pub(crate) place: Place,
    /// The observation, for people.
    pub(crate) seen: String,
    /// The rule.
    pub(crate) rule: &'static str,
    /// What was expected, for people.
    pub(crate) detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, seen, rule, detail } = self;
        write!(f, "{place:?}: {seen}\n  breaks: {rule}\n  {detail}")
    }
}

impl std::error::Error for Violation {}
