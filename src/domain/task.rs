//! A task's states, and the codes that say why one failed.
//!
//! `queued → running → done | failed | cancelled`; `running → queued` on a
//! retry. PostgreSQL is the authority.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    /// Accepted, waiting for a worker.
    Queued,
    /// A worker has it.
    Running,
    /// The answer is complete.
    Done,
    /// Given up; partial text is kept.
    Failed,
    /// Stopped by the caller; partial text is kept.
    Cancelled,
}

impl TaskStatus {
    /// As stored and as sent.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Nothing changes any more.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for TaskStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A status that this version doesn't know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown task status {0:?}")]
pub struct UnknownStatus(pub String);

impl FromStr for TaskStatus {
    type Err = UnknownStatus;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(match s {
            "queued" => Self::Queued,
            "running" => Self::Running,
            "done" => Self::Done,
            "failed" => Self::Failed,
            "cancelled" => Self::Cancelled,
            other => return Err(UnknownStatus(other.to_owned())),
        })
    }
}

/// Why a task failed: the stable `code` of `failed` and `retrying` events.
pub mod code {
    /// The model's server could not be reached, or broke the connection.
    pub const UPSTREAM_UNAVAILABLE: &str = "upstream_unavailable";
    /// The model's server answered 5xx.
    pub const UPSTREAM_ERROR: &str = "upstream_error";
    /// The model's server answered 429.
    pub const UPSTREAM_RATE_LIMITED: &str = "upstream_rate_limited";
    /// The model's server refused the request (4xx): repeating won't help.
    pub const UPSTREAM_REJECTED: &str = "upstream_rejected";
    /// The model sent what isn't its wire format.
    pub const UPSTREAM_MALFORMED: &str = "upstream_malformed";
    /// The model ended its stream without a finish reason.
    pub const UPSTREAM_INCOMPLETE: &str = "upstream_incomplete";
    /// The model said nothing for longer than the idle timeout.
    pub const UPSTREAM_IDLE: &str = "upstream_idle";
    /// The answer grew beyond the cap.
    pub const ANSWER_TOO_LARGE: &str = "answer_too_large";
    /// What the model must be told is larger than a prompt may be.
    pub const PROMPT_TOO_LARGE: &str = "prompt_too_large";
    /// The task was not finished before its deadline.
    pub const DEADLINE_EXCEEDED: &str = "deadline_exceeded";
    /// Workers died of it too often.
    pub const WORKER_LOST: &str = "worker_lost";
    /// The model is not, or no longer, configured.
    pub const UNKNOWN_MODEL: &str = "unknown_model";
    /// A defect of rill.
    pub const INTERNAL: &str = "internal";

    /// A task that failed so was tried as often as is allowed, and given up on.
    /// The other codes say that trying again wouldn't have helped.
    pub fn is_given_up(code: &str) -> bool {
        [
            UPSTREAM_UNAVAILABLE,
            UPSTREAM_ERROR,
            UPSTREAM_RATE_LIMITED,
            UPSTREAM_MALFORMED,
            UPSTREAM_INCOMPLETE,
            UPSTREAM_IDLE,
            WORKER_LOST,
        ]
        .contains(&code)
    }
}
