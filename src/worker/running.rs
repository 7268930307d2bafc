//! What this worker runs at the moment, and the switches to stop it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use tokio_util::sync::CancellationToken;

use crate::domain::{Fence, TaskId};
use crate::sync::lock;

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
    fence: Fence,
    job: String,
    control: Control,
}

/// The attempts of this worker, by task, and the jobs that it is about to begin.
#[derive(Debug, Default)]
pub(super) struct Running {
    attempts: Mutex<HashMap<TaskId, Entry>>,
    beginning: Mutex<HashMap<String, TaskId>>,
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, Entry>> {
        lock(&self.attempts)
    }

    fn beginning(&self) -> MutexGuard<'_, HashMap<String, TaskId>> {
        lock(&self.beginning)
    }

    /// Notes a job that is about to be begun, so that it is renewed and not
    /// taken twice, until the answered guard is dropped.
    pub(super) fn begin(&self, task: TaskId, job: &str) -> Beginning<'_> {
        self.beginning().insert(job.to_owned(), task);
        Beginning { running: self, job: job.to_owned() }
    }

    /// Notes an attempt; it is forgotten when the answered guard is dropped.
    pub(super) fn add(&self, task: TaskId, fence: Fence, job: &str) -> (Control, Guard<'_>) {
        let control = Control::default();
        let entry = Entry { fence, job: job.to_owned(), control: control.clone() };
        if let Some(before) = self.lock().insert(task, entry) {
            before.control.lost.cancel();
        }
        (control, Guard { running: self, task, fence })
    }

    /// The job belongs to an attempt that runs here, or is about to.
    pub(super) fn has_job(&self, job: &str) -> bool {
        self.beginning().contains_key(job) || self.lock().values().any(|entry| entry.job == job)
    }

    /// The task runs here, or is about to.
    pub(super) fn has_task(&self, task: TaskId) -> bool {
        self.beginning().values().any(|beginning| *beginning == task)
            || self.lock().contains_key(&task)
    }

    /// An attempt of the task runs here.
    pub(super) fn runs(&self, task: TaskId) -> bool {
        self.lock().contains_key(&task)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Tasks and their attempts.
    pub(super) fn attempts(&self) -> Vec<(TaskId, Fence)> {
        self.lock().iter().map(|(task, entry)| (*task, entry.fence)).collect()
    }

    /// Jobs to renew.
    pub(super) fn jobs(&self) -> Vec<String> {
        let mut jobs: Vec<_> = self.beginning().keys().cloned().collect();
        jobs.extend(self.lock().values().map(|entry| entry.job.clone()));
        jobs
    }

    /// The caller wants the task stopped.
    pub(super) fn cancel(&self, task: TaskId) {
        if let Some(entry) = self.lock().get(&task) {
            entry.control.cancelled.cancel();
        }
    }

    /// Another attempt than this one has begun.
    pub(super) fn lose(&self, task: TaskId, fence: Fence) {
        if let Some(entry) = self.lock().get(&task)
            && entry.fence == fence
        {
            entry.control.lost.cancel();
        }
    }
}

/// Forgets a job that was about to be begun when dropped.
pub(super) struct Beginning<'a> {
    running: &'a Running,
    job: String,
}

impl Drop for Beginning<'_> {
    fn drop(&mut self) {
        self.running.beginning().remove(&self.job);
    }
}

/// Forgets an attempt when dropped.
pub(super) struct Guard<'a> {
    running: &'a Running,
    task: TaskId,
    fence: Fence,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let mut running = self.running.lock();
        if running.get(&self.task).is_some_and(|entry| entry.fence == self.fence) {
            running.remove(&self.task);
        }
    }
}
