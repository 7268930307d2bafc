//! A client, and `tasks/follow.rs` for it.

use super::redis::Redis;
use super::{End, Postgres, Reference};
use crate::domain::splice::{Splice, Step};
use crate::domain::{Answer, Class, Event, EventId};

/// What a server has open for a client.
#[derive(Debug)]
struct Open {
    splice: Splice,
    /// IDs that were forwarded rise.
    forwarded: EventId,
}

#[derive(Debug, Default)]
pub(super) struct Viewer {
    /// What the client saw last.
    cursor: EventId,
    pub(super) answer: Answer,
    open: Option<Open>,
    ended: bool,
    /// It came with a cursor that nobody gave it, and has seen no reset since.
    unsound: bool,
    lied: bool,
}

impl Viewer {
    pub(super) fn lying(cursor: EventId) -> Self {
        Self { cursor, unsound: true, lied: true, ..Self::default() }
    }

    /// Its cursor was not its own, and it may have ended by that.
    pub(super) const fn lied(&self) -> bool {
        self.lied && self.unsound
    }

    /// Whatever was under way, in the middle of an event perhaps, is lost.
    pub(super) fn cut(&mut self) {
        self.open = None;
    }

    /// The server reads up to `read` entries, and the client gets the first
    /// `arrive` events of what it forwards. Answers with how many were read.
    pub(super) fn view(
        &mut self,
        redis: &Redis,
        postgres: &Postgres,
        reference: &Reference,
        read: usize,
        mut arrive: usize,
    ) -> usize {
        if self.ended {
            return 0;
        }
        if self.open.is_none() {
            if let Some(end) = &postgres.end {
                if self.cursor >= end.id {
                    assert!(self.lied, "nobody was given {}", self.cursor);
                    self.ended = true;
                    return 0;
                }
                if !redis.holds(end.id) {
                    self.fill(end, reference, arrive);
                    return 1;
                }
            }
            let after = self.cursor.max(EventId::new(postgres.attempt, 0).before());
            self.open = Some(Open { splice: Splice::after(after), forwarded: self.cursor });
        }
        let Some(mut open) = self.open.take() else { return 0 };
        let entries = redis.read(open.splice.position(), read);
        for entry in entries {
            match open.splice.offer(entry.id, entry.name.class()) {
                Step::Skip => assert!(!entry.name.is_terminal(), "{} is no end?", entry.id),
                Step::Fill => {
                    // A gap that reached the end.
                    let end = postgres.end.as_ref().expect("only an end is filled");
                    assert_eq!(end.id, entry.id);
                    self.fill(end, reference, arrive);
                    return entries.len();
                }
                Step::Forward => {
                    assert!(entry.id > open.forwarded, "{} after {open:?}", entry.id);
                    assert_ne!(entry.name.class(), Class::Internal);
                    open.forwarded = entry.id;
                    if arrive == 0 {
                        continue;
                    }
                    arrive -= 1;
                    match entry.name.known() {
                        Some(name) => {
                            let event = Event::decode(name, &entry.data).expect("an event");
                            self.take(entry.id, &event, reference);
                        }
                        // Another version's, which the client doesn't know either.
                        None => self.cursor = entry.id,
                    }
                }
            }
        }
        let cut_off = open.forwarded != self.cursor;
        // What was sent and did not arrive is only sent again to who comes back.
        self.open = (!cut_off && !self.ended).then_some(open);
        entries.len()
    }

    /// The whole answer and the end, from PostgreSQL; the end alone for who has
    /// everything before it.
    fn fill(&mut self, end: &End, reference: &Reference, mut arrive: usize) {
        self.open = None;
        // The ID below the end's is either nobody's, or says the same.
        if let Some(there) = reference.get(&end.id.before()) {
            assert_eq!(*there, end.answer);
        }
        if self.cursor == end.id.before() {
            assert!(self.unsound || self.answer == end.answer);
        } else if arrive > 0 {
            assert!(self.lied || self.cursor < end.id.before());
            arrive -= 1;
            self.cursor = end.id.before();
            self.answer = end.answer.clone();
            self.unsound = false;
        } else {
            return;
        }
        if arrive > 0 {
            self.cursor = end.id;
            self.ended = true;
        }
    }

    fn take(&mut self, id: EventId, event: &Event, reference: &Reference) {
        self.answer.apply(event);
        self.cursor = id;
        self.unsound &= !event.name().is_reset();
        self.ended = event.name().is_terminal();
        if !self.unsound {
            // Never a mix: at each moment it is the answer at its cursor.
            assert_eq!(Some(&self.answer), reference.get(&id), "at {id}");
        }
    }
}

/// Comes back until the terminal event.
pub(super) fn follow_to_the_end(
    viewer: &mut Viewer,
    redis: &Redis,
    postgres: &Postgres,
    reference: &Reference,
) {
    for _ in 0..1000 {
        if viewer.ended {
            return;
        }
        if viewer.view(redis, postgres, reference, 3, usize::MAX) == 0 && !viewer.ended {
            // Silence: PostgreSQL is asked, which says how it ended.
            let end = postgres.end.as_ref().expect("it has ended");
            viewer.fill(end, reference, usize::MAX);
        }
    }
    panic!("no end for {viewer:?}");
}
