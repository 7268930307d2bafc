//! Work on large bodies, beside the threads that serve streams.
//!
//! A body of the largest size takes tens of milliseconds to be read, checked and
//! hashed. On a thread of the runtime, everybody's tokens would wait for it.

use std::num::NonZero;
use std::sync::LazyLock;

use tokio::sync::Semaphore;

use super::problem::Problem;

/// A body of fewer bytes is worked on at once: it takes about a millisecond at most.
const SMALL: usize = 8 * 1024;

/// As many at a time as there are cores: more would only take memory.
static TURNS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, NonZero::get)));

/// Does `work` on `bytes` of input.
///
/// # Errors
/// When it panics.
pub(super) async fn work_on<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    if bytes <= SMALL {
        return Ok(work());
    }
    // The semaphore is never closed, so this can't fail.
    let turn = TURNS.acquire().await.ok();
    let work = move || {
        // Ends with the work, even if nobody waits for it any more.
        let _turn = turn;
        work()
    };
    tokio::task::spawn_blocking(work).await.map_err(Problem::internal)
}
