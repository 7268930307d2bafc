//! The steps that every token takes through this process, as functions that can
//! be called alone: for `tests/guard`, which bounds what they cost, and for
//! `benches/hot`, which times them.
//!
//! Not part of the library's interface. Each step is the real code and no copy
//! of it; those that are private have their door beside them, so that they stay
//! so. (The step before, from the provider's bytes to deltas, needs no door:
//! [`crate::model::openai::OpenAi`] takes it, given a server.)

use bytes::Bytes;

use crate::domain::EventId;
use crate::domain::splice::Splice;
use crate::streams::Entry;
use crate::{api, tasks};

pub use crate::streams::tail::hot::{FanOut, entries};
pub use crate::worker::hot::Saying;

/// One reader's answer: entries in, the bytes of its event stream out.
#[derive(Debug)]
pub struct Serving(Splice);

impl Serving {
    /// For a reader that has everything up to and including `cursor`.
    pub const fn after(cursor: EventId) -> Self {
        Self(Splice::after(cursor))
    }

    /// The frames of those entries that are to be sent.
    pub fn frames(&mut self, entries: Vec<Entry>) -> Bytes {
        frames(&tasks::forwarded(&mut self.0, entries))
    }
}

/// Entries as frames, in one piece.
pub fn frames(entries: &[Entry]) -> Bytes {
    api::stream::encode_all(entries)
}
