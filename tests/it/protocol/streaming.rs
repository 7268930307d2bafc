//! An attempt's appends, as `worker/streaming.rs`, `worker/outbox.rs` and
//! `streams/log.rs` make them.

use rill::domain::{Class, EventId, EventName};

use super::actions::Reply;
use super::mutation::Mutation;
use super::redis::{Answer, DIVERGED};
use super::row::{Change, Status};
use super::text::{Content, Kind, Span};
use super::world::{
    CHUNKS, End, MAX_FAILURES, Plan, Request, Run, SNAPSHOT_DUE, Streaming, Then, World,
};

impl Streaming {
    pub(crate) fn has_said_all(&self) -> bool {
        self.said == CHUNKS
    }

    pub(crate) fn has_to_append(&self) -> bool {
        !self.gone && (self.unknown.is_some() || self.next_event(Mutation::None).is_some())
    }

    /// What only a newer worker understands was written.
    fn more(&self) -> bool {
        self.newer_written && self.newer == Some(Class::Content)
    }

    fn snapshot(&self, mutation: Mutation) -> Content<Span> {
        let snapshot = Content::new(EventName::Snapshot, self.written(mutation));
        Content { more: self.more(), ..snapshot }
    }

    fn written(&self, mutation: Mutation) -> Span {
        let unsent = mutation == Mutation::SnapshotSaysUnsentText;
        Span::new(self.attempt, 0, if unsent { self.said } else { self.written })
    }

    /// What the log needs next, if anything (`next_event`, `flush`).
    fn next_event(&self, mutation: Mutation) -> Option<Content<Span>> {
        let waits = self.written < self.said;
        if self.seq == 0 {
            return Some(Content::new(EventName::Started, Span::default()));
        }
        if self.heal || self.since_reset >= SNAPSHOT_DUE && waits {
            return Some(self.snapshot(mutation));
        }
        if waits {
            let text = Span::new(self.attempt, self.written, self.said);
            return Some(Content::new(EventName::Delta, text));
        }
        if let Some(class) = self.newer.filter(|_| self.written > 0 && !self.newer_written) {
            return Some(Content::new(Kind::Newer(class), Span::default()));
        }
        match self.plan {
            Plan::Flush { event: Some(event), waiting: true, .. } => {
                Some(Content::new(event, Span::default()))
            }
            _ => None,
        }
    }

    /// Takes the next event to send, or the one of unknown outcome again.
    fn send(&mut self, mutation: Mutation) -> Option<Content<Span>> {
        if let Some(sent) = &self.unknown {
            let mut sent = sent.clone();
            if mutation == Mutation::RepeatWithOtherContent && sent.event == EventName::Delta {
                sent.text = Span::new(self.attempt, self.written - 1, self.said);
                self.written = self.said;
            }
            return Some(sent);
        }
        let sent = self.next_event(mutation)?;
        match sent.event {
            Kind::Newer(_) => self.newer_written = true,
            Kind::Known(EventName::Delta) => self.written = self.said,
            // What follows a reset counts: it goes (again) after it.
            Kind::Known(EventName::Snapshot) => self.goes_again(self.heal),
            Kind::Known(EventName::Started) => {}
            Kind::Known(_) => self.wait(false),
        }
        Some(sent)
    }

    fn goes_again(&mut self, again: bool) {
        if again {
            self.wait(true);
        }
    }

    fn wait(&mut self, waits: bool) {
        if let Plan::Flush { event, waiting, .. } = &mut self.plan {
            *waiting = waits && event.is_some();
        }
    }

    fn confirm(&mut self, event: Kind, mutation: Mutation) {
        let changed = self.confirmed && self.reconnected;
        if event.is_reset() {
            (self.heal, self.since_reset) = (false, 0);
        } else if mutation != Mutation::NoSnapshotAfterReconnect {
            self.heal |= changed;
        }
        self.since_reset = (self.since_reset + 1).min(SNAPSHOT_DUE);
        (self.confirmed, self.reconnected) = (true, false);
        self.seq += 1;
        (self.unknown, self.create) = (None, false);
    }

    /// Flushes, and then ends like this or acknowledges.
    pub(crate) fn flush(&mut self, event: Option<EventName>, then: Then) {
        self.plan = Plan::Flush { event, waiting: event.is_some(), then };
    }

    fn end(&self, status: Status, seq: u64) -> Run {
        let id = EventId::new(self.attempt, seq);
        let text = Span::new(self.attempt, 0, self.said);
        Run::End { job: self.job, end: End { id, status, text, more: self.more() } }
    }

    /// What the run is now, once nothing is left to append.
    pub(crate) fn settled(mut self) -> Run {
        if self.gone || self.unknown.is_some() || self.has_to_append() {
            return Run::Stream(self);
        }
        if self.plan == Plan::Talk && self.has_said_all() {
            self.flush(Some(EventName::Complete), Then::End(Status::Done));
            return Run::Stream(self);
        }
        match self.plan {
            Plan::Flush { then: Then::End(status), .. } => self.end(status, self.seq),
            Plan::Flush { then: Then::Acknowledge, .. } => {
                Run::Acknowledge { job: self.job, ended: false }
            }
            Plan::Talk | Plan::Retry => Run::Stream(self),
        }
    }

    /// Past what can't be confirmed, which leaves a gap that readers fill from
    /// PostgreSQL.
    pub(crate) fn give_up(self, mutation: Mutation) -> Run {
        let sending = self.seq + u64::from(self.gone);
        let skip = if mutation == Mutation::EndBehindUnknownAppend { 1 } else { 2 };
        match self.plan {
            Plan::Flush { then: Then::End(status), .. } => self.end(status, sending + skip),
            _ => Run::Acknowledge { job: self.job, ended: false },
        }
    }

    /// The model failed: another attempt, or the end.
    pub(crate) fn failed(&mut self, retryable: bool, failures: u32) {
        if retryable && failures + 1 < MAX_FAILURES {
            self.plan = Plan::Retry;
        } else {
            self.flush(None, Then::End(Status::Failed));
        }
    }
}

impl World {
    /// One try to append (`Log::write`).
    pub(crate) fn try_append(&mut self, mut log: Streaming, reply: Reply, m: Mutation) -> Run {
        let Some(content) = log.send(m) else { return Run::Stream(log) };
        let id = EventId::new(log.attempt, log.seq);
        let request = Request { events: vec![(id, content.clone())], create: log.create };
        let answer = match reply {
            Reply::Heard | Reply::Lost => Some(self.append(&request, m)),
            Reply::Dropped => None,
            Reply::Late => {
                self.late = Some(request);
                None
            }
        };
        let Some(answer) = answer.filter(|_| reply == Reply::Heard) else {
            log.heal |= m != Mutation::NoSnapshotAfterReconnect;
            log.unknown = Some(content);
            return Run::Stream(log);
        };
        match answer {
            Answer::Added => log.confirm(content.event, m),
            Answer::Stale(last) if last == id => log.confirm(content.event, m),
            Answer::Gone => {
                (log.unknown, log.gone) = (None, true);
                log.wait(true);
            }
            Answer::Stale(last) => {
                if last.attempt <= log.attempt {
                    self.breaks(DIVERGED);
                }
                // A failed attempt's last word is best effort.
                return match log.plan {
                    Plan::Flush { then: Then::Acknowledge, .. } => log.give_up(m),
                    _ => Run::Idle,
                };
            }
        }
        log.settled()
    }

    /// The stream is gone: whether to make it again is PostgreSQL's to say.
    pub(crate) fn revive(&mut self, mut log: Streaming, m: Mutation) -> Run {
        if self.row.attempt != log.attempt || self.row.status != Status::Running {
            return match log.plan {
                Plan::Flush { then: Then::Acknowledge, .. } => log.give_up(m),
                _ => Run::Idle,
            };
        }
        log.seq += 1;
        log.unknown = Some(log.snapshot(m));
        (log.gone, log.create) = (false, true);
        log.wait(true);
        Run::Stream(log)
    }

    /// Another attempt is to follow.
    pub(crate) fn retry(&mut self, mut log: Streaming, reply: Reply, m: Mutation) -> Run {
        let (attempt, failures) = (log.attempt, self.row.failures + 1);
        if self.execute(Change::Retry { attempt, failures }, Some(attempt), m) {
            self.elapsed = false;
        }
        if reply != Reply::Heard {
            return Run::Stream(log);
        }
        match self.row.status {
            _ if self.row.attempt != attempt => return Run::Idle,
            Status::Queued => log.flush(Some(EventName::Retrying), Then::Acknowledge),
            Status::Running => log.flush(None, Then::End(Status::Cancelled)),
            _ => return Run::Idle,
        }
        log.settled()
    }
}
