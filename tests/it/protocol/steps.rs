//! What each step does.

use rill::domain::EventId;

use super::actions::{Action, Reply};
use super::mutation::Mutation;
use super::redis::{HEALTHY, History, SECOND_CALL, UNTOLD};
use super::row::{Change, Judged, Status};
use super::world::{
    End, Ender, MAX_FAILURES, MAX_LOSSES, Plan, Reader, ReaderPlace, Run, Streaming, Then, Worker,
    World, YIELDS,
};

impl World {
    /// Takes a step that [`World::actions`] offers.
    pub(crate) fn step(&mut self, action: Action, m: Mutation) {
        use Action as A;
        match action {
            A::Start(n)
            | A::Beat(n)
            | A::BecomesSteady(n)
            | A::Crash(n)
            | A::Absent(n)
            | A::Drain(n) => self.live(action, n),
            A::LeasePasses(id) => {
                self.fresh &= !(1 << id);
                self.steady &= !(1 << id);
            }
            A::Elapse => self.elapsed = true,
            A::PostgresAway => self.fresh = 0,
            A::Relay | A::JobDoubled => self.add_job(),
            A::JobLost(entry) => self.lose_job(entry),
            A::Take(n, entry) | A::TakeFromLiving(n, entry) => self.take(n, entry),
            A::Overdue => self.see(Status::Cancelled, m),
            A::Deadline => self.see(Status::Failed, m),
            A::Cancel => {
                self.may_cancel = false;
                self.execute(Change::Cancel, None, m);
                if self.row.status == Status::Queued && self.ender == Ender::Nobody {
                    self.see(Status::Cancelled, m);
                }
            }
            A::EnderCommit => self.end_by_other(m),
            A::EnderClose => {
                if let Ender::Close(end) = self.ender {
                    self.append(&end.request(), m);
                }
                self.ender = Ender::Nobody;
            }
            A::EnderDies => self.ender = Ender::Nobody,
            A::RedisLosesTail(count) => {
                self.lose_tail(count);
                self.late = None;
                (0..self.workers.len()).for_each(|n| self.reconnect(n));
            }
            A::RedisFlushed => {
                self.lose_tail(usize::MAX);
                while let Some(job) = self.jobs.last().copied() {
                    self.lose_job(job.entry);
                }
            }
            A::RedisCut(n) => self.reconnect(n),
            A::LateArrives => {
                if let Some(request) = self.late.take() {
                    self.append(&request, m);
                }
            }
            A::Open | A::Read | A::AskDatabase | A::ReaderCut => self.serve(action, m),
            A::Begin(n, _)
            | A::LeavePending(n)
            | A::Prepare(n)
            | A::Say(n)
            | A::Append(n, _)
            | A::AskWhetherMine(n)
            | A::GiveUpFlush(n)
            | A::Retry(n, _)
            | A::Commit(n, _)
            | A::Close(n, _)
            | A::Settle(n)
            | A::Acknowledge(n)
            | A::Release(n)
            | A::HandBack(n)
            | A::LearnLost(n)
            | A::LearnCancel(n)
            | A::RequeueStray(n)
            | A::ModelFails(n, _) => {
                if let Worker::Up { id, run } = self.workers[n].clone() {
                    let run = self.work_on(action, id, run, m);
                    self.set(n, run);
                }
            }
        }
    }

    fn set(&mut self, n: usize, to: Run) {
        if let Worker::Up { run, .. } = &mut self.workers[n] {
            *run = to;
        }
    }

    fn reconnect(&mut self, n: usize) {
        if let Worker::Up { run: Run::Stream(log), .. } = &mut self.workers[n] {
            log.reconnected = log.confirmed;
        }
    }

    fn live(&mut self, action: Action, n: usize) {
        let Some(id) = self.workers[n].id() else {
            self.workers[n] = Worker::Up { id: self.identity, run: Run::Idle };
            self.identity += 1;
            return;
        };
        match action {
            Action::Beat(_) => {
                if self.fresh & (1 << id) == 0 {
                    self.steady &= !(1 << id);
                }
                self.fresh |= 1 << id;
                self.absent &= !(1 << id);
            }
            Action::BecomesSteady(_) => self.steady |= 1 << id,
            Action::Absent(_) => self.absent |= 1 << id,
            Action::Crash(_) => {
                self.workers[n] = Worker::Down;
                self.absent &= !(1 << id);
                self.steady &= !(1 << id);
                if self.row.worker != Some(id) {
                    // Nobody asks for it any more.
                    self.fresh &= !(1 << id);
                }
            }
            Action::Drain(_) => match self.workers[n].clone() {
                Worker::Up { run: Run::Begin { job, .. }, .. } => {
                    self.set(n, Run::HandBack { job });
                }
                Worker::Up { run: Run::Prepare { job, attempt }, .. } => {
                    self.set(n, Run::Release { job, attempt, later: false });
                }
                Worker::Up { run: Run::Stream(log), .. } => {
                    let (job, attempt) = (log.job, log.attempt);
                    self.set(n, Run::Release { job, attempt, later: false });
                }
                _ => self.stop(n),
            },
            _ => {}
        }
    }

    /// The worker has nothing any more: it leaves no row, and no consumer.
    fn stop(&mut self, n: usize) {
        if let Some(id) = self.workers[n].id() {
            for bits in [&mut self.fresh, &mut self.steady, &mut self.absent] {
                *bits &= !(1 << id);
            }
        }
        self.workers[n] = Worker::Down;
    }

    fn take(&mut self, n: usize, entry: u32) {
        let Some(id) = self.workers[n].id() else { return };
        for job in self.jobs.iter_mut().filter(|job| job.entry == entry) {
            job.holder = Some(id);
        }
        if let Err(broken) = self.joint.job_delivered(entry, id) {
            self.breaks(broken.rule);
        }
        self.set(n, Run::Begin { job: entry, claim: None });
    }

    /// Somebody else looks at the task, and at what the stream has of it.
    fn see(&mut self, status: Status, m: Mutation) {
        // By an API of the older version.
        let History { text, complete, more, .. } = self.history(self.newer.is_none(), m);
        let status = if complete { Status::Done } else { status };
        let end = End { id: EventId::new(self.row.attempt + 1, 1), status, text, more };
        self.ender = Ender::Seen { seen: (self.row.attempt, self.row.status), end };
    }

    fn end_by_other(&mut self, m: Mutation) {
        let Ender::Seen { seen, end } = self.ender else { return };
        let change = Change::EndByOther { seen, status: end.status, id: end.id };
        let committed = self.commit(change, None, end, m);
        self.ender = if committed { Ender::Close(end) } else { Ender::Nobody };
    }

    fn serve(&mut self, action: Action, m: Mutation) {
        let Some(mut reader) = self.reader.take() else { return };
        reader = match action {
            Action::Open => self.open(reader),
            Action::Read => self.read(reader, m),
            Action::AskDatabase => self.tell_end(reader),
            _ => Reader { place: ReaderPlace::Closed, cuts: reader.cuts - 1, ..reader },
        };
        self.reader = Some(reader);
    }

    fn work_on(&mut self, action: Action, id: u32, run: Run, m: Mutation) -> Run {
        use Action as A;
        match (action, run) {
            (A::LearnLost(_) | A::LeavePending(_), _) => Run::Idle,
            (A::RequeueStray(_), run) => {
                let attempt = self.row.attempt;
                self.execute(Change::RequeueStray { attempt, worker: id }, Some(attempt), m);
                run
            }
            (A::Begin(_, reply), Run::Begin { job, claim }) => self.begin(id, job, claim, reply, m),
            (A::Prepare(_), Run::Prepare { job, attempt }) => self.prepare(id, job, attempt, m),
            (A::Say(_), Run::Stream(mut log)) => {
                log.said += 1;
                log.settled()
            }
            (A::Append(_, reply), Run::Stream(log)) => self.try_append(log, reply, m),
            (A::AskWhetherMine(_), Run::Stream(log)) => self.revive(log, m),
            (A::GiveUpFlush(_), Run::Stream(log)) => log.give_up(m),
            (A::Retry(_, reply), Run::Stream(log)) => self.retry(log, reply, m),
            (A::LearnCancel(_), Run::Stream(mut log)) => {
                log.flush(None, Then::End(Status::Cancelled));
                log.settled()
            }
            (A::ModelFails(_, retryable), Run::Stream(mut log)) => {
                log.failed(retryable, self.row.failures);
                if log.plan == Plan::Retry { Run::Stream(log) } else { log.settled() }
            }
            (A::Commit(_, reply), Run::End { job, end }) => self.end(job, end, reply, m),
            (A::Close(_, reply), Run::Close { job, end }) => self.close(job, end, reply, m),
            (A::Settle(_), Run::Settle { job }) => {
                if let (Some(id), Some(text)) = (self.row.end, self.answer) {
                    let end = End { id, status: self.row.status, text, more: true };
                    self.append(&end.request(), m);
                }
                Run::Acknowledge { job, ended: false }
            }
            (A::Acknowledge(_), Run::Acknowledge { job, ended }) => {
                self.acknowledge(job, ended);
                Run::Idle
            }
            (A::Release(_), Run::Release { job, attempt, later }) => {
                let change =
                    if later { Change::Yield { attempt } } else { Change::Release { attempt } };
                if self.execute(change, Some(attempt), m) && later {
                    self.elapsed = false;
                }
                let queued = self.row.attempt == attempt && self.row.status == Status::Queued;
                // A drained worker is idle, and may leave.
                match (queued, later) {
                    (false, _) => Run::Idle,
                    (true, false) => Run::HandBack { job },
                    (true, true) => Run::Acknowledge { job, ended: false },
                }
            }
            (A::HandBack(_), Run::HandBack { job }) => {
                self.add_job();
                self.delete_job(job);
                Run::Idle
            }
            (_, run) => run,
        }
    }

    fn begin(&mut self, id: u32, job: u32, mine: Option<u32>, reply: Reply, m: Mutation) -> Run {
        let before = self.row;
        let claim = mine.unwrap_or(before.attempt + 1);
        let bit = |bits: u8, id: u32| bits & (1 << id) != 0;
        let judged = Judged {
            fresh: bit(self.fresh, id),
            steady: bit(self.steady, id),
            owner_fresh: before.worker.is_some_and(|owner| bit(self.fresh, owner)),
            elapsed: self.elapsed,
            charges: false,
        };
        let begun = self.execute(Change::Begin { worker: id, claim, judged }, None, m);
        let attempt = self.row.attempt;
        if before.status == Status::Running && attempt > before.attempt {
            self.losses += 1;
            let healthy = before.worker.is_some_and(|owner| self.is_healthy(owner));
            let runs = |worker: &Worker| match worker {
                Worker::Up { id, run } => {
                    Some(*id) == before.worker && run.attempt() == Some(before.attempt)
                }
                Worker::Down => false,
            };
            if healthy && self.workers.iter().any(runs) {
                self.breaks(HEALTHY);
            }
        }
        if reply != Reply::Heard {
            return Run::Begin { job, claim: if begun { Some(claim) } else { mine } };
        }
        if begun {
            return Run::Prepare { job, attempt };
        }
        let due = before.status == Status::Queued && (before.due || self.elapsed);
        let orphaned = before.status == Status::Running && !judged.owner_fresh;
        if due || orphaned { Run::Begin { job, claim: mine } } else { Run::Settle { job } }
    }

    /// `worker/attempt.rs`: what an attempt is to do.
    fn prepare(&mut self, id: u32, job: u32, attempt: u32, m: Mutation) -> Run {
        let newer = self.newer(id);
        let understands = newer.is_some() || self.newer.is_none();
        let history = match attempt {
            1 => History::default(),
            _ => self.history(understands, m),
        };
        let History { text, complete, more, .. } = history;
        let left = attempt.saturating_sub(history.attempt).saturating_sub(1);
        let status = if complete && m != Mutation::IgnoresHistory {
            Status::Done
        } else if self.row.cancelled {
            Status::Cancelled
        } else if history.says_more && left < YIELDS {
            return Run::Release { job, attempt, later: true };
        } else if self.row.failures >= MAX_FAILURES || self.losses >= MAX_LOSSES {
            Status::Failed
        } else {
            if complete {
                self.breaks(SECOND_CALL);
            }
            return Run::Stream(Streaming::new(job, attempt, newer));
        };
        Run::End { job, end: End { id: EventId::new(attempt, 1), status, text, more } }
    }

    fn end(&mut self, job: u32, end: End, reply: Reply, m: Mutation) -> Run {
        let attempt = end.id.attempt;
        if m == Mutation::TerminalBeforeCommit {
            self.append(&end.request(), m);
        }
        if m == Mutation::AcknowledgeBeforeCommit {
            self.acknowledge(job, true);
        }
        let change = Change::End { attempt, status: end.status, id: end.id, failures: None };
        let committed = self.commit(change, Some(attempt), end, m);
        match reply {
            Reply::Heard if committed => Run::Close { job, end },
            Reply::Heard => Run::Idle,
            _ => Run::End { job, end },
        }
    }

    fn close(&mut self, job: u32, end: End, reply: Reply, m: Mutation) -> Run {
        match reply {
            Reply::Late => self.late = Some(end.request()),
            _ => drop(self.append(&end.request(), m)),
        }
        if reply == Reply::Heard || m == Mutation::AcknowledgeBeforeTerminal {
            Run::Acknowledge { job, ended: true }
        } else {
            Run::Close { job, end }
        }
    }

    /// A duplicate's job may go while its task's end is still to be told: that
    /// is the owner's to do, and PostgreSQL's if the owner dies.
    fn acknowledge(&mut self, job: u32, ended: bool) {
        if ended && self.log.ended().is_none() {
            self.breaks(UNTOLD);
        }
        self.delete_job(job);
    }
}
