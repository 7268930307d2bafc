//! Quarantine: suspects, tasks that workers were lost with, run apart from each
//! other, the more so the more often, until the culprit is alone with its losses.
//!
//! | losses | such tasks at a time, of a worker |
//! |---|---|
//! | 0, 1 | as many as there are slots |
//! | 2 | 16 |
//! | 3 | 4, with no other suspect |
//! | 4 and more | 1, with no other suspect |
//!
//! A death counts for all tasks of the worker. So the innocent ones of a culprit
//! get four losses at most, two of them beside all others, one among 16, one among
//! 4; then they and the culprit never run in one worker again. The culprit is given
//! up at `--max-losses`. (Several culprits can still add to an innocent's losses,
//! two each at most, before they are suspects themselves.)

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::store::SUSPECT;

const PLACES: u32 = 16;
/// Losses from which on a suspect is the only one of its worker.
const ALONE: u32 = SUSPECT + 2;

/// The smallest limit of losses that an innocent task doesn't come to.
pub(super) const LEAST_LIMIT: i64 = ALONE as i64 + 1;

/// A worker's places for suspects.
#[derive(Debug)]
pub(super) struct Quarantine(Arc<Semaphore>);

impl Default for Quarantine {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PLACES as usize)))
    }
}

/// Places that a suspect takes.
const fn weight(losses: u32) -> u32 {
    match losses {
        ..=SUSPECT => 1,
        ALONE.. => PLACES,
        _ => PLACES / 4,
    }
}

impl Quarantine {
    /// A place for a task with that many losses, if there is one now.
    pub(super) fn enter(&self, losses: u32) -> Option<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_many_owned(weight(losses)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a deployment with one culprit ends: every round, a worker takes what
    /// its quarantine has places for, the culprit last, and dies.
    #[test]
    fn one_culprit_costs_the_innocent_four_losses_at_most_and_is_found() {
        let mut losses = vec![0_u32; 256];
        let limit = u32::try_from(LEAST_LIMIT).expect("small");
        let culprit = 0;
        let mut deaths = 0;
        while losses[culprit] < limit + 1 {
            let quarantine = Quarantine::default();
            let mut places = Vec::new();
            // As unlucky as can be: the most suspected come first.
            let mut order: Vec<_> = (0..losses.len()).collect();
            order.sort_by_key(|task| (*task != culprit, std::cmp::Reverse(losses[*task])));
            let runs: Vec<_> = order
                .into_iter()
                .filter(|task| {
                    let place = quarantine.enter(losses[*task]);
                    let enters = losses[*task] < SUSPECT || place.is_some();
                    places.extend(place.filter(|_| losses[*task] >= SUSPECT));
                    enters
                })
                .collect();
            assert!(runs.contains(&culprit));
            runs.into_iter().for_each(|task| losses[task] += 1);
            deaths += 1;
        }
        assert_eq!(deaths, limit + 1);
        let most = losses[1..].iter().max().copied();
        assert!(most < Some(limit), "{losses:?}");
    }
}
