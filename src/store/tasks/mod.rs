//! Tasks: the transitions of `queued → running → done | failed | cancelled`.
//!
//! Each transition names the attempt that it leaves, so whoever was replaced
//! changes nothing (promise 3). None touches more than its task and message.

mod accept;
mod attempt;
mod end;
mod relay;
mod requeue;
mod view;

pub(in crate::store) use accept::Accept;
pub use accept::{Accepted, Idempotency, NewTask, Parent};
pub(in crate::store) use attempt::BeginAttempt;
pub use attempt::{Begin, Begun, RetryOutcome, SUSPECT};
pub(in crate::store) use end::End;
pub use end::{EndOutcome, Ending, Final};
pub use relay::Orphan;
pub use requeue::Requeued;
pub(in crate::store) use requeue::{REQUEUE, requeue_key};
pub(in crate::store) use view::Place;
pub use view::{StreamEnd, StreamPlace, Task};

use super::{Error, Result};

/// Why a task failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskError {
    /// A stable code, see [`crate::domain::task::code`].
    pub code: String,
    /// For people.
    pub message: String,
}

impl TaskError {
    /// As users are told: `told` by the task's end, if it has one. What the model's
    /// server said of an attempt that another follows is for operators.
    pub(in crate::store) fn told(code: String, told: Option<String>) -> Self {
        let message = told.unwrap_or_else(|| "An attempt failed.".to_owned());
        Self { code, message }
    }
}

pub(in crate::store) fn attempt(value: i64) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::Corrupt(format!("attempt {value}")))
}

pub(in crate::store) fn corrupt(error: impl std::fmt::Display) -> Error {
    Error::Corrupt(error.to_string())
}
