//! Traces made by hand, for tests.

use serde_json::json;

use super::trace::{JobSeen, LogSeen, RowSeen, TaskTrace};

/// A trace that is told step by step.
pub(crate) struct Story(pub TaskTrace);

impl Story {
    /// A task that was accepted, and its job `j1` added.
    pub(crate) fn accepted() -> Self {
        let row = RowSeen { status: "queued".into(), queued_due: true, ..RowSeen::default() };
        let trace = TaskTrace { task: "by hand".into(), db: vec![row], ..TaskTrace::default() };
        Self(trace).job("j1")
    }

    /// The row changes like this.
    pub(crate) fn row(mut self, change: impl FnOnce(&mut RowSeen)) -> Self {
        let mut row = self.0.db.last().cloned().unwrap_or_default();
        row.owner_fresh = None;
        change(&mut row);
        self.0.db.push(row);
        self
    }

    /// The next attempt begins.
    pub(crate) fn begin(self, worker: &str, claim: &str) -> Self {
        self.row(|row| {
            row.failures += u32::from(row.status == "running");
            (row.status, row.queued_due) = ("running".into(), true);
            row.attempt += 1;
            (row.worker, row.claim) = (Some(worker.into()), Some(claim.into()));
        })
    }

    /// Another attempt is to follow, later.
    pub(crate) fn retry(self) -> Self {
        self.row(|row| {
            (row.status, row.queued_due) = ("queued".into(), false);
            row.failures += 1;
        })
    }

    /// The end is committed.
    pub(crate) fn end(self, status: &str, id: &str) -> Self {
        self.row(|row| {
            row.status = status.into();
            (row.final_id, row.final_event) = (Some(id.into()), Some(status.into()));
            let attempt = id.split('-').next().and_then(|attempt| attempt.parse().ok());
            row.attempt = attempt.unwrap_or_default();
        })
    }

    /// An entry is appended; `text` for what says one.
    pub(crate) fn append(mut self, id: &str, event: &str, text: &str) -> Self {
        let data = json!({ "text": text }).to_string();
        self.0.log.push(LogSeen::Append { id: id.into(), event: event.into(), data });
        self
    }

    /// An attempt that says `ab` and is complete, at seq 3.
    pub(crate) fn said(self, attempt: u32) -> Self {
        self.append(&format!("{attempt}-0"), "started", "")
            .append(&format!("{attempt}-1"), "delta", "a")
            .append(&format!("{attempt}-2"), "delta", "b")
            .append(&format!("{attempt}-3"), "complete", "")
    }

    pub(crate) fn flushed(mut self) -> Self {
        self.0.log.push(LogSeen::Gone);
        self
    }

    pub(crate) fn lost(mut self, from: &str) -> Self {
        self.0.log.push(LogSeen::Lost { from: from.into() });
        self
    }

    pub(crate) fn job(mut self, entry: &str) -> Self {
        self.0.jobs.push(JobSeen::Added { entry: entry.into() });
        self
    }

    pub(crate) fn delivered(mut self, entry: &str, to: &str) -> Self {
        self.0.jobs.push(JobSeen::Delivered { entry: entry.into(), consumer: to.into() });
        self
    }

    pub(crate) fn deleted(mut self, entry: &str) -> Self {
        self.0.jobs.push(JobSeen::Deleted { entry: entry.into() });
        self
    }

    /// A run that went well.
    pub(crate) fn well() -> Self {
        Self::accepted()
            .delivered("j1", "w1")
            .begin("w1", "c1")
            .said(1)
            .end("done", "1-4")
            .append("1-4", "done", "")
            .deleted("j1")
    }
}
