//! When to try again.

use std::time::Duration;

/// Exponential back-off with full jitter
/// (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The ceiling of the first wait.
    pub base: Duration,
    /// The ceiling of every wait.
    pub max: Duration,
}

impl Backoff {
    /// The wait before try number `failures + 1`: between half of and the whole
    /// `min(max, base · 2^(failures-1))`, placed by `random` in `0.0..1.0`.
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(30);
        let ceiling = self.base.saturating_mul(1 << doublings).min(self.max);
        ceiling.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_wait_is_bounded_and_never_zero(failures in 0u32..1000, random in 0.0f64..1.0) {
            let backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(30) };
            let delay = backoff.delay(failures, random);
            prop_assert!(delay >= Duration::from_millis(250) && delay <= Duration::from_secs(30));
        }
    }
}
