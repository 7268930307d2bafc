//! SIGTERM and Ctrl-C: the first drains, the second stops at once.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Signals within this time are one.
const TOGETHER: Duration = Duration::from_secs(1);

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
                tracing::warn!("stopping at once");
                std::process::exit(130);
            }
            tracing::info!("stopping; a second signal stops at once");
            stop.cancel();
        }
    });
    Ok(token)
}
