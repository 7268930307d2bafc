//! The model's Redis and PostgreSQL: what a command or statement does to the
//! world, and how the rules of a replay judge it.

use rill::domain::{Class, EventId, EventName};

use super::mutation::Mutation;
use super::row::{Change, Guards, Status};
use super::text::{Content, Span, Text};
use super::world::{End, Job, Request, World};

pub(crate) const ZOMBIE_ROW: &str = "a replaced attempt changed the row";
pub(crate) const ZOMBIE_LOG: &str = "a replaced attempt wrote to the stream";
pub(crate) const HEALTHY: &str = "a healthy run was taken over";
pub(crate) const DIVERGED: &str = "a log met events of its own attempt that it did not write";
pub(crate) const SECOND_CALL: &str = "the model was called although its answer was there, complete";
pub(crate) const UNTOLD: &str = "a job was acknowledged before its task's end was in the stream";
pub(crate) const LESS: &str =
    "an answer was taken for complete without the content that only a newer worker understands";
pub(crate) const ENDED_TWICE: &str = "an ended task was changed";

/// What an attempt finds of those before it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct History {
    /// The newest attempt that wrote something.
    pub(crate) attempt: u32,
    pub(crate) text: Span,
    pub(crate) complete: bool,
    /// It has content that this process doesn't understand.
    pub(crate) says_more: bool,
    /// It has content that only a newer worker understands, and that was understood.
    pub(crate) more: bool,
}

/// What Redis answers to an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Added,
    /// Not above the last, which is this.
    Stale(EventId),
    Gone,
}

impl World {
    /// Notes the first rule that is broken; nothing follows it.
    pub(crate) fn breaks(&mut self, rule: &'static str) {
        self.broken = self.broken.or(Some(rule));
    }

    /// An append as Redis executes it. Of several, the last one's answer counts.
    pub(crate) fn append(&mut self, request: &Request, mutation: Mutation) -> Answer {
        let mut answer = Answer::Gone;
        for (id, content) in &request.events {
            if self.stream.is_none() && !request.create {
                return Answer::Gone;
            }
            let stream = self.stream.get_or_insert_default();
            let last = stream.last().map(|(last, _)| *last);
            if let Some(last) = last
                && *id <= last
                && (mutation != Mutation::NoFenceInTheStream || id.attempt == last.attempt)
            {
                answer = Answer::Stale(last);
                continue;
            }
            stream.push((*id, content.clone()));
            answer = Answer::Added;
            if last.is_some_and(|last| last.attempt > id.attempt) {
                self.breaks(ZOMBIE_LOG);
            }
            let event = content.event;
            if content.more {
                self.newer_content |= 1 << id.attempt;
            }
            let judged = self.log.append(*id, content.clone());
            let judged = judged.and_then(|()| self.joint.appended(*id, event, self.log.whole()));
            if let Err(broken) = judged {
                self.breaks(broken.rule);
            }
        }
        answer
    }

    /// Redis loses the last `count` entries, or everything.
    pub(crate) fn lose_tail(&mut self, count: usize) {
        let Some(stream) = &mut self.stream else { return };
        if count >= stream.len() {
            self.stream = None;
            self.log.gone();
        } else if let Some((from, _)) = stream.get(stream.len() - count).cloned() {
            stream.truncate(stream.len() - count);
            self.log.lost(from);
        }
        self.joint.forgot(self.log.whole());
    }

    /// What `streams/history.rs` makes of the stream, in a process of a newer
    /// version or of an older one.
    pub(crate) fn history(&self, newer: bool, mutation: Mutation) -> History {
        let stored = self.stream.as_deref().unwrap_or_default();
        let reset = stored.iter().rposition(|(_, content)| content.event.is_reset()).unwrap_or(0);
        let attempt = stored.last().map_or(0, |(id, _)| id.attempt);
        let (mut history, mut expected) = (History { attempt, ..History::default() }, None);
        for (id, content) in stored[reset..].iter().filter(|(id, _)| id.attempt == attempt) {
            if content.event.is_reset() {
                expected = Some(*id);
                history.says_more = false;
            }
            let dropped = mutation == Mutation::NewerEventsLeaveGaps && !newer;
            if expected != Some(*id) || dropped && content.event.known().is_none() {
                expected = None;
                continue;
            }
            expected = Some(id.next());
            let passes_over = newer || mutation == Mutation::OlderFoldsNewerContent;
            history.says_more |= content.more && !passes_over;
            if history.says_more {
                continue;
            }
            history.more |= content.more && newer;
            if content.event.is_reset() {
                history.text = content.text;
            } else if content.event == EventName::Delta {
                history.text.append(&content.text);
            }
            history.complete |= content.event == EventName::Complete;
        }
        history
    }

    /// The worker is of a newer version, and what its attempts write then.
    pub(crate) fn newer(&self, id: u32) -> Option<Class> {
        self.newer.filter(|_| id.is_multiple_of(2))
    }

    /// A statement as PostgreSQL executes it; `by`: the attempt that its sender
    /// has. False: its guard found no row.
    pub(crate) fn execute(&mut self, change: Change, by: Option<u32>, mutation: Mutation) -> bool {
        let guards = Guards {
            fence: mutation != Mutation::NoFence,
            heartbeat: mutation != Mutation::TakeoverWithoutHeartbeatCheck,
            steady: mutation != Mutation::NoSteadyCheck,
        };
        let before = self.row;
        let Some(after) = before.apply(change, guards) else { return false };
        if after == before {
            return true;
        }
        if by.is_some_and(|by| by < before.attempt) {
            self.breaks(ZOMBIE_ROW);
        }
        if before.status.is_end() {
            self.breaks(ENDED_TWICE);
        }
        let owner_fresh = before.worker.map(|owner| self.fresh & (1 << owner) != 0);
        self.row = after;
        if let Err(broken) = self.joint.changed(after, owner_fresh) {
            self.breaks(broken.rule);
        }
        true
    }

    /// Commits an end; what is read again if the guard finds no row is whether
    /// the row has it. The ID and the data don't say whose it is: two who end
    /// the same attempt in the same way have both in common, and may have read
    /// different histories. So the answer is compared as well.
    pub(crate) fn commit(
        &mut self,
        change: Change,
        by: Option<u32>,
        end: End,
        m: Mutation,
    ) -> bool {
        if self.execute(change, by, m) {
            let by = end.text.by();
            if end.status == Status::Done && !end.more && self.newer_content & (1 << by) != 0 {
                self.breaks(LESS);
            }
            self.answer = Some(end.text);
            return true;
        }
        let same = self.answer == Some(end.text) || m == Mutation::SameEndOtherAnswer;
        self.row.end == Some(end.id) && self.row.status == end.status && same
    }

    /// Adds a job entry.
    pub(crate) fn add_job(&mut self) {
        let taken = |entry| {
            self.jobs.iter().any(|job| job.entry == entry)
                || self.workers.iter().any(|worker| worker.job() == Some(entry))
        };
        let entry = (0..).find(|entry| !taken(*entry)).unwrap_or_default();
        self.jobs.push(Job { entry, holder: None });
        if let Err(broken) = self.joint.job_added(entry) {
            self.breaks(broken.rule);
        }
    }

    /// Acknowledges and deletes a job entry, if it is there.
    pub(crate) fn delete_job(&mut self, entry: u32) {
        let before = self.jobs.len();
        self.jobs.retain(|job| job.entry != entry);
        if self.jobs.len() < before
            && let Err(broken) = self.joint.job_deleted(entry)
        {
            self.breaks(broken.rule);
        }
    }

    /// Redis loses a job entry.
    pub(crate) fn lose_job(&mut self, entry: u32) {
        self.jobs.retain(|job| job.entry != entry);
        self.joint.job_lost(entry);
    }

    /// An event of the stream, for whoever reads on after `position`.
    pub(crate) fn after(&self, position: EventId) -> Option<(EventId, Content<Span>)> {
        self.stream.iter().flatten().find(|(id, _)| *id > position).cloned()
    }
}
