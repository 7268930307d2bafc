//! What a baseline's process counts; the bench reads it at `/stats`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::load::tokens;

/// The longest time that is told from longer ones, in microseconds.
const LONGEST: u64 = 600_000_000;

/// A distribution of times, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    /// Nothing where only the mean is known.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
}

impl Spread {
    /// Of microseconds; nothing of nothing.
    pub(crate) fn of(micros: &Histogram<u64>) -> Option<Self> {
        let ms = |q| micros.value_at_quantile(q) as f64 / 1e3;
        (!micros.is_empty()).then(|| Self {
            count: micros.len(),
            mean: micros.mean() / 1e3,
            p50: Some(ms(0.5)),
            p99: Some(ms(0.99)),
        })
    }
}

/// What `/stats` shows.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Shown {
    /// Reads of streams.
    pub(crate) reads: u64,
    /// Of those, the ones that brought nothing.
    pub(crate) empty: u64,
    /// From asking the store to write a chunk to its answer.
    pub(crate) write: Option<Spread>,
    /// From the model's writing a token to the store's answer.
    pub(crate) written: Option<Spread>,
}

/// The counts.
#[derive(Debug)]
pub(crate) struct Gauges {
    reads: AtomicU64,
    empty: AtomicU64,
    times: Mutex<[Histogram<u64>; 2]>,
}

impl Default for Gauges {
    fn default() -> Self {
        let histogram = || Histogram::new_with_bounds(1, LONGEST, 3).expect("bounds");
        let times = Mutex::new([histogram(), histogram()]);
        Self { reads: AtomicU64::new(0), empty: AtomicU64::new(0), times }
    }
}

impl Gauges {
    /// A stream was read, and so many chunks were found.
    pub(super) fn read(&self, chunks: usize) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.empty.fetch_add(u64::from(chunks == 0), Ordering::Relaxed);
    }

    /// A chunk with this text is in the store, after so long.
    pub(super) fn wrote(&self, took: Duration, text: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let mut times = self.times.lock().expect("no holder panics");
        times[0].saturating_record(micros(took));
        for (_, stamp) in tokens::find(text.as_bytes()) {
            times[1].saturating_record(micros(now).saturating_sub(stamp));
        }
    }

    pub(super) fn shown(&self) -> Shown {
        let times = self.times.lock().expect("no holder panics");
        Shown {
            reads: self.reads.load(Ordering::Relaxed),
            empty: self.empty.load(Ordering::Relaxed),
            write: Spread::of(&times[0]),
            written: Spread::of(&times[1]),
        }
    }
}
