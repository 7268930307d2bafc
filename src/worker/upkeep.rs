//! Upkeep: claims what dead workers left pending, relays what the queue lost,
//! ends what is overdue, tidies up. Every worker does it; all of it is
//! idempotent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Worker, claim};
use crate::log_limit::LogLimit;
use crate::streams;

/// How often dead workers' jobs and missing jobs are looked for.
const PERIOD: Duration = Duration::from_secs(1);
/// How often overdue tasks are looked for.
const OVERDUE: Duration = Duration::from_secs(5);
/// How often leftovers are removed.
const TIDY: Duration = Duration::from_secs(60);
/// How long a deleted conversation is kept, so that readers get its end.
const KEEP_DELETED: Duration = Duration::from_secs(3600);
/// Jobs claimed in one pass at most.
const BATCH: usize = 64;

/// Keeps up until the worker drains.
pub(super) async fn run(worker: Arc<Worker>) {
    let mut cursor = "0-0".to_owned();
    let (mut overdue, mut tidied) = (Instant::now(), Instant::now());
    let lease = worker.options.lease;
    let rounds = async {
        loop {
            tokio::time::sleep(PERIOD.mul_f64(0.75 + rand::random::<f64>() / 2.0)).await;
            // Each on its own: one that can't be done must not stop the others.
            report(reclaim(&worker, &mut cursor).await);
            report(worker.tasks.relay(lease).await);
            if overdue.elapsed() >= OVERDUE {
                overdue = Instant::now();
                report(worker.tasks.end_overdue(lease).await);
            }
            if tidied.elapsed() >= TIDY {
                tidied = Instant::now();
                report(worker.tasks.store.tidy(KEEP_DELETED).await);
                report(worker.consumer.forget_dead(lease * 4).await);
            }
        }
    };
    worker.draining.run_until_cancelled(rounds).await;
}

fn report<T, E: std::fmt::Display>(outcome: Result<T, E>) {
    static LIMIT: LogLimit = LogLimit::new();
    if let Err(error) = outcome
        && let Some(skipped) = LIMIT.pass()
    {
        tracing::warn!(%error, skipped, "a part of the upkeep was not done; trying again");
    }
}

/// One step through the pending jobs, as far as there are free slots.
async fn reclaim(worker: &Arc<Worker>, cursor: &mut String) -> streams::Result<()> {
    let free = worker.slots.available_permits().min(BATCH);
    if free == 0 {
        return Ok(());
    }
    let (next, jobs) = worker.consumer.reclaim(worker.options.lease, cursor, free).await?;
    *cursor = next;
    for job in jobs {
        if worker.running.has_job(&job.entry) {
            continue;
        }
        // What finds no slot stays pending, and is claimed again.
        let Ok(slot) = worker.slots.clone().try_acquire_owned() else { break };
        tracing::info!(entry = job.entry, task = ?job.task, "claimed a job that its worker has left");
        claim::start(worker, slot, job);
    }
    Ok(())
}
