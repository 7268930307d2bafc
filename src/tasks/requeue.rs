//! Requeue: a failed task's question is asked again, by a new task.
//!
//! Dies before the commit: nothing happened. Dies after it: the relay queues the
//! new task a lease later. Repeating finds the new task, and makes no other.

use super::{ENQUEUE_WAIT, Result, Tasks};
use crate::domain::{MessageId, TaskId, TaskStatus};
use crate::metrics;
use crate::store;

/// What became of asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requeued {
    /// A new task answers. It is in the queue, or the relay adds it.
    New(TaskId),
    /// It was asked again before.
    Before(TaskId),
    /// The task has not failed.
    NotFailed(TaskStatus),
    /// The conversation went on behind the failed answer.
    MovedOn,
    /// The conversation was deleted.
    Deleted,
    /// There is no such task: its conversation was deleted long ago.
    Gone,
}

impl Tasks {
    /// Asks again what a failed task has not answered: with the same parameters
    /// and as much time, in a message of its own right behind the failed one.
    /// At most once for each failed task.
    ///
    /// # Errors
    /// When PostgreSQL is away: the outcome is unknown, repeating is safe.
    pub async fn requeue(&self, failed: TaskId) -> Result<Requeued> {
        let task = TaskId::generate();
        match self.store.requeue(failed, task, MessageId::generate()).await? {
            store::Requeued::New => {}
            store::Requeued::Before(task) => return Ok(Requeued::Before(task)),
            store::Requeued::NotFailed(status) => return Ok(Requeued::NotFailed(status)),
            store::Requeued::MovedOn => return Ok(Requeued::MovedOn),
            store::Requeued::Deleted => return Ok(Requeued::Deleted),
            store::Requeued::Gone => return Ok(Requeued::Gone),
        }
        metrics::task_accepted();
        if self.streams.enqueue(task, ENQUEUE_WAIT).await.is_err() {
            // So that the relay need not wait a lease. If this fails, it does.
            let _ = self.store.not_enqueued(task).await;
        }
        Ok(Requeued::New(task))
    }
}
