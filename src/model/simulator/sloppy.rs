//! Sloppiness as real servers have it: rewrites the neat event stream of
//! [`super::wire::Chunks`] into what their clients must be able to read.
//!
//! A transformer of bytes with state, so that the neat stream neither knows of
//! it nor pays for it: [`json`] has the rules for what is in a chunk, [`lines`]
//! those for what is around it.

mod json;
mod lines;

use bytes::Bytes;
use serde_json::Value;

use self::json::Chunks;
use self::lines::Lines;

/// One way to be sloppy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One line end between events, where an empty line belongs.
    Lf,
    /// CRLF as the line end.
    Crlf,
    /// CR as the line end. Wins over `crlf`.
    Cr,
    /// No `[DONE]`, and no line end behind the last event. With `unfinished`
    /// the `[DONE]` is the last event: nothing else would say that it's whole.
    Unended,
    /// Before each event: a comment, no data, data that isn't JSON, and chunks
    /// that say nothing.
    Heartbeats,
    /// Content and reasoning as typed parts, as Mistral's.
    Parts,
    /// `message` in the place of `delta`.
    Message,
    /// No finish reason, but `[DONE]`. An `error` stays one.
    Unfinished,
    /// Other JSON types than OpenAI's. `parts` keeps text text.
    OddTypes,
    /// Tool calls without an index.
    NoIndex,
    /// Tool calls with an empty ID.
    BadIds,
    /// A whole completion as JSON, not a stream. Wins over the rules for lines,
    /// and over `bytes`.
    Whole,
    /// The content type of the other kind of answer: JSON's for a stream, the
    /// stream's with `whole`.
    Mislabelled,
    /// A character's surrogate halves in two chunks, each escaped alone.
    Bytes,
}

/// How many there are.
#[cfg(test)]
pub(super) const KIND_NAMES: usize = KINDS.len();

/// As the directive names them.
const KINDS: [(&str, Kind); 14] = [
    ("lf", Kind::Lf),
    ("crlf", Kind::Crlf),
    ("cr", Kind::Cr),
    ("unended", Kind::Unended),
    ("heartbeats", Kind::Heartbeats),
    ("parts", Kind::Parts),
    ("message", Kind::Message),
    ("unfinished", Kind::Unfinished),
    ("odd-types", Kind::OddTypes),
    ("no-index", Kind::NoIndex),
    ("bad-ids", Kind::BadIds),
    ("whole", Kind::Whole),
    ("mislabelled", Kind::Mislabelled),
    ("bytes", Kind::Bytes),
];

/// The ways in which an answer is sloppy; none of them is neat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Kinds(u16);

impl Kinds {
    /// `lf+parts`; `None` when one of them is unknown.
    pub(super) fn parse(value: &str) -> Option<Self> {
        value.split('+').try_fold(Self::default(), |kinds, name| {
            let &(_, kind) = KINDS.iter().find(|(known, _)| *known == name.trim())?;
            Some(Self(kinds.0 | 1 << kind as u16))
        })
    }

    pub(super) fn and(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    pub(super) fn has(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u16 != 0
    }

    /// The rewriting of one streamed answer; `None` where nothing is to do.
    pub(super) fn rewriting(self) -> Option<Rewriting> {
        (self != Self::default()).then(|| Rewriting { chunks: Chunks::new(self), kinds: self })
    }

    /// The content type of an answer that is, neatly, of `neat`.
    pub(super) fn content_type(self, neat: &'static str) -> &'static str {
        match (self.has(Kind::Mislabelled), neat) {
            (false, neat) => neat,
            (true, "text/event-stream") => "application/json",
            (true, _) => "text/event-stream",
        }
    }

    /// A whole completion as text, by the rules for JSON.
    pub(super) fn completion(self, completion: Value) -> String {
        if self == Self::default() {
            completion.to_string()
        } else {
            json::completion(self, completion)
        }
    }
}

/// One streamed answer's rewriting.
pub(super) struct Rewriting {
    kinds: Kinds,
    chunks: Chunks,
}

impl Rewriting {
    /// What is sent in the place of `neat`: whole events, and the last of the
    /// answer together with `[DONE]`. May be nothing, when all is held back.
    pub(super) fn rewrite(&mut self, neat: &[u8]) -> Bytes {
        let neat = String::from_utf8_lossy(neat);
        let mut lines = Lines::new(self.kinds);
        for event in neat.split_terminator("\n\n") {
            // A line before that of the data is the event's name.
            let (name, data) = match event.split_once('\n') {
                Some((name, data)) => (Some(name), data),
                None => (None, event),
            };
            let data = data.strip_prefix("data: ").unwrap_or(data);
            match serde_json::from_str::<Value>(data) {
                Ok(chunk) => self.chunks.push(chunk, |json| lines.event(name, &json)),
                Err(_) => {
                    self.chunks.flush(|json| lines.event(None, &json));
                    if data == "[DONE]" { lines.done() } else { lines.event(name, data) }
                }
            }
        }
        lines.into_bytes()
    }
}

#[cfg(test)]
mod tests;
