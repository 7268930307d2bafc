//! This machine's clock, where a time has to mean something to other machines.
//! (Durations are measured by `Instant`, and what decides is PostgreSQL's clock.)

use std::time::{SystemTime, UNIX_EPOCH};

/// Now: milliseconds of Unix time.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
