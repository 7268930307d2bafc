//! Heartbeat: one statement and one script a period for all of a worker's tasks.
//!
//! PostgreSQL first, Redis after: an entry whose idle time has run out then
//! always belongs to a worker whose heartbeat has, too. Not being able to renew
//! is not losing; only PostgreSQL saying so is.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::domain::{Fence, TaskId};
use crate::log_limit::LogLimit;
use crate::store::Beat;

/// Beats until `stopped`.
pub(super) async fn run(worker: Arc<Worker>, stopped: CancellationToken) {
    let period = worker.options.heartbeat;
    let mut strays = Vec::new();
    loop {
        let next = Instant::now() + period;
        // One that hangs must not delay the next.
        let beat = tokio::time::timeout(period, beat(&worker, &mut strays));
        let next = match stopped.run_until_cancelled(beat).await {
            None => return,
            Some(Ok(true)) => next,
            // Soon again: others count from the last one that got through.
            Some(Ok(false) | Err(_)) => Instant::now() + period / 4,
        };
        if stopped.run_until_cancelled(tokio::time::sleep_until(next)).await.is_none() {
            return;
        }
    }
}

/// One beat. False: PostgreSQL did not hear it.
async fn beat(worker: &Worker, strays: &mut Vec<(TaskId, u32)>) -> bool {
    static STORE: LogLimit = LogLimit::new();
    static REDIS: LogLimit = LogLimit::new();
    let attempts = worker.running.attempts();
    match worker.tasks.store.heartbeat(worker.id, worker.options.lease, &attempts).await {
        Ok(beat) => heed(worker, &attempts, beat, strays).await,
        Err(error) => {
            if let Some(skipped) = STORE.pass() {
                tracing::warn!(%error, skipped, "no heartbeat; going on");
            }
            // Without it, renewing the jobs would only hide that others may
            // take the tasks over.
            return false;
        }
    }
    let tasks: Vec<_> = attempts.into_iter().map(|(task, _)| task).collect();
    let jobs = worker.running.jobs();
    let (renewed, kept) =
        tokio::join!(worker.consumer.renew(&jobs), worker.tasks.streams.keep(&tasks));
    if let Err(error) = renewed.and(kept)
        && let Some(skipped) = REDIS.pass()
    {
        tracing::warn!(%error, skipped, "jobs are not renewed in Redis; going on");
    }
    true
}

async fn heed(
    worker: &Worker,
    attempts: &[(TaskId, Fence)],
    beat: Beat,
    strays: &mut Vec<(TaskId, u32)>,
) {
    for task in beat.cancelled {
        worker.running.cancel(task);
    }
    for task in beat.lost {
        if let Some((_, fence)) = attempts.iter().find(|(mine, _)| *mine == task) {
            tracing::warn!(%task, fence.attempt, "another attempt has begun; stopping this attempt");
            worker.running.lose(task, *fence);
        }
    }
    // What two beats in a row name is neither just begun nor just ended.
    for (task, attempt) in &beat.strays {
        if strays.contains(&(*task, *attempt)) && !worker.running.has_task(*task) {
            tracing::error!(%task, attempt, "this worker has the task, but doesn't run it; queueing it again");
            let _ = worker.tasks.store.requeue_stray(*task, *attempt, worker.id).await;
        }
    }
    *strays = beat.strays;
}
