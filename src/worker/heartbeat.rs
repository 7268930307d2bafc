//! Heartbeat: one statement and one script a period for all of a worker's tasks.
//!
//! PostgreSQL first, Redis after: an entry whose idle time has run out then
//! always belongs to a worker whose heartbeat has, too. Not being able to renew
//! is not losing; only PostgreSQL saying so is.

use std::sync::Arc;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::log_limit::LogLimit;

/// Beats until `stopped`.
pub(super) async fn run(worker: Arc<Worker>, stopped: CancellationToken) {
    let mut period = tokio::time::interval(worker.options.heartbeat);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopped.cancelled() => return,
            _ = period.tick() => {}
        }
        tokio::select! {
            () = stopped.cancelled() => return,
            () = beat(&worker) => {}
        }
    }
}

async fn beat(worker: &Worker) {
    static STORE: LogLimit = LogLimit::new();
    static REDIS: LogLimit = LogLimit::new();
    let attempts = worker.running.attempts();
    match worker.tasks.store.heartbeat(worker.id, worker.options.lease, &attempts).await {
        Ok(beats) => {
            for beat in beats {
                if beat.cancelled {
                    worker.running.cancel(beat.task);
                }
                if beat.lost
                    && let Some((_, attempt)) = attempts.iter().find(|(task, _)| *task == beat.task)
                {
                    tracing::warn!(task = %beat.task, attempt, "another attempt has begun; stopping this attempt");
                    worker.running.lose(beat.task, *attempt);
                }
            }
        }
        Err(error) => {
            if let Some(skipped) = STORE.pass() {
                tracing::warn!(%error, skipped, "no heartbeat; going on");
            }
            // Without it, renewing the jobs would only hide that others may
            // take the tasks over.
            return;
        }
    }
    let tasks: Vec<_> = attempts.into_iter().map(|(task, _)| task).collect();
    let renewed = async {
        worker.consumer.renew(&worker.running.jobs()).await?;
        worker.tasks.streams.keep(&tasks).await
    };
    if let Err(error) = renewed.await
        && let Some(skipped) = REDIS.pass()
    {
        tracing::warn!(%error, skipped, "jobs are not renewed in Redis; going on");
    }
}
