//! The task's row: which statement changes it from what to what.
//!
//! These are the guards of `src/store/tasks/`. The model's workers change their
//! row by [`Row::apply`], and a trace's rows are told apart by [`Row::change`],
//! which tries the same function: what was checked is what is replayed.

use rill::domain::EventId;

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Status {
    /// Waits for a worker.
    Queued,
    /// Has an attempt.
    Running,
    /// Ended: answered.
    Done,
    /// Ended: given up.
    Failed,
    /// Ended: stopped by the caller.
    Cancelled,
}

impl Status {
    /// Nothing changes any more.
    pub(crate) const fn is_end(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// The columns that decide. Workers and claims are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) status: Status,
    pub(crate) attempt: u32,
    pub(crate) worker: Option<u32>,
    pub(crate) claim: Option<u32>,
    pub(crate) failures: u32,
    pub(crate) cancelled: bool,
    /// `run_after` is null.
    pub(crate) due: bool,
    /// `final_id`; `final_event` is the status.
    pub(crate) end: Option<EventId>,
}

/// What PostgreSQL knows of two workers when one of them begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Judged {
    /// The beginner's own heartbeat is fresh.
    pub(crate) fresh: bool,
    /// It has been so for a lease.
    pub(crate) steady: bool,
    /// The row's worker has a heartbeat within a lease.
    pub(crate) owner_fresh: bool,
    /// `run_after` has passed, if there is one.
    pub(crate) elapsed: bool,
    /// The beginner is of version 0.2.0, which counts a loss as a failure.
    pub(crate) charges: bool,
}

/// A statement that changes the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    Begin {
        worker: u32,
        claim: u32,
        judged: Judged,
    },
    End {
        attempt: u32,
        status: Status,
        id: EventId,
        failures: Option<u32>,
    },
    EndByOther {
        seen: (u32, Status),
        status: Status,
        id: EventId,
    },
    Retry {
        attempt: u32,
        failures: u32,
    },
    Release {
        attempt: u32,
    },
    /// Left to a newer worker, for later.
    Yield {
        attempt: u32,
    },
    RequeueStray {
        attempt: u32,
        worker: u32,
    },
    Cancel,
}

/// Which guards are on. A mutation turns one off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Guards {
    /// `attempt = mine AND status = 'running'`.
    pub(crate) fence: bool,
    /// A running task's worker must have missed its lease.
    pub(crate) heartbeat: bool,
    /// Who judges must have been steady for a lease.
    pub(crate) steady: bool,
}

impl Guards {
    /// As built.
    pub(crate) const ALL: Self = Self { fence: true, heartbeat: true, steady: true };
}

impl Row {
    /// A task that was just accepted.
    pub(crate) const ACCEPTED: Self = Self {
        status: Status::Queued,
        attempt: 0,
        worker: None,
        claim: None,
        failures: 0,
        cancelled: false,
        due: true,
        end: None,
    };

    /// The row after the statement; nothing if its guard finds no row.
    pub(crate) fn apply(&self, change: Change, guards: Guards) -> Option<Self> {
        let mine = |attempt| {
            self.status == Status::Running && self.attempt == attempt
                || !guards.fence && !self.status.is_end()
        };
        let mut row = *self;
        match change {
            Change::Begin { worker, claim, judged } => {
                let running = self.status == Status::Running;
                let repeated = running && self.claim == Some(claim);
                let due = self.status == Status::Queued && (self.due || judged.elapsed);
                let orphaned = running && !repeated && (!judged.owner_fresh || !guards.heartbeat);
                let steady = judged.steady || !guards.steady;
                if !(repeated || judged.fresh && (due || orphaned && steady)) {
                    return None;
                }
                row.status = Status::Running;
                row.attempt += u32::from(!repeated);
                row.failures += u32::from(orphaned && judged.charges);
                (row.claim, row.worker, row.due) = (Some(claim), Some(worker), true);
            }
            Change::End { attempt, status, id, failures } => {
                if !mine(attempt) || !status.is_end() || id.attempt != attempt || id.seq == 0 {
                    return None;
                }
                (row.status, row.attempt, row.end) = (status, attempt, Some(id));
                row.failures = failures.unwrap_or(row.failures);
            }
            Change::EndByOther { seen, status, id } => {
                let next = EventId::new(seen.0 + 1, 1);
                if (self.attempt, self.status) != seen || self.status.is_end() || id != next {
                    return None;
                }
                (row.status, row.attempt, row.end) = (status, id.attempt, Some(id));
            }
            Change::Retry { attempt, failures } => {
                if !mine(attempt) || self.cancelled {
                    return None;
                }
                (row.status, row.failures, row.due) = (Status::Queued, failures, false);
            }
            Change::Release { attempt } => {
                if !mine(attempt) {
                    return None;
                }
                (row.status, row.due) = (Status::Queued, true);
            }
            Change::Yield { attempt } => {
                if !mine(attempt) {
                    return None;
                }
                (row.status, row.due) = (Status::Queued, false);
            }
            Change::RequeueStray { attempt, worker } => {
                if !mine(attempt) || self.worker != Some(worker) {
                    return None;
                }
                (row.status, row.due) = (Status::Queued, true);
                row.failures += 1;
            }
            Change::Cancel => {
                if self.end.is_some() {
                    return None;
                }
                row.cancelled = true;
            }
        }
        Some(row)
    }

    /// The statement that made `after` of this row, if there is one.
    /// `owner_fresh`: whether the row's worker was alive, if that is known.
    pub(crate) fn change(&self, after: &Self, owner_fresh: Option<bool>) -> Option<Change> {
        let attempt = self.attempt;
        let mut tried =
            vec![Change::Cancel, Change::Release { attempt }, Change::Yield { attempt }];
        if after.failures > self.failures {
            tried.push(Change::Retry { attempt: self.attempt, failures: after.failures });
        }
        if let (Some(worker), Some(claim)) = (after.worker, after.claim) {
            // Who begins is not seen to be steady; that its victim was silent may be.
            let owner_fresh = owner_fresh.unwrap_or(false);
            let charges = after.failures > self.failures;
            let judged = Judged { fresh: true, steady: true, owner_fresh, elapsed: true, charges };
            tried.push(Change::RequeueStray { attempt: self.attempt, worker });
            tried.push(Change::Begin { worker, claim, judged });
        }
        if let Some(id) = after.end {
            let (attempt, status) = (self.attempt, after.status);
            let failures = (after.failures >= self.failures).then_some(after.failures);
            tried.push(Change::End { attempt, status, id, failures });
            tried.push(Change::EndByOther { seen: (attempt, self.status), status, id });
        }
        tried.into_iter().find(|change| self.apply(*change, Guards::ALL) == Some(*after))
    }
}
