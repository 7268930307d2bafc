//! Reading because of hints: fast, and never relied on.
//!
//! A stream's channel is subscribed to first, and the stream read once after,
//! so that nothing falls between. When the connection breaks, every channel is
//! subscribed to again and every stream read again. Where the subscription is
//! refused (ACL), blocking reads cover the stream instead.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{PushInfo, PushKind, Value, cmd};

use super::feed::{Feed, lock};
use super::{Hints, PAGE, RETRY, Shared};
use crate::domain::{EventId, TaskId};
use crate::log_limit::LogLimit;
use crate::metrics;
use crate::streams::entry::{entries, streams};
use crate::streams::{PATIENCE, Result, answered};

/// Streams in one read, and channels in one subscription, at most.
const BATCH: usize = 512;
/// How long after a refusal hints are asked for again.
const REFUSED: Duration = Duration::from_secs(30);

/// A change of what is subscribed to. Done in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Hints(TaskId),
    NoHints(TaskId),
}

impl Shared {
    /// A message on a wake-up channel. Runs on the connection's own task.
    pub(super) fn on_hint(&self, push: &PushInfo) {
        if push.kind != PushKind::Message {
            return;
        }
        let [Value::BulkString(channel), Value::BulkString(payload)] = push.data.as_slice() else {
            return;
        };
        let Some(feed) = self.streams.keys().woken(channel).and_then(|task| self.feed(task)) else {
            return;
        };
        let hint: Option<EventId> = std::str::from_utf8(payload).ok().and_then(|p| p.parse().ok());
        if let Some(hint) = hint
            && feed.soil_for(hint)
        {
            lock(&self.dirty).push(feed);
            self.dirtied.notify_one();
        }
    }
}

/// Reads whatever is marked, all of it in one command, for ever.
pub(super) async fn read_dirty(shared: Arc<Shared>) {
    static LIMIT: LogLimit = LogLimit::new();
    let mut failures = 0;
    loop {
        let batch = take_batch(&shared);
        if batch.is_empty() {
            shared.dirtied.notified().await;
            continue;
        }
        match read(&shared, &batch).await {
            Ok(()) => failures = 0,
            Err(error) => {
                for feed in &batch {
                    shared.mark(feed);
                }
                failures += 1;
                if let Some(skipped) = LIMIT.pass() {
                    tracing::warn!(%error, skipped, "task streams can't be read; trying again");
                }
                tokio::time::sleep(RETRY.delay(failures, rand::random())).await;
            }
        }
    }
}

fn take_batch(shared: &Shared) -> Vec<Arc<Feed>> {
    let mut dirty = lock(&shared.dirty);
    let count = dirty.len().min(BATCH);
    dirty.drain(..count).collect()
}

async fn read(shared: &Shared, batch: &[Arc<Feed>]) -> Result<()> {
    let mut connected = shared.link.get(PATIENCE).await?;
    let mut command = cmd("XREAD");
    command.arg("COUNT").arg(PAGE).arg("STREAMS");
    for feed in batch {
        command.arg(&feed.key);
    }
    for feed in batch {
        command.arg(feed.clean().to_string());
    }
    let answer = answered(connected.send(&command).await?)?;
    deliver(shared, "hint", answer, batch);
    Ok(())
}

/// Hands a multi-key answer to its feeds, which are in the order of `batch`.
pub(super) fn deliver(shared: &Shared, way: &'static str, answer: Value, batch: &[Arc<Feed>]) {
    let mut count = 0;
    let mut feeds = batch.iter();
    for (key, stream) in streams(answer) {
        let Some(feed) = feeds.by_ref().find(|feed| feed.key == key) else { continue };
        let page = entries(stream);
        count += page.len();
        feed.deliver(&page);
        if page.len() >= PAGE {
            shared.mark(feed);
        }
    }
    metrics::tail_read(way, count);
}

/// Keeps the subscriptions as the feeds want them, for ever.
pub(super) async fn keep_subscribed(shared: Arc<Shared>) {
    let mut generation = 0;
    loop {
        let wanted = std::mem::take(&mut *lock(&shared.wanted));
        if wanted.is_empty() {
            tokio::select! {
                () = shared.wants.notified() => {}
                newer = shared.link.reconnected(generation) => {
                    let Ok(newer) = newer else { return };
                    start_over(&shared);
                    generation = newer;
                }
            }
            continue;
        }
        for (subscribe, tasks) in runs(&wanted) {
            for batch in tasks.chunks(BATCH) {
                change(&shared, subscribe, batch).await;
            }
        }
    }
}

/// A new connection knows no subscription, and Redis may have lost anything.
fn start_over(shared: &Shared) {
    shared.reconnected.store(true, Ordering::Relaxed);
    let feeds: Vec<_> = lock(&shared.feeds).values().cloned().collect();
    for feed in feeds {
        feed.set_hinted(false);
        shared.mark(&feed);
        if shared.hints == Hints::On {
            shared.want(Wanted::Hints(feed.task));
        }
    }
    for shard in &shared.shards {
        shard.joined.notify_one();
    }
}

/// Consecutive changes of one kind, to be sent together.
fn runs(wanted: &[Wanted]) -> Vec<(bool, Vec<TaskId>)> {
    wanted
        .chunk_by(|a, b| matches!(a, Wanted::Hints(_)) == matches!(b, Wanted::Hints(_)))
        .map(|run| {
            let subscribe = matches!(run.first(), Some(Wanted::Hints(_)));
            let tasks = run
                .iter()
                .map(|wanted| match wanted {
                    Wanted::Hints(task) | Wanted::NoHints(task) => *task,
                })
                .collect();
            (subscribe, tasks)
        })
        .collect()
}

async fn change(shared: &Arc<Shared>, subscribe: bool, tasks: &[TaskId]) {
    let keys = shared.streams.keys();
    let channels: Vec<_> = tasks.iter().map(|task| keys.wake(*task)).collect();
    if !subscribe {
        // Nothing is lost by a failure: hints for a stream that nobody follows
        // are ignored, and the next connection knows nothing of them.
        if let Ok(mut connected) = shared.link.get(Duration::ZERO).await {
            let _ = connected.unsubscribe(&channels).await;
        }
        return;
    }
    let outcome = match shared.link.get(PATIENCE).await {
        Ok(mut connected) => connected.subscribe(&channels).await,
        Err(error) => Err(error),
    };
    let feeds: Vec<_> = tasks.iter().filter_map(|task| shared.feed(*task)).collect();
    for feed in &feeds {
        feed.set_hinted(outcome.is_ok());
        shared.mark(feed);
    }
    let Err(error) = outcome else { return };
    for feed in &feeds {
        shared.shards[feed.shard].joined.notify_one();
    }
    if let Some(skipped) = shared.hints_refused.pass() {
        tracing::warn!(%error, skipped, "no wake-up hints; blocking reads alone serve the streams");
    }
    // A new connection starts over by itself; only a refusal has to be asked again.
    if error.is_forbidden() {
        let (shared, tasks) = (Arc::downgrade(shared), tasks.to_vec());
        tokio::spawn(async move {
            tokio::time::sleep(REFUSED).await;
            let Some(shared) = shared.upgrade() else { return };
            for task in tasks.into_iter().filter(|task| shared.feed(*task).is_some()) {
                shared.want(Wanted::Hints(task));
            }
        });
    }
}
