//! Relay: what should be in the queue and isn't, is added; what nobody can end
//! any more, is ended.
//!
//! Any process may run it, as often as it likes: an advisory lock lets one at a
//! time take tasks, and what it took and did not add (it died, Redis went
//! away) is taken again a lease later. A duplicate job is harmless.

use std::time::Duration;

use super::{Conclusion, Result, Tasks};
use crate::domain::TaskStatus;
use crate::domain::task::code;
use crate::store::{Orphan, TaskError};

/// Tasks that one pass takes at most.
const BATCH: i64 = 500;

impl Tasks {
    /// Adds jobs that are missing from the queue: accepted while Redis was
    /// away, due for another try, lost by Redis, or running under a worker that
    /// died. Answers with how many.
    ///
    /// A task is missing only if it was added more than a lease before the
    /// oldest job that is still waiting: a backlog is served in order, so what
    /// was added later simply hasn't had its turn.
    ///
    /// # Errors
    /// When either store is away. Nothing is taken while Redis is.
    pub async fn relay(&self, lease: Duration) -> Result<usize> {
        let waiting = self.streams.backlog_age().await?;
        let tasks = self.store.take_unqueued(lease, lease + waiting, BATCH).await?;
        self.streams.enqueue_all(&tasks).await?;
        Ok(tasks.len())
    }

    /// Ends tasks that are past their deadline, or queued although a stop was
    /// asked for.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn end_overdue(&self, lease: Duration) -> Result<usize> {
        let overdue = self.store.overdue(lease, BATCH).await?;
        let count = overdue.len();
        let conclude = |(orphan, cancelled): (Orphan, bool)| {
            let conclusion = if cancelled && orphan.seen.status == TaskStatus::Queued {
                Conclusion::Cancelled(None)
            } else {
                let error = TaskError {
                    code: code::DEADLINE_EXCEEDED.to_owned(),
                    message: "The task was not finished before its deadline.".to_owned(),
                };
                Conclusion::Failed { error, told: None, usage: None, failures: None }
            };
            (orphan, conclusion)
        };
        self.end_orphans(overdue.into_iter().map(conclude).collect()).await;
        Ok(count)
    }
}
