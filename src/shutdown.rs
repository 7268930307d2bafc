//! SIGTERM and Ctrl-C: the first drains, the second stops at once.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Signals within this time are one.
const TOGETHER: Duration = Duration::from_secs(1);

/// What was begun is given up, as a signal came meanwhile.
#[derive(Debug, thiserror::Error)]
#[error("told to stop while {0}")]
pub struct Stopped(&'static str);

/// Runs what has no end of its own to drain to, unless a signal comes.
///
/// # Errors
/// When one comes; with what was being done.
pub async fn unless_stopped<T>(
    stop: &CancellationToken,
    doing: &'static str,
    future: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    stop.run_until_cancelled(future).await.unwrap_or_else(|| Err(Stopped(doing).into()))
}

/// Cancelled by the first signal. A later one ends the process with status 130;
/// but not at once after the first, as a terminal or supervisor may send one to
/// the process and one to its group.
///
/// # Errors
/// When the signals can't be listened to.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    let mut first = None;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            let first: &mut Instant = first.get_or_insert_with(Instant::now);
            if stop.is_cancelled() {
                if first.elapsed() < TOGETHER {
                    continue;
                }
                tracing::warn!("stopping at once, as a second signal asks");
                std::process::exit(130);
            }
            tracing::info!("stopping; a second signal (Ctrl-C) stops at once");
            stop.cancel();
        }
    });
    Ok(token)
}
