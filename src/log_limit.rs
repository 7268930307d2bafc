//! At most one log line a second for each cause, so that an outage of a
//! dependency doesn't become an outage of the disk.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// One cause. Make it a `static` beside the line that it limits.
#[derive(Debug, Default)]
pub struct LogLimit {
    /// Milliseconds since the first use in this process, plus one; 0: never.
    last: AtomicU64,
    skipped: AtomicU64,
}

impl LogLimit {
    /// A cause that has not been seen.
    pub const fn new() -> Self {
        Self { last: AtomicU64::new(0), skipped: AtomicU64::new(0) }
    }

    /// `Some(n)`: log now; `n` lines were skipped since the last one.
    pub fn pass(&self) -> Option<u64> {
        static START: OnceLock<Instant> = OnceLock::new();
        let elapsed = START.get_or_init(Instant::now).elapsed().as_millis();
        let now = u64::try_from(elapsed).unwrap_or(u64::MAX).saturating_add(1);
        let last = self.last.load(Ordering::Relaxed);
        let due = last == 0 || now.saturating_sub(last) >= 1000;
        if due
            && self.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            return Some(self.skipped.swap(0, Ordering::Relaxed));
        }
        self.skipped.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_one_cause_is_one_line() {
        let cause = LogLimit::new();
        let lines = (0..1000).filter(|_| cause.pass().is_some()).count();
        assert!((1..=2).contains(&lines), "{lines} lines");
    }
}
