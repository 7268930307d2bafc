//! How much one read of many streams asks for, so that its reply is bounded in bytes.
//!
//! `XREAD` counts entries, and an entry may be a token or an answer of megabytes. What
//! the last replies had says what the next ones will: an entry's size rises at once, and
//! falls by quarters. After a failure, which may be that the reply was too large, less is
//! asked for.

/// Bytes of a reply, about. Redis closes a connection with subscriptions that has 32 MiB
/// to read.
const REPLY: usize = 2 * 1024 * 1024;
/// Bytes of an entry, as long as there was none.
const UNKNOWN: usize = 4 * 1024;
/// Bytes of an entry, at least, after a failure: Redis may have been away, and all that
/// write begin with a snapshot.
const SURPRISE: usize = 32 * 1024;

/// The bounds of a reader's next read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizing {
    /// Bytes of an entry, about.
    entry: usize,
    failures: u32,
}

impl Default for Sizing {
    fn default() -> Self {
        Self { entry: UNKNOWN, failures: 0 }
    }
}

impl Sizing {
    /// Streams of the next read, `most` at most.
    pub(super) fn keys(&self, most: usize) -> usize {
        self.less((REPLY / self.entry).min(most))
    }

    /// Entries of each of so many streams, `most` at most.
    pub(super) fn count(&self, keys: usize, most: usize) -> usize {
        self.less((REPLY / (keys.max(1) * self.entry)).min(most))
    }

    fn less(&self, of: usize) -> usize {
        (of >> self.failures.min(10)).max(1)
    }

    /// A reply had so many entries, of so many bytes in all.
    pub(super) fn learn(&mut self, entries: usize, bytes: usize) {
        self.failures = 0;
        if let Some(mean) = bytes.checked_div(entries) {
            let mean = mean.max(1);
            self.entry = if mean > self.entry { mean } else { (3 * self.entry + mean) / 4 };
        }
    }

    /// There was no reply.
    pub(super) fn fail(&mut self) {
        self.failures += 1;
        self.entry = self.entry.max(SURPRISE);
    }

    /// Reads in a row without a reply.
    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads as long as entries are of this size, and then once more.
    fn after(entry: usize) -> Sizing {
        let mut sizing = Sizing::default();
        for _ in 0..100 {
            sizing.learn(10, 10 * entry);
        }
        sizing
    }

    #[test]
    fn a_reply_is_bounded_in_bytes_once_entries_are_known() {
        for entry in [1, 100, 4_000, 70_000, 4_000_000] {
            let sizing = after(entry);
            for streams in [1, 20, 512, 2_000] {
                let keys = sizing.keys(streams.min(512));
                let bytes = keys * sizing.count(keys, 100) * entry;
                assert!(bytes <= REPLY.max(entry), "{entry}: {bytes}");
            }
        }
    }

    #[test]
    fn tokens_of_many_streams_are_read_together() {
        let sizing = after(150);
        assert_eq!((sizing.keys(512), sizing.count(512, 8), sizing.count(1, 100)), (512, 8, 100));
    }

    #[test]
    fn what_fails_is_asked_for_in_ever_smaller_reads_down_to_one_stream() {
        let mut sizing = after(100);
        let mut keys = vec![sizing.keys(512)];
        for _ in 0..12 {
            sizing.fail();
            keys.push(sizing.keys(512));
        }
        assert_eq!(keys[..4], [512, 32, 16, 8]);
        assert_eq!(keys[12], 1);
        sizing.learn(0, 0);
        assert_eq!(sizing.keys(512), 64);
    }
}
