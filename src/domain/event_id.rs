//! The event ID: cursor, Redis stream ID, SSE `id:` and fencing token in one.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

/// `<attempt>-<seq>`, for example `2-17`.
///
/// It *is* the ID of the entry in the task's Redis stream, *is* the `id:` of
/// the server-sent event and *is* the fencing token: `XADD` refuses an ID that
/// is not above the last, so once attempt 2 has written `2-0`, attempt 1 can't
/// write any more.
///
/// `attempt` starts at 1 and is counted by PostgreSQL; `seq` starts at 0 in
/// each attempt, with a reset, and rises by exactly 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct EventId {
    /// Which attempt wrote the event; the fence.
    pub attempt: u32,
    /// The event's place in its attempt, without holes.
    pub seq: u64,
}

impl EventId {
    /// Before every event: a cursor that has seen nothing.
    pub const START: Self = Self { attempt: 0, seq: 0 };

    /// The event `seq` of attempt `attempt`.
    pub const fn new(attempt: u32, seq: u64) -> Self {
        Self { attempt, seq }
    }

    /// The ID as it is written everywhere.
    pub fn text(self) -> EventIdText {
        let mut text = EventIdText { bytes: [0; EventIdText::MAX], len: 0 };
        text.push(itoa::Buffer::new().format(self.attempt));
        text.push("-");
        text.push(itoa::Buffer::new().format(self.seq));
        text
    }

    /// The one that follows in the same attempt.
    pub const fn next(self) -> Self {
        Self::new(self.attempt, self.seq + 1)
    }

    /// The greatest ID below this one, as a cursor to read this one after.
    pub const fn before(self) -> Self {
        match self.seq.checked_sub(1) {
            Some(seq) => Self::new(self.attempt, seq),
            None if self.attempt == 0 => Self::START,
            None => Self::new(self.attempt - 1, u64::MAX),
        }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text())
    }
}

/// An ID as it is written, without an allocation: two for each event would be
/// most of what reading and framing it costs.
#[derive(Clone, Copy)]
pub struct EventIdText {
    bytes: [u8; Self::MAX],
    len: usize,
}

impl EventIdText {
    /// The digits of a `u32` and a `u64`, and the dash.
    const MAX: usize = 10 + 1 + 20;

    fn push(&mut self, part: &str) {
        self.bytes[self.len..self.len + part.len()].copy_from_slice(part.as_bytes());
        self.len += part.len();
    }
}

impl Deref for EventIdText {
    type Target = str;

    fn deref(&self) -> &str {
        // Digits and a dash are UTF-8.
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an event ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an event ID is <attempt>-<seq>, two decimal numbers such as 2-17, as received in an event's id"
)]
pub struct ParseEventIdError;

impl FromStr for EventId {
    type Err = ParseEventIdError;

    /// Strict: as it is written and no other way, so no sign, no blanks, no
    /// leading zeros, and both parts there.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (attempt, seq) = s.split_once('-').ok_or(ParseEventIdError)?;
        let number = |part: &str| {
            part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
        };
        if !number(attempt) || !number(seq) {
            return Err(ParseEventIdError);
        }
        Ok(Self {
            attempt: attempt.parse().map_err(|_| ParseEventIdError)?,
            seq: seq.parse().map_err(|_| ParseEventIdError)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(attempt: u32, seq: u64) {
            let id = EventId::new(attempt, seq);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn any_text_is_read_as_it_is_written_or_refused(
            s in prop_oneof!["\\PC{0,24}", "[+ 0-9]{0,12}-[-0-9 ]{0,22}", "[0-9]{1,10}-[0-9]{1,20}"]
        ) {
            let parsed = s.parse::<EventId>();
            // What Redis prints for a pair of 64-bit numbers, and nothing else.
            let redis = s.split_once('-').and_then(|(ms, seq)| {
                let pair: (u64, u64) = (ms.parse().ok()?, seq.parse().ok()?);
                (s == format!("{}-{}", pair.0, pair.1)).then_some(pair)
            });
            let ours = redis.filter(|(ms, _)| *ms <= u64::from(u32::MAX));
            prop_assert_eq!(parsed.ok().map(|id| (u64::from(id.attempt), id.seq)), ours);
        }

        /// Redis compares 128-bit numbers: milliseconds, then sequence.
        #[test]
        fn ids_are_in_the_order_of_redis(a: (u32, u64), b: (u32, u64), near in 0u64..3) {
            let redis = |(attempt, seq): (u32, u64)| (u128::from(attempt) << 64) | u128::from(seq);
            let id = |(attempt, seq)| EventId::new(attempt, seq);
            let close = (a.0, a.1.saturating_add(near));
            for (a, b) in [(a, b), (a, close), (close, b)] {
                prop_assert_eq!(id(a).cmp(&id(b)), redis(a).cmp(&redis(b)));
            }
        }

        #[test]
        fn the_next_id_is_the_first_one_above_and_leads_back(attempt: u32, seq in 0..u64::MAX, other: u64) {
            let id = EventId::new(attempt, seq);
            prop_assert_eq!(id.next().before(), id);
            let other = EventId::new(attempt, other);
            prop_assert_eq!(other > id, other >= id.next());
        }

        #[test]
        fn a_later_attempt_is_above_every_event_of_an_earlier_one(a in 0u32..1000, s: u64, t: u64) {
            prop_assert!(EventId::new(a + 1, t) > EventId::new(a, s));
        }

        #[test]
        fn reading_after_the_one_before_finds_the_event(a in 1u32.., s: u64) {
            let id = EventId::new(a, s);
            prop_assert!(id.before() < id);
        }
    }

    #[test]
    fn malformed_cursors_are_refused() {
        for bad in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "+1-2",
            "1-2-3",
            " 1-2",
            "1-2 ",
            "a-b",
            "4294967296-0",
            "01-2",
            "1-02",
            "0-00",
        ] {
            assert_eq!(bad.parse::<EventId>(), Err(ParseEventIdError), "{bad:?}");
        }
    }
}
