//! Bytes that many may hold at the same time, all together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A permit's size: a semaphore counts to 2^32 only.
const UNIT: usize = 1024;

/// A semaphore in bytes, first come, first served. Clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    free: Arc<Semaphore>,
    total: u32,
}

impl Budget {
    /// A budget of so many bytes, at least 1 KiB.
    pub fn new(bytes: usize) -> Self {
        let total = units(bytes).max(1);
        Self { free: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Room for so many bytes, once there is. More than the whole budget is the whole
    /// budget: who needs that much is alone with it.
    pub async fn take(&self, bytes: usize) -> Room {
        let permits = units(bytes).min(self.total);
        // Never closed, so there is always a permit.
        Room(self.free.clone().acquire_many_owned(permits).await.ok())
    }

    /// Room for so many bytes, if there is.
    pub fn try_take(&self, bytes: usize) -> Option<Room> {
        let permits = units(bytes).min(self.total);
        self.free.clone().try_acquire_many_owned(permits).ok().map(|permit| Room(Some(permit)))
    }
}

/// Part of a [`Budget`]. Dropped, it is given back.
#[derive(Debug)]
pub struct Room(Option<OwnedSemaphorePermit>);

impl Room {
    /// Gives back what is beyond so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.0 {
            let surplus = permit.num_permits().saturating_sub(units(bytes) as usize);
            drop(permit.split(surplus));
        }
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) * UNIT
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn room_is_waited_for_and_given_back() {
        let budget = Budget::new(10 * UNIT);
        let mut first = budget.take(8 * UNIT).await;
        let mut second = Box::pin(budget.take(4 * UNIT));
        assert!(poll!(&mut second).is_pending());
        first.shrink_to(6 * UNIT);
        assert_eq!((first.bytes(), second.await.bytes()), (6 * UNIT, 4 * UNIT));
        assert!(budget.try_take(5 * UNIT).is_none());
        drop(first);
        assert!(budget.try_take(9 * UNIT).is_some());
    }

    #[tokio::test]
    async fn what_is_larger_than_all_of_it_has_all_of_it() {
        let budget = Budget::new(2 * UNIT);
        let all = budget.take(1024 * UNIT).await;
        assert_eq!(all.bytes(), 2 * UNIT);
        assert!(budget.try_take(1).is_none());
    }
}
