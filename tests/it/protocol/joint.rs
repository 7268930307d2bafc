//! The rules between the sources: what may follow what in the row, the stream
//! and the queue taken together.
//!
//! [`Joint`] takes one observation after the other. The model feeds it every
//! step that it takes, so the checker proves that the protocol never breaks
//! these rules; a replay feeds it a trace, in every order that might have been.

use std::collections::BTreeMap;

use rill::domain::{EventId, EventName};

use super::log::{Broken, ONE_END};
use super::row::{Change, Row, Status};
use super::text::Kind;

pub(crate) const BEGUN: &str = "only an attempt that has begun writes";
pub(crate) const COMMITTED: &str =
    "an event that reports a commit is appended after it, as it says";
pub(crate) const NO_SECOND_CALL: &str =
    "an answer that is complete in the stream is not asked for again";
pub(crate) const STATEMENT: &str =
    "the row changes by a statement of the protocol, under its guard";
pub(crate) const ADDED: &str = "a job entry is delivered and deleted only while it is there";
pub(crate) const ACCEPTED: &str = "a job is added only for a task that was accepted";
pub(crate) const ACKNOWLEDGED: &str =
    "a job is acknowledged when its task's end is in the stream, or somebody else has the task";

/// A job entry, as far as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Job {
    /// To whom it was delivered, one after the other. Whoever had it may still
    /// acknowledge it.
    holders: Vec<u32>,
    /// There was a moment when it was a duplicate for one of them.
    duplicate: bool,
}

/// What was seen so far, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Joint {
    row: Option<Row>,
    /// The newest attempt began with a complete answer in the stream.
    found: bool,
    /// The stream holds a complete answer.
    whole: bool,
    /// The terminal event was appended.
    told: bool,
    /// The newest attempt that was queued again with a failure.
    retried: u32,
    jobs: BTreeMap<u32, Job>,
    /// More than one entry was ever added.
    several: bool,
    added: bool,
}

impl Joint {
    /// The row was inserted.
    ///
    /// # Errors
    /// When it is not as accept inserts it.
    pub(crate) fn accepted(&mut self, row: Row) -> Result<(), Broken> {
        if self.row.is_some() || row != Row::ACCEPTED {
            return Err(Broken::new(STATEMENT, || "a task begins queued, with attempt 0".into()));
        }
        self.row = Some(row);
        Ok(())
    }

    /// The row changed. `owner_fresh`: see [`Row::change`].
    ///
    /// # Errors
    /// When no statement of the protocol does that.
    pub(crate) fn changed(&mut self, after: Row, owner_fresh: Option<bool>) -> Result<(), Broken> {
        let Some(before) = self.row else {
            return Err(Broken::new(STATEMENT, || "the task was not accepted yet".into()));
        };
        let Some(change) = before.change(&after, owner_fresh) else {
            return Err(Broken::new(STATEMENT, || format!("it was {before:?}")));
        };
        match change {
            Change::Begin { .. } => self.found = self.whole,
            Change::Retry { attempt, .. } => self.retried = attempt,
            _ => {}
        }
        self.row = Some(after);
        for job in self.jobs.values_mut() {
            job.duplicate |= is_duplicate(&after, &job.holders);
        }
        Ok(())
    }

    /// An entry was added to the stream; `whole`: it now holds a complete answer.
    ///
    /// # Errors
    /// With the rule that this breaks.
    pub(crate) fn appended(&mut self, id: EventId, event: Kind, whole: bool) -> Result<(), Broken> {
        let Some(row) = self.row.filter(|row| id.attempt <= row.attempt) else {
            return Err(Broken::new(BEGUN, || format!("the row is {:?}", self.row)));
        };
        if row.end.is_some_and(|end| id > end) {
            return Err(Broken::new(ONE_END, || format!("the row is {row:?}")));
        }
        let reported = match event.known() {
            Some(EventName::Done) => row.status == Status::Done && row.end == Some(id),
            Some(EventName::Failed) => row.status == Status::Failed && row.end == Some(id),
            Some(EventName::Cancelled) => row.status == Status::Cancelled && row.end == Some(id),
            // Before the end of whoever writes nothing else.
            Some(EventName::Snapshot) if id.seq == 0 => row.end == Some(id.next()),
            Some(EventName::Retrying) => id.attempt <= self.retried,
            _ => true,
        };
        if !reported {
            return Err(Broken::new(COMMITTED, || format!("the row is {row:?}")));
        }
        if event == EventName::Started && self.found && id.attempt == row.attempt {
            return Err(Broken::new(NO_SECOND_CALL, String::new));
        }
        self.told |= event.is_terminal();
        self.whole = whole;
        // A replaced attempt wrote on, before its successor looked.
        self.found &= whole;
        Ok(())
    }

    /// The stream is gone, or lost its tail.
    pub(crate) const fn forgot(&mut self, whole: bool) {
        self.whole = whole;
        self.found &= whole;
    }

    /// A job entry was added.
    ///
    /// # Errors
    /// When the task was not accepted yet.
    pub(crate) fn job_added(&mut self, entry: u32) -> Result<(), Broken> {
        if self.row.is_none() {
            return Err(Broken::new(ACCEPTED, String::new));
        }
        self.several |= self.added;
        self.added = true;
        self.jobs.insert(entry, Job::default());
        Ok(())
    }

    /// A job entry was delivered to a worker.
    ///
    /// # Errors
    /// When it is not there.
    pub(crate) fn job_delivered(&mut self, entry: u32, holder: u32) -> Result<(), Broken> {
        let row = self.row;
        let Some(job) = self.jobs.get_mut(&entry) else {
            return Err(Broken::new(ADDED, String::new));
        };
        if !job.holders.contains(&holder) {
            job.holders.push(holder);
        }
        job.duplicate |= row.is_some_and(|row| is_duplicate(&row, &job.holders));
        Ok(())
    }

    /// A job entry was lost by Redis.
    pub(crate) fn job_lost(&mut self, entry: u32) {
        self.jobs.remove(&entry);
    }

    /// A job entry was acknowledged and deleted.
    ///
    /// # Errors
    /// When it should have been kept.
    pub(crate) fn job_deleted(&mut self, entry: u32) -> Result<(), Broken> {
        let (Some(job), Some(row)) = (self.jobs.get(&entry), self.row) else {
            return Err(Broken::new(ADDED, String::new));
        };
        let ended = row.status.is_end() && self.told;
        // Handed back: another entry was added for it. Or it was the second of
        // two that its holder got.
        let another = self.several;
        // Nobody saw to whom it was delivered: it may have been a duplicate.
        let unknown = job.holders.is_empty() && row.attempt > 1;
        if !(ended || job.duplicate || another || unknown) {
            return Err(Broken::new(ACKNOWLEDGED, || format!("the row is {row:?}")));
        }
        self.jobs.remove(&entry);
        Ok(())
    }
}

/// One of those who had the job and begin it now learns that it is a duplicate.
fn is_duplicate(row: &Row, holders: &[u32]) -> bool {
    match row.status {
        Status::Queued => !row.due,
        Status::Running => holders.iter().any(|holder| row.worker != Some(*holder)),
        _ => false,
    }
}
