//! What parses outside input, as functions of arbitrary bytes that must not
//! panic, hang or hold more than their input deserves.
//!
//! Not part of the library: it exists for `cargo test`, which feeds each target
//! its corpus (`fuzz/corpus/<target>/`) and some thousands of inputs made from
//! that ([`brief`]), and under `--cfg fuzzing` for `make fuzz`, which lets
//! libFuzzer look for new ones, guided by coverage, on stable Rust. The targets
//! themselves are beside what they call, which so may stay private.

#[cfg(test)]
mod brief;

use crate::{api, domain, model, streams};

/// A target: any bytes are an input.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("event_id", domain::fuzz::event_id),
    ("event", domain::fuzz::event),
    ("entries", streams::fuzz::entries),
    ("history", streams::fuzz::history),
    ("cursor", api::fuzz::cursors),
    ("message", api::fuzz::message),
    ("frames", api::fuzz::frames),
    ("chunks", model::openai::fuzz::chunks),
    ("answers", model::openai::fuzz::answers),
    ("odd_values", model::openai::fuzz::odd_values),
    ("retry_after", model::openai::fuzz::retry_after),
    ("directives", model::simulator::fuzz::directives),
    ("catalog", model::catalog::fuzz::catalog),
];

/// Takes an input apart; what is missing at its end is zero or empty.
#[derive(Debug)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// Up to `length` bytes.
    pub(crate) fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lines of a text input, as a file in the corpus is easiest to write.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &'a str> {
        std::str::from_utf8(self.0).unwrap_or_default().split('\n')
    }
}
