//! Hints that a task should stop. PostgreSQL holds the request; a hint that is
//! lost costs a heartbeat's time.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;

use super::link::Link;
use super::tap::Wires;
use super::{Result, Streams, answered};
use crate::domain::TaskId;
use crate::log_limit::LogLimit;

/// How long after a failure hints are asked for again.
const AGAIN: Duration = Duration::from_secs(30);

impl Streams {
    /// Tells all workers that the task should stop.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn hint_cancel(&self, task: TaskId) -> Result<()> {
        let mut connected = self.inner.link.get(Duration::from_millis(500)).await?;
        let hint = cmd("PUBLISH").arg(self.keys().cancel()).arg(task.to_string()).clone();
        answered(connected.send(&hint).await?)?;
        Ok(())
    }

    /// Calls `on_cancel` for each hint, until the streams are stopped. It runs
    /// on the connection's task and must be quick.
    pub fn on_cancel(&self, on_cancel: impl Fn(TaskId) + Send + Sync + 'static) {
        static REFUSED: LogLimit = LogLimit::new();
        let on_message = Arc::new(move |message: &[u8]| {
            if let Some(task) = std::str::from_utf8(message).ok().and_then(|id| id.parse().ok()) {
                on_cancel(task);
            }
        });
        let deployment = self.inner.deployment.clone();
        let wires = Wires { deployment, on_message: Some(on_message), replies: None };
        let (link, driver) = Link::new(self.inner.client.clone(), wires, self.inner.stop.clone());
        self.inner.register.link("cancel hints", &link);
        tokio::spawn(driver);
        let channel = self.keys().cancel();
        tokio::spawn(async move {
            let mut generation = 0;
            while let Ok(newer) = link.reconnected(generation).await {
                generation = newer;
                while link.generation() == generation {
                    let Ok(mut connected) = link.get(Duration::ZERO).await else { break };
                    let Err(error) = connected.subscribe(&channel).await else {
                        break;
                    };
                    if let Some(skipped) = REFUSED.pass() {
                        tracing::warn!(%error, skipped, "no cancel hints; stopping a task takes a heartbeat");
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
        });
    }
}
