//! What the client has seen.

use std::sync::atomic::AtomicU64;
use std::time::Instant;

use hdrhistogram::Histogram;

use super::request::Cursor;

/// The longest latency that is told from longer ones, in microseconds.
const LONGEST: u64 = 600_000_000;

/// Counts that others watch while the client runs.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Streams whose head has arrived.
    pub(crate) opened: AtomicU64,
    /// Tokens.
    pub(crate) tokens: AtomicU64,
    /// Streams that are over, however they ended.
    pub(crate) ended: AtomicU64,
}

/// Everything that was seen, of all streams together.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Microseconds from the model's writing a token to the client.
    pub(crate) latency: Histogram<u64>,
    /// Microseconds from connecting to the response's head.
    pub(crate) opening: Histogram<u64>,
    /// Microseconds from connecting to the end.
    pub(crate) stay: Histogram<u64>,
    /// Tokens, those of snapshots not included.
    pub(crate) tokens: u64,
    /// Tokens that came by snapshots.
    pub(crate) summed_up: u64,
    /// Tokens that never came, of streams that are over.
    pub(crate) lost: u64,
    /// Tokens that came again.
    pub(crate) doubled: u64,
    /// Tokens that came after later ones.
    pub(crate) misplaced: u64,
    /// Events with text; fewer than tokens where they were merged.
    pub(crate) events: u64,
    /// Bytes, those of the framing included.
    pub(crate) bytes: u64,
    /// Reads that found something.
    pub(crate) reads: u64,
    /// Times that an answer began again.
    pub(crate) restarted: u64,
    /// Times that a reader came back.
    pub(crate) reconnects: u64,
    /// Times that a reader was refused with 503 or 429, and came back.
    pub(crate) refused: u64,
    /// Streams that ended with `done`, or were left as asked.
    pub(crate) done: u64,
    /// Streams that ended with `failed`.
    pub(crate) failed: u64,
    /// Streams that ended otherwise.
    pub(crate) broken: u64,
    /// Why the first of those did.
    pub(crate) reason: Option<String>,
    /// Tokens a second at which streams arrived, summed.
    pub(crate) received_rate: f64,
    /// Tokens a second at which the model wrote them, summed.
    pub(crate) written_rate: f64,
    /// When the last stream ended.
    pub(crate) last_end: Option<Instant>,
    /// The cursors that were to be kept, by their requests' tags.
    pub(crate) cursors: Vec<(usize, Cursor)>,
}

impl Default for Tally {
    fn default() -> Self {
        let histogram = || {
            let mut histogram = Histogram::new_with_bounds(1, LONGEST, 3).expect("bounds");
            histogram.auto(false);
            histogram
        };
        Self {
            latency: histogram(),
            opening: histogram(),
            stay: histogram(),
            tokens: 0,
            summed_up: 0,
            lost: 0,
            doubled: 0,
            misplaced: 0,
            events: 0,
            bytes: 0,
            reads: 0,
            restarted: 0,
            reconnects: 0,
            refused: 0,
            done: 0,
            failed: 0,
            broken: 0,
            reason: None,
            received_rate: 0.0,
            written_rate: 0.0,
            last_end: None,
            cursors: Vec::new(),
        }
    }
}

impl Tally {
    /// Adds what was seen earlier or elsewhere.
    pub(crate) fn add(&mut self, other: Self) {
        for (mine, theirs) in [
            (&mut self.latency, other.latency),
            (&mut self.opening, other.opening),
            (&mut self.stay, other.stay),
        ] {
            mine.add(theirs).expect("the same bounds");
        }
        for (mine, theirs) in [
            (&mut self.tokens, other.tokens),
            (&mut self.summed_up, other.summed_up),
            (&mut self.lost, other.lost),
            (&mut self.doubled, other.doubled),
            (&mut self.misplaced, other.misplaced),
            (&mut self.events, other.events),
            (&mut self.bytes, other.bytes),
            (&mut self.reads, other.reads),
            (&mut self.restarted, other.restarted),
            (&mut self.reconnects, other.reconnects),
            (&mut self.refused, other.refused),
            (&mut self.done, other.done),
            (&mut self.failed, other.failed),
            (&mut self.broken, other.broken),
        ] {
            *mine += theirs;
        }
        self.received_rate += other.received_rate;
        self.written_rate += other.written_rate;
        self.reason = self.reason.take().or(other.reason);
        self.last_end = self.last_end.max(other.last_end);
        self.cursors.extend(other.cursors);
    }

    /// A stream ended in a way that it shouldn't have.
    pub(crate) fn broke(&mut self, reason: String) {
        self.broken += 1;
        self.reason.get_or_insert(reason);
    }
}
