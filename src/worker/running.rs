//! What this worker runs at the moment, and the switches to stop it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::domain::TaskId;

/// The switches of one attempt.
#[derive(Debug, Clone, Default)]
pub(super) struct Control {
    /// Another attempt has begun: stop, and write nothing more.
    pub(super) lost: CancellationToken,
    /// The caller wants it stopped.
    pub(super) cancelled: CancellationToken,
}

#[derive(Debug)]
struct Entry {
    attempt: u32,
    job: String,
    control: Control,
}

/// The attempts of this worker, by task.
#[derive(Debug, Default)]
pub(super) struct Running(Mutex<HashMap<TaskId, Entry>>);

impl Running {
    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an attempt; it is forgotten when the answered guard is dropped.
    pub(super) fn add(&self, task: TaskId, attempt: u32, job: &str) -> (Control, Guard<'_>) {
        let control = Control::default();
        let entry = Entry { attempt, job: job.to_owned(), control: control.clone() };
        if let Some(before) = self.lock().insert(task, entry) {
            before.control.lost.cancel();
        }
        (control, Guard { running: self, task, attempt })
    }

    /// The job belongs to an attempt that runs here.
    pub(super) fn has_job(&self, job: &str) -> bool {
        self.lock().values().any(|entry| entry.job == job)
    }

    /// The task runs here.
    pub(super) fn has_task(&self, task: TaskId) -> bool {
        self.lock().contains_key(&task)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Tasks and their attempts.
    pub(super) fn attempts(&self) -> Vec<(TaskId, u32)> {
        self.lock().iter().map(|(task, entry)| (*task, entry.attempt)).collect()
    }

    /// Jobs to renew.
    pub(super) fn jobs(&self) -> Vec<String> {
        self.lock().values().map(|entry| entry.job.clone()).collect()
    }

    /// The caller wants the task stopped.
    pub(super) fn cancel(&self, task: TaskId) {
        if let Some(entry) = self.lock().get(&task) {
            entry.control.cancelled.cancel();
        }
    }

    /// Another attempt than `attempt` has begun.
    pub(super) fn lose(&self, task: TaskId, attempt: u32) {
        if let Some(entry) = self.lock().get(&task)
            && entry.attempt == attempt
        {
            entry.control.lost.cancel();
        }
    }
}

/// Forgets an attempt when dropped.
pub(super) struct Guard<'a> {
    running: &'a Running,
    task: TaskId,
    attempt: u32,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let mut running = self.running.lock();
        if running.get(&self.task).is_some_and(|entry| entry.attempt == self.attempt) {
            running.remove(&self.task);
        }
    }
}
