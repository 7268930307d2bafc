//! The worker: takes jobs, runs attempts, keeps its lease.
//!
//! Five loops, each owned by [`run`]: `claim` takes jobs and starts an
//! `attempt` for each, `heartbeat` renews the lease, `hinted` looks whether a
//! task should stop, `upkeep` claims what dead workers left and relays what the
//! queue lost. When the process dies,
//! all of it stops at once; others notice after a lease.

mod attempt;
mod call;
mod claim;
mod drain;
#[cfg(test)]
mod exactness;
mod heartbeat;
mod hinted;
pub(crate) mod hot;
mod outbox;
mod prompt;
mod quarantine;
mod running;
mod streaming;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::hinted::Hinted;
use self::quarantine::Quarantine;
use self::running::Running;
use crate::budget::Budget;
use crate::config::Invalid;
use crate::domain::retry::Backoff;
use crate::domain::{JobKind, WorkerId};
use crate::model::catalog::Catalog;
use crate::streams::queue::Consumer;
use crate::tasks::Tasks;

/// How tasks are run.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Worker")]
#[group(skip)]
pub struct Options {
    /// Tasks that run at the same time at most
    #[arg(long, env = "RILL_CONCURRENCY", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: u32,
    /// How long a worker may be silent before others take over its tasks
    #[arg(long, env = "RILL_LEASE", default_value = "15s", value_parser = crate::config::duration)]
    pub lease: Duration,
    /// How often the lease is renewed; at most a third of it
    #[arg(long, env = "RILL_HEARTBEAT", default_value = "5s", value_parser = crate::config::duration)]
    pub heartbeat: Duration,
    /// Failures of one task, after which it is given up
    #[arg(long, env = "RILL_MAX_FAILURES", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub max_failures: u32,
    /// Workers lost while they ran one task, after which it is given up; from the second on, it
    /// runs apart from others of which that is true
    #[arg(long, env = "RILL_MAX_LOSSES", default_value_t = 6, value_parser = clap::value_parser!(u32).range(quarantine::LEAST_LIMIT..=1000))]
    pub max_losses: u32,
    /// The ceiling of the first wait before another try (doubles with each)
    #[arg(long, env = "RILL_RETRY_BASE", default_value = "1s", value_parser = crate::config::duration)]
    pub retry_base: Duration,
    /// The ceiling of every wait before another try, a Retry-After included
    #[arg(long, env = "RILL_RETRY_MAX", default_value = "60s", value_parser = crate::config::duration)]
    pub retry_max: Duration,
    /// How long the model may say nothing before the attempt fails
    #[arg(long, env = "RILL_MODEL_IDLE_TIMEOUT", default_value = "60s", value_parser = crate::config::duration)]
    pub model_idle_timeout: Duration,
    /// Bytes that an answer may have; a longer one fails
    #[arg(long, env = "RILL_ANSWER_CAP", default_value_t = 4 * 1024 * 1024)]
    pub answer_cap: usize,
    /// Bytes of a prompt at most; a conversation's oldest messages are left out
    #[arg(long, env = "RILL_MAX_PROMPT_BYTES", default_value_t = 4 * 1024 * 1024, value_parser = clap::value_parser!(u32).range(crate::store::SMALL_PROMPT as i64..=1024 * 1024 * 1024))]
    pub max_prompt_bytes: u32,
    /// Bytes of prompts above 64 KiB that a worker holds at the same time, until their answers begin
    #[arg(long, env = "RILL_PROMPT_MEMORY", default_value_t = 64 * 1024 * 1024)]
    pub prompt_memory: usize,
    /// How long running tasks may go on after SIGTERM before they are handed back
    #[arg(long, env = "RILL_DRAIN_GRACE", default_value = "25s", value_parser = crate::config::duration)]
    pub drain_grace: Duration,
}

impl Options {
    /// Refuses combinations that would break a promise.
    ///
    /// # Errors
    /// With what to change.
    pub fn validate(&self, stream_ttl: Duration) -> Result<(), Invalid> {
        if self.heartbeat.is_zero() || self.heartbeat * 3 > self.lease {
            return Err(Invalid(format!(
                "--heartbeat {} is longer than a third of --lease {}: one lost heartbeat would lose the lease; \
                 shorten the heartbeat or lengthen the lease",
                humantime::format_duration(self.heartbeat),
                humantime::format_duration(self.lease),
            )));
        }
        if self.prompt_memory < self.max_prompt_bytes as usize {
            return Err(Invalid(format!(
                "--prompt-memory {} has no room for a prompt of --max-prompt-bytes {}: raise it, or lower those",
                self.prompt_memory, self.max_prompt_bytes,
            )));
        }
        let silence = self.model_idle_timeout.max(self.retry_max) + self.lease;
        if stream_ttl <= silence {
            return Err(Invalid(format!(
                "--stream-ttl {} must be longer than the longest silence of a stream, {} \
                 (--model-idle-timeout or --retry-max, and a lease), or it expires under its readers; \
                 lengthen it, or shorten those",
                humantime::format_duration(stream_ttl),
                humantime::format_duration(silence),
            )));
        }
        Ok(())
    }

    const fn backoff(&self) -> Backoff {
        Backoff { base: self.retry_base, max: self.retry_max }
    }
}

/// What the loops of one worker share.
struct Worker {
    id: WorkerId,
    tasks: Tasks,
    consumer: Consumer,
    models: Arc<Catalog>,
    options: Options,
    running: Running,
    hinted: Hinted,
    quarantine: Quarantine,
    /// Free places for tasks.
    slots: Arc<Semaphore>,
    attempts: TaskTracker,
    /// Room for large prompts.
    prompt_memory: Budget,
    /// No more jobs are taken.
    draining: CancellationToken,
    /// Running tasks are handed back.
    grace_over: CancellationToken,
}

/// Runs a worker until `shutdown`, then drains it: running tasks get the grace
/// period to finish, the rest is handed back uncharged.
pub async fn run(
    tasks: Tasks,
    models: Arc<Catalog>,
    options: Options,
    shutdown: CancellationToken,
) {
    let id = WorkerId(uuid::Uuid::new_v4());
    let consumer = tasks.streams.consumer(JobKind::Generate, id);
    let worker = Arc::new(Worker {
        id,
        consumer,
        models,
        running: Running::default(),
        hinted: Hinted::default(),
        quarantine: Quarantine::default(),
        slots: Arc::new(Semaphore::new(options.concurrency as usize)),
        attempts: TaskTracker::new(),
        prompt_memory: Budget::new(options.prompt_memory),
        draining: shutdown.clone(),
        grace_over: CancellationToken::new(),
        tasks,
        options,
    });
    let running = Arc::downgrade(&worker);
    worker.tasks.streams.on_cancel(move |task| {
        if let Some(worker) = running.upgrade() {
            hinted::hint(&worker, task);
        }
    });

    let stopped = CancellationToken::new();
    let beating = tokio::spawn(heartbeat::run(worker.clone(), stopped.clone()));
    let (looking, until) = (worker.clone(), stopped.clone());
    tokio::spawn(async move { until.run_until_cancelled(hinted::run(&looking)).await });
    let takers = TaskTracker::new();
    takers.spawn(upkeep::run(worker.clone()));
    takers.spawn(claim::run(worker.clone()));
    takers.close();
    shutdown.cancelled().await;
    // First whoever starts attempts, so that none starts behind the drain's back.
    let _ = tokio::time::timeout(drain::HAND_BACK, takers.wait()).await;
    drain::drain(&worker).await;
    stopped.cancel();
    let _ = beating.await;
    if worker.running.is_empty() {
        // Only with nothing left: without its row, what it runs is anybody's.
        let _ = worker.consumer.leave().await;
        let _ = worker.tasks.store.worker_stopped(worker.id).await;
    }
    tracing::info!(worker = %worker.id, "worker stopped");
}
