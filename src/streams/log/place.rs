//! Where a log is: which ID comes next, and when a snapshot has to.
//!
//! The rules that make readers exact, without the I/O, so that a test can lose
//! and heal streams in any way (`worker/exactness.rs`).

use crate::domain::{EventId, EventName};

/// One attempt's place in its stream.
#[derive(Debug)]
pub(crate) struct Place {
    /// The ID that the next event gets.
    next: EventId,
    /// An append of `next` was sent and its outcome is not known.
    sent: bool,
    /// The connection that confirmed the last append.
    generation: Option<u64>,
    /// Redis may have forgotten something: the next event must be a snapshot.
    heal: bool,
    /// Events since the last reset.
    since_reset: u64,
}

impl Place {
    /// An attempt that has written nothing yet.
    pub(crate) const fn new(attempt: u32) -> Self {
        let next = EventId::new(attempt, 0);
        Self { next, sent: false, generation: None, heal: false, since_reset: 0 }
    }

    /// The ID that the next event gets.
    pub(crate) const fn next(&self) -> EventId {
        self.next
    }

    /// Redis may have forgotten the tail: the next event must be a snapshot.
    pub(crate) const fn must_heal(&self) -> bool {
        self.heal
    }

    /// A stream of about `maxlen` events would soon have no reset to start from.
    pub(crate) const fn snapshot_is_due(&self, maxlen: u64) -> bool {
        self.since_reset >= maxlen / 2
    }

    /// An ID that no event of this attempt has, sent or not.
    pub(crate) const fn free_id(&self) -> EventId {
        if self.sent { self.next.next() } else { self.next }
    }

    /// The next event is on its way: from now on its ID has its content.
    pub(crate) const fn sending(&mut self) {
        self.sent = true;
    }

    /// Whether it arrived is not known: Redis may come back without its last
    /// second.
    pub(crate) const fn unknown(&mut self) {
        self.heal = true;
    }

    /// The stream is gone, and is to be made again. What was sent may have made
    /// it, and been forgotten with the rest: its ID keeps its content.
    pub(crate) const fn pass_over(&mut self) {
        self.next = self.free_id();
        self.sent = false;
    }

    /// The event is in the stream, says connection `generation`. Answers with
    /// its ID.
    pub(crate) fn confirmed(&mut self, name: EventName, generation: u64) -> EventId {
        let id = self.next;
        let changed = self.generation.is_some_and(|before| before != generation);
        if name.is_reset() {
            self.heal = false;
            self.since_reset = 0;
        } else {
            self.heal |= changed;
        }
        self.since_reset += 1;
        self.generation = Some(generation);
        self.next = id.next();
        self.sent = false;
        id
    }
}
