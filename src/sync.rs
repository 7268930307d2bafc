//! Locks that no panic can close.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits for a lock. That its last holder panicked changes nothing: where this
/// is used, the data is whole between statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
