//! What can happen next: the protocol's steps, and faults.

use super::row::Status;
use super::world::{Ender, Plan, ReaderPlace, Run, Worker, World};

/// What becomes of a request and its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reply {
    /// Done, and its sender hears it.
    Heard,
    /// Done, and its sender doesn't hear it.
    Lost,
    /// Not done, and its sender doesn't hear that.
    Dropped,
    /// Not done yet; its sender has given the connection up.
    Late,
}

/// One step. Numbers are places in [`World::workers`], but where said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    // Time and workers.
    Start(usize),
    Beat(usize),
    BecomesSteady(usize),
    /// A lease passes without a heartbeat of this identity.
    LeasePasses(u32),
    Elapse,
    // The queue. The second number is the entry.
    Take(usize, u32),
    Relay,
    // An attempt.
    Begin(usize, Reply),
    LeavePending(usize),
    Prepare(usize),
    Say(usize),
    Append(usize, Reply),
    AskWhetherMine(usize),
    GiveUpFlush(usize),
    Retry(usize, Reply),
    Commit(usize, Reply),
    Close(usize, Reply),
    Settle(usize),
    Acknowledge(usize),
    Release(usize),
    HandBack(usize),
    LearnLost(usize),
    LearnCancel(usize),
    RequeueStray(usize),
    // Whoever ends a task without owning its attempt.
    Overdue,
    EnderCommit,
    EnderClose,
    // The reader.
    Open,
    Read,
    AskDatabase,
    // The caller, and what can go wrong.
    Cancel,
    Deadline,
    Crash(usize),
    Absent(usize),
    Drain(usize),
    ModelFails(usize, bool),
    PostgresAway,
    RedisLosesTail(usize),
    RedisFlushed,
    RedisCut(usize),
    JobLost(u32),
    JobDoubled,
    /// A live worker's job is claimed, since its renewal did not get through.
    TakeFromLiving(usize, u32),
    LateArrives,
    EnderDies,
    ReaderCut,
}

impl Action {
    /// It uses up one of the faults.
    pub(crate) const fn is_fault(self) -> bool {
        use Action as A;
        match self {
            A::Begin(_, reply)
            | A::Append(_, reply)
            | A::Retry(_, reply)
            | A::Commit(_, reply)
            | A::Close(_, reply) => !matches!(reply, Reply::Heard),
            A::Deadline
            | A::Crash(_)
            | A::Absent(_)
            | A::Drain(_)
            | A::ModelFails(..)
            | A::PostgresAway
            | A::RedisLosesTail(_)
            | A::RedisFlushed
            | A::RedisCut(_)
            | A::JobLost(_)
            | A::JobDoubled
            | A::TakeFromLiving(..)
            | A::EnderDies => true,
            _ => false,
        }
    }

    /// It need not ever happen.
    pub(crate) const fn is_optional(self) -> bool {
        self.is_fault() || matches!(self, Self::Cancel | Self::ReaderCut)
    }
}

impl World {
    fn is_fresh(&self, id: u32) -> bool {
        self.fresh & (1 << id) != 0
    }

    fn is_absent(&self, id: u32) -> bool {
        self.absent & (1 << id) != 0
    }

    /// A worker that is there, with its heartbeats getting through.
    pub(crate) fn is_healthy(&self, id: u32) -> bool {
        !self.is_absent(id) && self.workers.iter().any(|worker| worker.id() == Some(id))
    }

    /// All that can happen.
    pub(crate) fn actions(&self, relays: bool, to: &mut Vec<Action>) {
        if self.broken.is_some() {
            return;
        }
        let mut all = Vec::with_capacity(32);
        for (n, worker) in self.workers.iter().enumerate() {
            match worker {
                Worker::Down if self.identity < 8 => all.push(Action::Start(n)),
                Worker::Down => {}
                Worker::Up { id, run } => {
                    self.life(n, *id, &mut all);
                    self.work(n, *id, run, &mut all);
                }
            }
        }
        self.others(relays, &mut all);
        to.extend(all.into_iter().filter(|action| self.faults > 0 || !action.is_fault()));
    }

    fn life(&self, n: usize, id: u32, to: &mut Vec<Action>) {
        let running = self.row.status == Status::Running;
        if !self.is_fresh(id) || self.is_absent(id) {
            to.push(Action::Beat(n));
        }
        let beaten = |worker: &Worker| {
            worker.id().is_none_or(|other| self.is_absent(other) || self.is_fresh(other))
        };
        if self.steady & (1 << id) == 0 && self.is_healthy(id) && self.workers.iter().all(beaten) {
            to.push(Action::BecomesSteady(n));
        }
        if !self.row.status.is_end() || self.workers[n].job().is_some() {
            to.push(Action::Crash(n));
        }
        if !self.is_absent(id) && running {
            to.push(Action::Absent(n));
        }
    }

    fn work(&self, n: usize, id: u32, run: &Run, to: &mut Vec<Action>) {
        use Action as A;
        if run.attempt().is_some_and(|mine| self.row.attempt != mine) && !self.is_absent(id) {
            to.push(A::LearnLost(n));
        }
        match run {
            Run::Idle => {
                // Which of two idle workers is the first makes no difference, unless they
                // are of two versions.
                let first = self.newer.is_some()
                    || n == 0
                    || self.row.attempt > 0
                    || self.workers[0].job().is_some();
                for job in self.jobs.iter().filter(|_| self.is_fresh(id) && first) {
                    let holds = |worker: &Worker| match worker {
                        Worker::Up { id, run } => {
                            job.holder == Some(*id)
                                && run.job() == Some(job.entry)
                                && !self.is_absent(*id)
                        }
                        Worker::Down => false,
                    };
                    let held = self.workers.iter().any(holds);
                    let (take, steal) = (A::Take(n, job.entry), A::TakeFromLiving(n, job.entry));
                    to.push(if held { steal } else { take });
                }
                if self.row.status == Status::Running && self.row.worker == Some(id) {
                    to.push(A::RequeueStray(n));
                }
                to.push(A::Drain(n));
            }
            Run::Begin { claim, .. } => {
                to.extend([A::Begin(n, Reply::Heard), A::Begin(n, Reply::Lost), A::Drain(n)]);
                // It could not be judged for a lease.
                if claim.is_none() && self.row.status == Status::Running {
                    to.push(A::LeavePending(n));
                }
            }
            Run::Prepare { .. } => to.extend([A::Prepare(n), A::Drain(n)]),
            Run::Stream(streaming) => {
                let talks = streaming.plan == Plan::Talk;
                if talks {
                    to.extend([A::Drain(n), A::ModelFails(n, true), A::ModelFails(n, false)]);
                    if self.row.cancelled && !self.is_absent(id) {
                        to.push(A::LearnCancel(n));
                    }
                    if !streaming.has_said_all() {
                        to.push(A::Say(n));
                    }
                }
                if streaming.plan == Plan::Retry {
                    to.extend([A::Retry(n, Reply::Heard), A::Retry(n, Reply::Lost)]);
                } else if streaming.gone {
                    to.push(A::AskWhetherMine(n));
                } else if streaming.has_to_append() {
                    to.extend([Reply::Heard, Reply::Lost, Reply::Dropped].map(|r| A::Append(n, r)));
                    if self.late.is_none() {
                        to.push(A::Append(n, Reply::Late));
                    }
                }
                let flushes = matches!(streaming.plan, Plan::Flush { .. });
                if flushes && (streaming.unknown.is_some() || streaming.gone) {
                    to.push(A::GiveUpFlush(n));
                }
                if streaming.confirmed && !streaming.reconnected {
                    to.push(A::RedisCut(n));
                }
            }
            Run::End { .. } => to.extend([A::Commit(n, Reply::Heard), A::Commit(n, Reply::Lost)]),
            Run::Close { .. } => {
                to.extend([A::Close(n, Reply::Heard), A::Close(n, Reply::Lost)]);
                if self.late.is_none() {
                    to.push(A::Close(n, Reply::Late));
                }
            }
            Run::Settle { .. } => to.push(A::Settle(n)),
            Run::Acknowledge { .. } => to.push(A::Acknowledge(n)),
            Run::Release { .. } => to.push(A::Release(n)),
            Run::HandBack { .. } => to.push(A::HandBack(n)),
        }
    }

    fn others(&self, relays: bool, to: &mut Vec<Action>) {
        use Action as A;
        let row = &self.row;
        let waits = row.status == Status::Queued && (row.due || self.elapsed);
        let orphaned =
            row.status == Status::Running && row.worker.is_none_or(|owner| !self.is_fresh(owner));
        for id in (0..self.identity).filter(|id| self.is_fresh(*id) && !self.is_healthy(*id)) {
            to.push(A::LeasePasses(id));
        }
        if row.status == Status::Queued && !row.due && !self.elapsed {
            to.push(A::Elapse);
        }
        if relays && self.jobs.is_empty() && (waits || orphaned) {
            to.push(A::Relay);
        }
        if self.jobs.len() == 1 && !row.status.is_end() {
            to.push(A::JobDoubled);
        }
        to.extend(self.jobs.iter().map(|job| A::JobLost(job.entry)));
        match self.ender {
            Ender::Nobody if row.status == Status::Queued && row.cancelled => to.push(A::Overdue),
            Ender::Nobody => {}
            Ender::Seen { .. } => to.extend([A::EnderCommit, A::EnderDies]),
            Ender::Close(_) => to.extend([A::EnderClose, A::EnderDies]),
        }
        if !row.status.is_end() {
            if self.may_cancel {
                to.push(A::Cancel);
            }
            if self.ender == Ender::Nobody {
                to.push(A::Deadline);
            }
            if self.fresh != 0 {
                to.push(A::PostgresAway);
            }
        }
        if self.stream.is_some() {
            to.extend([A::RedisLosesTail(1), A::RedisLosesTail(2), A::RedisFlushed]);
        }
        if self.late.is_some() {
            to.push(A::LateArrives);
        }
        match self.reader.as_ref().map(|reader| (reader.place, reader.cuts)) {
            Some((ReaderPlace::Closed, _)) => to.push(A::Open),
            Some((ReaderPlace::Open { position, .. }, cuts)) => {
                if self.after(position).is_some() {
                    to.push(A::Read);
                } else if row.end.is_some() {
                    to.push(A::AskDatabase);
                }
                if cuts > 0 {
                    to.push(A::ReaderCut);
                }
            }
            Some((ReaderPlace::Ended(_), _)) | None => {}
        }
    }
}
