//! Claim: takes as many jobs as there are free slots, and starts each.
//!
//! The loop owns its blocking read and never drops it: a dropped `XREADGROUP`
//! would still take the next job. A job whose delivery was lost with the
//! connection stays pending under this worker's name and is asked for again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use super::Worker;
use super::attempt::{self, Outcome};
use super::running::Beginning;
use crate::domain::{ClaimId, TaskId};
use crate::log_limit::LogLimit;
use crate::metrics;
use crate::store::{Begin, Begun};
use crate::streams::queue::{Delivery, is_no_group};
use crate::tasks::PERSIST;

/// How long one read waits for a job; also how long a drain waits for it.
const BLOCK: Duration = Duration::from_secs(1);
/// Jobs taken in one read at most.
const BATCH: usize = 64;
/// How often a claim that can't be judged yet is tried again.
const JUDGE_AGAIN: Duration = Duration::from_millis(500);

/// Takes jobs until the worker drains.
pub(super) async fn run(worker: Arc<Worker>) {
    static LIMIT: LogLimit = LogLimit::new();
    // Without a heartbeat on record, what is begun would be anybody's.
    worker.draining.run_until_cancelled(first_heartbeat(&worker)).await;
    let mut failures = 0;
    let mut recover = true;
    while !worker.draining.is_cancelled() {
        let Some(Ok(slot)) =
            worker.draining.run_until_cancelled(worker.slots.clone().acquire_owned()).await
        else {
            break;
        };
        let free = (worker.slots.available_permits() + 1).min(BATCH);
        let taken = if recover {
            worker.consumer.undelivered(worker.options.concurrency as usize + BATCH).await
        } else {
            worker.consumer.take(free, BLOCK).await
        };
        match taken {
            Ok(jobs) => {
                failures = 0;
                recover = false;
                if worker.draining.is_cancelled() {
                    for job in jobs {
                        leave_to_others(&worker, &job).await;
                    }
                } else {
                    start_all(&worker, slot, jobs).await;
                }
            }
            Err(error) => {
                let made = match is_no_group(&error) {
                    true => worker.consumer.create_group().await,
                    false => Err(error),
                };
                recover = true;
                if let Err(error) = made
                    && let Some(skipped) = LIMIT.pass()
                {
                    tracing::warn!(%error, skipped, "no jobs can be taken; trying again");
                }
                failures += 1;
                let wait = tokio::time::sleep(PERSIST.delay(failures, rand::random()));
                worker.draining.run_until_cancelled(wait).await;
            }
        }
    }
}

async fn first_heartbeat(worker: &Worker) {
    let mut failures = 0;
    while worker.tasks.store.heartbeat(worker.id, worker.options.lease, &[]).await.is_err() {
        failures += 1;
        tokio::time::sleep(PERSIST.delay(failures, rand::random())).await;
    }
}

async fn start_all(worker: &Arc<Worker>, slot: OwnedSemaphorePermit, jobs: Vec<Delivery>) {
    let mut slot = Some(slot);
    for job in jobs {
        if worker.running.has_job(&job.entry) {
            continue;
        }
        let slot = match slot.take() {
            Some(slot) => Some(slot),
            None => {
                let free = worker.slots.clone().acquire_owned();
                worker.draining.run_until_cancelled(free).await.and_then(Result::ok)
            }
        };
        match slot {
            Some(slot) => start(worker, slot, job),
            None => leave_to_others(worker, &job).await,
        }
    }
}

/// Starts a job in a task of its own, which holds the slot.
pub(super) fn start(worker: &Arc<Worker>, slot: OwnedSemaphorePermit, job: Delivery) {
    let work = handle(worker.clone(), job);
    worker.attempts.spawn(async move {
        let _slot = slot;
        work.await;
    });
}

async fn handle(worker: Arc<Worker>, job: Delivery) {
    let Some(task) = job.task else {
        tracing::warn!(entry = job.entry, "a malformed job goes to the dead letters");
        return drop(worker.consumer.bury(&job, "malformed entry").await);
    };
    if worker.running.has_job(&job.entry) {
        return;
    }
    let beginning = worker.running.begin(task, &job.entry);
    let mut place = None;
    let begun = match begin(&worker, task, &mut place).await {
        Some(Begin::Begun(begun)) => begun,
        Some(Begin::Suspect(losses)) => {
            tracing::info!(%task, losses, "workers were lost with this task: it waits for quarantine");
            // The relay adds it again, a lease after it last did.
            return drop(worker.consumer.acknowledge(&job.entry).await);
        }
        Some(Begin::Duplicate) => {
            // Left pending if a store is away, and so delivered again.
            let _ = match worker.tasks.settle(task).await {
                Ok(Some(why)) => worker.consumer.bury(&job, &why).await,
                Ok(None) => worker.consumer.acknowledge(&job.entry).await,
                Err(_) => return,
            };
            return;
        }
        // Stays pending, for whoever claims it a lease later.
        Some(Begin::Later) => return,
        None => {
            drop(beginning);
            return leave_to_others(&worker, &job).await;
        }
    };
    let traceparent = begun.traceparent.as_deref();
    let span = tracing::info_span!("attempt", %task, attempt = begun.attempt, traceparent);
    run_attempt(&worker, task, &job, *begun, beginning).instrument(span).await;
    drop(place);
}

async fn run_attempt(
    worker: &Worker,
    task: TaskId,
    job: &Delivery,
    begun: Begun,
    beginning: Beginning<'_>,
) {
    let _gauge = metrics::task_running();
    metrics::attempt_started();
    let (control, guard) = worker.running.add(task, begun.fence(), &job.entry);
    drop(beginning);
    let fence = begun.fence();
    let outcome = tokio::select! {
        biased;
        () = control.lost.cancelled() => Outcome::Leave,
        outcome = attempt::run(worker, task, begun, &control) => outcome,
    };
    tracing::debug!(?outcome, "attempt over");
    match outcome {
        // Redelivered if this fails, and found to have ended.
        Outcome::Over => drop(worker.consumer.acknowledge(&job.entry).await),
        Outcome::GivenUp(why) => drop(worker.consumer.bury(job, &why).await),
        Outcome::HandBack => {
            let released =
                attempt::patiently(|| worker.tasks.store.release(task, fence, None)).await;
            if released.unwrap_or(false) {
                let _ = worker.consumer.hand_back(&job.entry, task).await;
            }
        }
        Outcome::LeaveToNewer(after) => {
            let released =
                attempt::patiently(|| worker.tasks.store.release(task, fence, Some(after))).await;
            if released.unwrap_or(false) {
                // The relay adds it when it is due.
                let _ = worker.consumer.acknowledge(&job.entry).await;
            }
        }
        Outcome::Leave => {}
    }
    drop(guard);
}

/// Puts a job that was not begun back into the queue.
async fn leave_to_others(worker: &Worker, job: &Delivery) {
    if let Some(task) = job.task
        && !worker.running.has_job(&job.entry)
    {
        let _ = worker.consumer.hand_back(&job.entry, task).await;
    }
}

/// Begins an attempt, however long PostgreSQL is away; a suspect's only with a
/// place in quarantine, which goes to `place`. Nothing when the worker drains
/// meanwhile: the job stays pending, and others claim it.
async fn begin(
    worker: &Worker,
    task: TaskId,
    place: &mut Option<OwnedSemaphorePermit>,
) -> Option<Begin> {
    static LIMIT: LogLimit = LogLimit::new();
    let claim = ClaimId(uuid::Uuid::new_v4());
    let lease = worker.options.lease;
    let started = Instant::now();
    let mut failures = 0;
    let mut quarantined = false;
    loop {
        let begun =
            worker.tasks.store.begin_attempt(task, claim, worker.id, lease, quarantined).await;
        let wait = match begun {
            Ok(Begin::Suspect(losses)) if !quarantined => {
                *place = worker.quarantine.enter(losses);
                // One that is given up on runs no more.
                quarantined = place.is_some() || losses >= worker.options.max_losses;
                if quarantined {
                    continue;
                }
                return Some(Begin::Suspect(losses));
            }
            Ok(Begin::Later) if started.elapsed() < lease => JUDGE_AGAIN,
            Ok(begin) => return Some(begin),
            Err(error) => {
                failures += 1;
                if let Some(skipped) = LIMIT.pass() {
                    tracing::warn!(%error, %task, skipped, "no attempt begun; trying again");
                }
                if error.is_permanent() {
                    return Some(Begin::Later);
                }
                PERSIST.delay(failures, rand::random())
            }
        };
        worker.draining.run_until_cancelled(tokio::time::sleep(wait)).await?;
    }
}
