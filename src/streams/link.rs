//! One multiplexed connection to Redis, made again whenever it breaks.
//!
//! Each connection has a number. A writer that finds its number changed knows
//! that Redis may have restarted or failed over since its last append, and may
//! have forgotten acknowledged entries; that is why this is not redis-rs' own
//! `ConnectionManager`, which reconnects without telling which connection
//! served a command. A connection that stops answering without closing is
//! replaced too.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use redis::aio::{AsyncPushSender, ConnectionLike, MultiplexedConnection, SendError};
use redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, PushInfo, PushKind, ScriptInvocation, Value,
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::deployment::Deployment;
use super::health::Trouble;
use super::tap::{Driver, Wires};
use super::{Error, Result, wrong_server};
use crate::domain::retry::Backoff;
use crate::log_limit::LogLimit;

/// How long Redis may take to answer a command that doesn't block.
pub(super) const RESPONSE_LIMIT: Duration = Duration::from_secs(3);
/// How long connecting may take.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Commands in a row without an answer, after which a connection is given up.
const SILENT_COMMANDS: usize = 2;
/// How often a connection is tried.
const PROBE: Duration = Duration::from_secs(5);
/// How long a connection lives that wasn't made in vain.
const STEADY: Duration = Duration::from_secs(1);
/// Commands that may wait for their turn to be written.
const QUEUE: usize = 1024;

/// Receives what is published on the channels that a connection subscribes to
/// (RESP3), on the connection's own task: must be quick.
pub(super) type OnMessage = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// A connection, and which one it is.
#[derive(Clone)]
pub(super) struct Connected {
    pub(super) connection: MultiplexedConnection,
    /// Rises with every connection of the link.
    pub(super) generation: u64,
    silent: Arc<AtomicUsize>,
    broken: Arc<Notify>,
    deployment: Deployment,
}

impl Connected {
    /// Sends one command.
    pub(super) async fn send(&mut self, command: &Cmd) -> Result<Value> {
        let answer = self.connection.req_packed_command(command).await;
        if wrong_server::is_outcome(&answer) {
            self.leave();
        }
        self.judge(answer, 1)
    }

    /// Runs a script.
    pub(super) async fn run(&mut self, script: &ScriptInvocation<'_>) -> Result<Value> {
        let answer = script.invoke_async(&mut self.connection).await;
        if wrong_server::is_outcome(&answer) {
            self.leave();
        }
        self.judge(answer, 1)
    }

    /// Sends commands together, one round trip. Each has its own answer, which
    /// may be a `Value::ServerError`.
    pub(super) async fn send_all(
        &mut self,
        commands: &Pipeline,
        count: usize,
    ) -> Result<Vec<Value>> {
        let answer = self.connection.req_packed_commands(commands, 0, count).await;
        if answer.as_ref().is_ok_and(|answers| answers.iter().any(wrong_server::is_told_by)) {
            self.leave();
        }
        self.judge(answer, count)
    }

    /// Subscribes to a channel; what arrives goes to the link's [`OnMessage`].
    pub(super) async fn subscribe(&mut self, channel: &str) -> Result<()> {
        let answer = self.connection.subscribe(channel).await;
        self.judge(answer, 1)
    }

    /// The server says that it is the wrong one: the connection ends, and all
    /// others of the process are tried.
    fn leave(&self) {
        self.broken.notify_one();
        self.deployment.suspect();
    }

    fn judge<T>(&self, answer: redis::RedisResult<T>, commands: usize) -> Result<T> {
        match &answer {
            Err(error) if error.is_timeout() => {
                if self.silent.fetch_add(commands, Ordering::Relaxed) + commands >= SILENT_COMMANDS
                {
                    self.broken.notify_one();
                }
            }
            Err(error) if error.is_unrecoverable_error() => self.broken.notify_one(),
            _ => self.silent.store(0, Ordering::Relaxed),
        }
        answer.map_err(Error::from)
    }
}

/// A connection that is made again whenever it breaks. Clones share it; it is
/// closed when its owner's token is cancelled.
#[derive(Clone)]
pub(super) struct Link {
    current: watch::Receiver<Option<Connected>>,
    pub(super) trouble: Trouble,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("trouble", &self.trouble).finish_non_exhaustive()
    }
}

impl Link {
    /// A link, and what connects and drives it until `stop` is cancelled: to be
    /// spawned, alone or [`as_one`] with the link's user.
    pub(super) fn new(
        client: Client,
        wires: Wires,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, current) = watch::channel(None);
        let trouble = Trouble::default();
        let link = Self { current, trouble: trouble.clone() };
        (link, supervise(client, wires, stop, sender, trouble))
    }

    /// The connection, waiting for one if there is none.
    ///
    /// # Errors
    /// When there is none within `wait`.
    pub(super) async fn get(&self, wait: Duration) -> Result<Connected> {
        if let Some(connected) = self.current.borrow().clone() {
            return Ok(connected);
        }
        let mut current = self.current.clone();
        match tokio::time::timeout(wait, current.wait_for(Option::is_some)).await {
            Ok(Ok(connected)) => connected.clone().ok_or(Error::Disconnected),
            _ => Err(Error::Disconnected),
        }
    }

    /// Has the connection, if there is one, made again.
    pub(super) fn give_up(&self) {
        if let Some(connected) = &*self.current.borrow() {
            connected.broken.notify_one();
        }
    }

    /// The number of the connection; 0 while there is none.
    pub(super) fn generation(&self) -> u64 {
        self.current.borrow().as_ref().map_or(0, |connected| connected.generation)
    }

    /// Waits until the connection is another than `generation`, and is there.
    pub(super) async fn reconnected(&self, generation: u64) -> Result<u64> {
        let mut current = self.current.clone();
        let newer = current
            .wait_for(|c| c.as_ref().is_some_and(|c| c.generation > generation))
            .await
            .map_err(|_| Error::Disconnected)?;
        Ok(newer.as_ref().map_or(generation, |connected| connected.generation))
    }
}

/// Runs a link and its busiest user as one task: what came is dealt with, and
/// what that sends is written, before anybody else's turn. Where thousands of
/// tasks are ready, a turn comes after tens of milliseconds.
pub(super) async fn as_one(link: impl Future<Output = ()>, user: impl Future<Output = ()>) {
    let (mut link, mut user) = (pin!(link), pin!(user));
    poll_fn(|cx| {
        if link.as_mut().poll(cx).is_ready() || user.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        link.as_mut().poll(cx)
    })
    .await;
}

struct Pushes {
    on_message: Option<OnMessage>,
    broken: Arc<Notify>,
}

impl AsyncPushSender for Pushes {
    fn send(&self, info: PushInfo) -> std::result::Result<(), SendError> {
        match (info.kind, info.data.as_slice()) {
            (PushKind::Disconnection, _) => self.broken.notify_one(),
            (PushKind::Message, [_, Value::BulkString(message)]) => {
                if let Some(on_message) = &self.on_message {
                    on_message(message);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Tries the connection now and then, for ever: on one that is silent, nothing
/// else tells that the peer is gone, and on one that only reads, nothing else that
/// it was demoted.
async fn probe(mut connected: Connected) {
    let probe = connected.deployment.probe();
    let mut suspicion = connected.deployment.suspicion();
    loop {
        let _ = tokio::time::timeout(PROBE, suspicion.changed()).await;
        // What is not answered is counted, and what the server says of itself heeded.
        let _ = connected.send(&probe).await;
    }
}

/// A connection to the Redis that it should be, and its driver.
async fn connect(
    client: &Client,
    wires: &Wires,
    config: AsyncConnectionConfig,
    id: Option<Uuid>,
) -> redis::RedisResult<(MultiplexedConnection, Driver)> {
    let (mut connection, mut driver) = wires.connect(client, config).await?;
    let admitted = tokio::select! {
        admitted = wires.deployment.admits(&mut connection, id) => admitted?,
        () = &mut driver => return Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
    };
    match admitted {
        true => Ok((connection, driver)),
        false => Err(Deployment::refused()),
    }
}

async fn supervise(
    client: Client,
    wires: Wires,
    stop: CancellationToken,
    current: watch::Sender<Option<Connected>>,
    trouble: Trouble,
) {
    static DOWN: LogLimit = LogLimit::new();
    static UP: LogLimit = LogLimit::new();
    let backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_secs(1) };
    let mut generation = 0;
    let mut failures = 0;
    let Some(id) = stop.run_until_cancelled(wires.deployment.known()).await else { return };
    while !stop.is_cancelled() {
        let broken = Arc::new(Notify::new());
        let pushes = Pushes { on_message: wires.on_message.clone(), broken: broken.clone() };
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(RESPONSE_LIMIT))
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_pipeline_buffer_size(QUEUE)
            .set_push_sender(pushes);
        match connect(&client, &wires, config, id).await {
            Ok((connection, driver)) => {
                generation += 1;
                if generation > 1
                    && let Some(skipped) = UP.pass()
                {
                    tracing::info!(generation, skipped, "connected to Redis again");
                }
                trouble.is_over();
                let since = Instant::now();
                let silent = Arc::new(AtomicUsize::new(0));
                let deployment = wires.deployment.clone();
                let connected = Connected {
                    connection,
                    generation,
                    silent,
                    broken: broken.clone(),
                    deployment,
                };
                current.send_replace(Some(connected.clone()));
                tokio::select! {
                    biased;
                    () = driver => {}
                    () = broken.notified() => {}
                    () = probe(connected) => {}
                    () = stop.cancelled() => {}
                }
                current.send_replace(None);
                // One that breaks at once is no better than none.
                failures = if since.elapsed() > STEADY { 0 } else { failures + 1 };
            }
            Err(error) => {
                trouble.is(&error);
                failures += 1;
                if let Some(skipped) = DOWN.pass() {
                    tracing::warn!(%error, skipped, "Redis is not available; trying again");
                }
            }
        }
        if !stop.is_cancelled() {
            tokio::select! {
                () = tokio::time::sleep(backoff.delay(failures.max(1), rand::random())) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::task::{Context, Waker};

    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn what_comes_over_a_link_is_answered_within_one_turn() {
        let (peer, mut arrived) = mpsc::unbounded_channel::<u32>();
        let (to_user, mut at_user) = mpsc::unbounded_channel::<u32>();
        let (to_link, mut at_link) = mpsc::unbounded_channel::<u32>();
        let written = Cell::new(0);
        let link = async {
            loop {
                tokio::select! {
                    Some(question) = arrived.recv() => to_user.send(question).expect("a user"),
                    Some(answer) = at_link.recv() => written.set(answer),
                }
            }
        };
        let user = async {
            while let Some(question) = at_user.recv().await {
                to_link.send(question + 1).expect("a link");
            }
        };
        let mut both = pin!(as_one(link, user));
        let mut turn = || {
            assert!(both.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            written.get()
        };
        assert_eq!(turn(), 0);
        peer.send(1).expect("a link");
        assert_eq!(turn(), 2);
    }
}
