//! Cancel: recorded in PostgreSQL, then hinted.
//!
//! Dies after recording: a running attempt learns of it by its heartbeat, a
//! queued one is ended by the relay.

use futures_util::future::join_all;

use super::{Conclusion, Result, Tasks};
use crate::domain::{AccountId, TaskId, TaskStatus};
use crate::store::{Orphan, Task};

impl Tasks {
    /// Asks for a task to be stopped; answers with the task as it is then, or
    /// nothing if there is none. Of one that has ended nothing changes.
    ///
    /// # Errors
    /// When PostgreSQL is away: the outcome is unknown, repeating is safe.
    pub async fn cancel(&self, account: AccountId, task: TaskId) -> Result<Option<Task>> {
        let Some(mut seen) = self.store.request_cancel(account, task).await? else {
            return Ok(None);
        };
        if seen.status == TaskStatus::Queued {
            let orphan = Orphan { task, message: seen.message, seen: seen.seen() };
            self.end_orphan(orphan, Conclusion::Cancelled(None)).await?;
            // Ended, or begun meanwhile by a worker that then knows.
            seen = self.store.task(account, task).await?.unwrap_or(seen);
        }
        if seen.status == TaskStatus::Running {
            // Lost: the worker learns of it by its heartbeat.
            let _ = self.streams.hint_cancel(task).await;
        }
        Ok(Some(seen))
    }

    /// Stops tasks whose conversation was deleted. The request is recorded
    /// already, so what fails here is done by heartbeats and the relay.
    pub async fn cancel_all(&self, account: AccountId, tasks: &[TaskId]) {
        join_all(tasks.iter().map(|task| self.cancel(account, *task))).await;
    }
}
