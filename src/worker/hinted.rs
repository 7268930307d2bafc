//! Hints that a task should stop: each triggers a look at PostgreSQL, which alone
//! decides. Anybody who reaches Redis can send one.
//!
//! One statement for all that were hinted at since the last one, and at most one
//! in [`PACE`]: a flood of hints costs a worker twenty small statements a second.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;

use super::Worker;
use crate::domain::TaskId;
use crate::log_limit::LogLimit;
use crate::sync::lock;
use crate::tasks::PERSIST;

/// The time between two statements, at least. The first in a while waits for nothing.
const PACE: Duration = Duration::from_millis(50);

/// Tasks that were hinted at and not yet looked at: only such that run here, so
/// that they are as many as those at most.
#[derive(Debug, Default)]
pub(super) struct Hinted {
    tasks: Mutex<HashSet<TaskId>>,
    more: Notify,
}

impl Hinted {
    fn push(&self, task: TaskId) {
        lock(&self.tasks).insert(task);
        self.more.notify_one();
    }

    /// All of them, at least one.
    async fn take(&self) -> Vec<TaskId> {
        loop {
            let taken: Vec<_> = lock(&self.tasks).drain().collect();
            if !taken.is_empty() {
                return taken;
            }
            self.more.notified().await;
        }
    }
}

/// Takes a hint. Quick: it runs on the connection's task.
pub(super) fn hint(worker: &Worker, task: TaskId) {
    if worker.running.runs(task) {
        worker.hinted.push(task);
    }
}

/// Looks after hints, for ever. A look that fails is repeated; what ends first, it or
/// the next heartbeat, tells.
pub(super) async fn run(worker: &Worker) {
    static AWAY: LogLimit = LogLimit::new();
    let mut failures = 0;
    loop {
        let tasks = worker.hinted.take().await;
        match worker.tasks.store.cancelled_among(&tasks).await {
            Ok(cancelled) => {
                failures = 0;
                cancelled.into_iter().for_each(|task| worker.running.cancel(task));
            }
            Err(error) => {
                failures += 1;
                tasks.into_iter().for_each(|task| hint(worker, task));
                if let Some(skipped) = AWAY.pass() {
                    tracing::warn!(%error, skipped, "can't ask which tasks should stop; trying again");
                }
            }
        }
        let wait = if failures > 0 { PERSIST.delay(failures, rand::random()) } else { PACE };
        tokio::time::sleep(wait).await;
    }
}
