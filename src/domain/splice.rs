//! How a reader knows, from IDs alone, that it misses nothing.
//!
//! After `(a, s)` comes `(a, s + 1)` or `(a' > a, 0)`; without a cursor,
//! `(a, 0)`. Anything else is a gap: Redis trimmed or forgot events. Then
//! nothing is forwarded until a reset (`started`, `snapshot`) makes the reader
//! whole again, and if the end comes first, the database fills the gap.

use super::event_id::EventId;
use super::event_name::Class;

/// What to do with an event that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send it.
    Forward,
    /// Don't send it: seen before, inside a gap, or not for readers.
    Skip,
    /// It ends the stream, but what came before is missing: send what
    /// PostgreSQL has instead.
    Fill,
}

/// One reader's place in a stream.
#[derive(Debug, Clone)]
pub struct Splice {
    last: EventId,
    gap: bool,
}

impl Splice {
    /// A reader that has everything up to and including `cursor`.
    pub const fn after(cursor: EventId) -> Self {
        Self { last: cursor, gap: false }
    }

    /// The ID of the last event that was taken in, sent or not.
    pub const fn position(&self) -> EventId {
        self.last
    }

    /// The place changes by the event; the answer says whether to send it. Only
    /// the class counts, so that events of other versions keep their place.
    pub fn offer(&mut self, id: EventId, class: Class) -> Step {
        if id <= self.last {
            return Step::Skip;
        }
        let follows = (id.attempt == self.last.attempt && id.seq == self.last.seq + 1)
            || (id.attempt > self.last.attempt && id.seq == 0);
        self.last = id;
        if !follows {
            self.gap = true;
        }
        if self.gap {
            return match class {
                Class::Reset => {
                    self.gap = false;
                    Step::Forward
                }
                Class::Terminal => Step::Fill,
                Class::Content | Class::Public | Class::Internal => Step::Skip,
            };
        }
        match class {
            Class::Internal => Step::Skip,
            // A reader without a gap already has what a snapshot inside the
            // attempt says. One that opens an attempt replaces another's text.
            Class::Reset if id.seq > 0 => Step::Skip,
            _ => Step::Forward,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::answer::Answer;
    use crate::domain::event::{Event, EventName};
    use proptest::prelude::*;

    fn id(attempt: u32, seq: u64) -> EventId {
        EventId::new(attempt, seq)
    }

    #[test]
    fn events_in_order_are_forwarded_and_repeats_are_not() {
        let mut splice = Splice::after(EventId::START);
        assert_eq!(splice.offer(id(1, 0), EventName::Started.class()), Step::Forward);
        assert_eq!(splice.offer(id(1, 1), EventName::Delta.class()), Step::Forward);
        assert_eq!(splice.offer(id(1, 1), EventName::Delta.class()), Step::Skip);
        assert_eq!(splice.offer(id(1, 2), EventName::Snapshot.class()), Step::Skip);
        assert_eq!(splice.offer(id(1, 3), EventName::Complete.class()), Step::Skip);
        assert_eq!(splice.offer(id(1, 4), EventName::Done.class()), Step::Forward);
    }

    #[test]
    fn a_gap_is_skipped_to_the_next_reset() {
        let mut splice = Splice::after(id(1, 3));
        assert_eq!(splice.offer(id(1, 5), EventName::Delta.class()), Step::Skip);
        assert_eq!(splice.offer(id(1, 6), EventName::Delta.class()), Step::Skip);
        assert_eq!(splice.offer(id(1, 7), EventName::Snapshot.class()), Step::Forward);
        assert_eq!(splice.offer(id(1, 8), EventName::Delta.class()), Step::Forward);
    }

    #[test]
    fn a_gap_that_reaches_the_end_is_filled_from_the_database() {
        let mut splice = Splice::after(id(1, 3));
        assert_eq!(splice.offer(id(1, 9), EventName::Done.class()), Step::Fill);
        let mut splice = Splice::after(EventId::START);
        assert_eq!(splice.offer(id(1, 1), EventName::Done.class()), Step::Fill);
    }

    #[test]
    fn a_snapshot_that_opens_an_attempt_is_forwarded() {
        let mut splice = Splice::after(id(1, 3));
        assert_eq!(splice.offer(id(2, 0), EventName::Snapshot.class()), Step::Forward);
        assert_eq!(splice.offer(id(2, 1), EventName::Cancelled.class()), Step::Forward);
    }

    /// Stored history: attempts of deltas with snapshots every few events.
    fn history(lengths: &[u8]) -> Vec<(EventId, Event)> {
        let mut stored = Vec::new();
        for (n, &length) in lengths.iter().enumerate() {
            let attempt = u32::try_from(n + 1).expect("small");
            let mut answer = Answer::default();
            stored.push((
                id(attempt, 0),
                Event::Started {
                    attempt,
                    model: "m".into(),
                    dropped_parameters: Vec::new(),
                    prompt_begins_with: None,
                },
            ));
            for seq in 1..=u64::from(length) {
                let event = if seq % 5 == 0 {
                    Event::Snapshot(answer.clone())
                } else {
                    Event::Delta { text: format!("{attempt}.{seq} ") }
                };
                answer.apply(&event);
                stored.push((id(attempt, seq), event));
            }
        }
        stored
    }

    proptest! {
        /// The heart of promise 2: whatever prefix was read before the cut, and
        /// whatever was lost from the stream meanwhile, a reader that ends
        /// without a gap has the last attempt's text, exactly.
        #[test]
        fn a_reader_is_exact_or_knows_that_it_is_not(
            lengths in proptest::collection::vec(0u8..24, 1..4),
            cut in any::<prop::sample::Index>(),
            lost in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let stored = history(&lengths);
            let mut whole = Answer::default();
            for (_, event) in &stored {
                whole.apply(event);
            }
            let cut = cut.index(stored.len() + 1);
            let mut mine = Answer::default();
            let mut splice = Splice::after(EventId::START);
            let mut offer = |mine: &mut Answer, (at, event): &(EventId, Event)| {
                let step = splice.offer(*at, event.name().class());
                if step == Step::Forward {
                    mine.apply(event);
                }
                splice.gap
            };
            for entry in &stored[..cut] {
                offer(&mut mine, entry);
            }
            let mut kept: Vec<_> = stored[cut..].to_vec();
            for index in lost {
                if !kept.is_empty() {
                    kept.remove(index.index(kept.len()));
                }
            }
            let mut gap = false;
            for entry in &kept {
                gap = offer(&mut mine, entry);
            }
            let sees_the_end = kept.last() == stored.last();
            if sees_the_end && !gap {
                prop_assert_eq!(mine, whole);
            }
        }
    }
}
