//! The end of a worker that was told to stop: running answers get time to finish, the
//! rest is handed back uncharged. Somebody may be waiting before a terminal, so it says
//! what it waits for.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::Worker;

/// How long handing back may take.
pub(super) const HAND_BACK: Duration = Duration::from_secs(5);

/// How often it says how far it is, at least and at most.
const PROGRESS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

pub(super) async fn drain(worker: &Worker) {
    let grace = worker.options.drain_grace;
    worker.attempts.close();
    if !worker.attempts.is_empty() {
        tracing::info!(
            "draining: waiting for {}, {} at most; then they are handed to other workers. A \
             second signal (Ctrl-C) ends this at once, and others take over after a lease ({})",
            answers(worker),
            humantime::format_duration(grace),
            humantime::format_duration(worker.options.lease),
        );
    }
    let deadline = Instant::now() + grace;
    tokio::select! {
        () = worker.attempts.wait() => return,
        () = tokio::time::sleep_until(deadline) => {}
        () = tell_progress(worker, deadline) => {}
    }
    tracing::info!("handing back {}", answers(worker));
    worker.grace_over.cancel();
    if tokio::time::timeout(HAND_BACK, worker.attempts.wait()).await.is_err() {
        tracing::warn!("{} left to others after their lease", answers(worker));
    }
}

/// Says from time to time what is still waited for. Never returns.
async fn tell_progress(worker: &Worker, deadline: Instant) {
    let period = (worker.options.drain_grace / 5).clamp(PROGRESS[0], PROGRESS[1]);
    let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let left = deadline.saturating_duration_since(Instant::now()).as_secs_f64().ceil();
        tracing::info!("draining: {} left, {left:.0}s at most", answers(worker));
    }
}

/// `1 answer`, `2 answers`.
fn answers(worker: &Worker) -> String {
    let count = worker.attempts.len();
    format!("{count} answer{}", if count == 1 { "" } else { "s" })
}
