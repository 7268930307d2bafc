//! Redis' pub/sub for all streams of a process, on one connection (RESP3).
//!
//! A baseline lives for one run: when the connection breaks, so do its streams.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind, Value,
};
use tokio::sync::watch;
use uuid::Uuid;

/// How long Redis may take: slowness is measured, and shall not be failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many listen to a task, and how they are woken.
type Listeners = Arc<Mutex<HashMap<Uuid, watch::Sender<()>>>>;

/// A task's channel.
pub(super) fn name(task: Uuid) -> String {
    format!("chunks:{task}")
}

/// The connection, and who listens.
#[derive(Clone)]
pub(super) struct Channels {
    /// For other commands too.
    pub(super) connection: MultiplexedConnection,
    listeners: Listeners,
    /// One change of subscriptions at a time: the last reader of a task may
    /// leave while the next one comes.
    changing: Arc<tokio::sync::Mutex<()>>,
}

/// Opens a connection that gives pushes to `on_push`.
pub(super) async fn connect(
    url: &str,
    on_push: impl Fn(PushInfo) + Send + Sync + 'static,
) -> Result<MultiplexedConnection> {
    let info = url.into_connection_info()?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    let client = Client::open(info.set_redis_settings(settings).set_tcp_settings(tcp))?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE))
        .set_push_sender(move |push| {
            on_push(push);
            Ok::<(), redis::aio::SendError>(())
        });
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

impl Channels {
    pub(super) async fn connect(url: &str) -> Result<Self> {
        let listeners = Listeners::default();
        let heard = listeners.clone();
        let connection = connect(url, move |push| wake(&heard, &push)).await?;
        Ok(Self { connection, listeners, changing: Arc::default() })
    }

    /// Listens to a task. Whatever is published after this returns is heard.
    pub(super) async fn listen(&self, task: Uuid) -> Result<Listener> {
        let _alone = self.changing.lock().await;
        let known = self
            .listeners
            .lock()
            .expect("no holder panics")
            .get(&task)
            .map(watch::Sender::subscribe);
        let heard = match known {
            Some(heard) => heard,
            None => {
                let (sender, heard) = watch::channel(());
                self.listeners.lock().expect("no holder panics").insert(task, sender);
                self.connection.clone().subscribe(name(task)).await?;
                heard
            }
        };
        Ok(Listener { channels: self.clone(), task, heard: Some(heard) })
    }

    /// A listener left: the last one takes the subscription along.
    async fn left(self, task: Uuid) {
        let _alone = self.changing.lock().await;
        let last = {
            let mut listeners = self.listeners.lock().expect("no holder panics");
            let last = listeners.get(&task).is_some_and(|sender| sender.receiver_count() == 0);
            if last {
                listeners.remove(&task);
            }
            last
        };
        if last {
            // When it fails, the connection is gone, and the subscription with it.
            let _ = self.connection.clone().unsubscribe(name(task)).await;
        }
    }
}

fn wake(listeners: &Listeners, push: &PushInfo) {
    if push.kind != PushKind::Message {
        return;
    }
    let Some(Value::BulkString(channel)) = push.data.first() else { return };
    let task = std::str::from_utf8(channel).ok().and_then(|name| name.strip_prefix("chunks:"));
    let Some(task) = task.and_then(|task| task.parse().ok()) else { return };
    if let Some(sender) = listeners.lock().expect("no holder panics").get(&task) {
        sender.send_replace(());
    }
}

/// One reader's.
pub(super) struct Listener {
    channels: Channels,
    task: Uuid,
    /// Gone when it is dropped.
    heard: Option<watch::Receiver<()>>,
}

impl Listener {
    /// Waits until something was published since the last time.
    pub(super) async fn published(&mut self) {
        if let Some(heard) = &mut self.heard {
            // Fails only without a sender, which is there as long as we are.
            let _ = heard.changed().await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.heard = None;
        tokio::spawn(self.channels.clone().left(self.task));
    }
}
