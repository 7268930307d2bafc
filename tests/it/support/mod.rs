//! What the tests share: real servers, real `rill` processes, a reader.

mod app;
mod nginx;
mod process;
mod provider;
mod proxy;
mod reader;
mod servers;
mod wire;

pub(crate) use app::{App, Builder, Posted};
pub(crate) use nginx::Nginx;
pub(crate) use process::Process;
pub(crate) use provider::{Provider, Script, refusal, stream};
pub(crate) use proxy::{Freeze, Proxy, Weather};
pub(crate) use reader::{Cut, Reader, SseParser};
pub(crate) use servers::{PrivatePostgres, PrivateRedis, connect_to_redis};

use std::time::Duration;

/// An event's data, with the type that its name is.
pub(crate) fn typed(name: &str, fields: &str) -> String {
    let fields = fields.strip_prefix('{').expect("an object");
    format!("{{\"type\":\"{name}\",{fields}")
}

/// How long a test waits for what must happen, on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds; what it waits for is in the panic.
pub(crate) async fn eventually<F: Future<Output = bool>>(
    what: &str,
    mut condition: impl FnMut() -> F,
) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Bounds a wait for an event.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain: {what}"),
    }
}
