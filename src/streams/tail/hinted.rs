//! Reading because of hints: fast, and never relied on.
//!
//! A stream's channel is subscribed to first, and the stream read once after,
//! so that nothing falls between. When the connection breaks, every channel is
//! subscribed to again and every stream read again. Where the subscription is
//! refused (ACL), blocking reads cover the stream instead.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{Cmd, PushInfo, PushKind, Value};

use super::feed::{Feed, lock};
use super::{Hints, PAGE, RETRY, Shared};
use crate::domain::{EventId, TaskId};
use crate::log_limit::LogLimit;
use crate::metrics;
use crate::streams::entry::{page, streams};
use crate::streams::{PATIENCE, Result, answered};

/// Streams in one read, and channels in one subscription, at most.
const BATCH: usize = 512;
/// Entries of all streams in one read, about.
const ENTRIES: usize = 4096;
/// Bytes of an ID, about.
const ID: usize = 8;
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
        match read(&shared, &batch, failures).await {
            Ok(()) => failures = 0,
            Err(error) => {
                for reading in &batch {
                    shared.mark(&reading.feed);
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

/// A stream to be read, and from where.
pub(super) struct Reading {
    pub(super) feed: Arc<Feed>,
    pub(super) after: EventId,
}

fn take_batch(shared: &Shared) -> Vec<Reading> {
    let mut batch = Vec::new();
    while batch.len() < BATCH {
        let feeds: Vec<Arc<Feed>> = {
            let mut dirty = lock(&shared.dirty);
            let count = dirty.len().min(BATCH - batch.len());
            dirty.drain(..count).collect()
        };
        if feeds.is_empty() {
            break;
        }
        let readings =
            feeds.into_iter().filter_map(|feed| feed.clean().map(|after| Reading { after, feed }));
        batch.extend(readings);
    }
    batch
}

async fn read(shared: &Shared, batch: &[Reading], failures: u32) -> Result<()> {
    // Many streams at once share one answer's size; less of it after a failure,
    // which may be that the answer was too large to arrive in time.
    let count = ((ENTRIES / batch.len()) >> failures.min(6)).clamp(1, PAGE);
    let mut connected = shared.link.get(PATIENCE).await?;
    let bytes = batch.first().map_or(0, |reading| reading.feed.key.len() + ID);
    let mut command = Cmd::with_capacity(4 + 2 * batch.len(), batch.len() * bytes);
    command.arg("XREAD").arg("COUNT").arg(count).arg("STREAMS");
    for reading in batch {
        command.arg(&reading.feed.key);
    }
    for reading in batch {
        command.arg(&*reading.after.text());
    }
    let answer = answered(connected.send(&command).await?)?;
    deliver(shared, "hint", answer, batch, count);
    Ok(())
}

/// Hands a multi-key answer to its feeds, which are in the order of `batch`.
/// Streams with `count` entries have more.
pub(super) fn deliver(
    shared: &Shared,
    way: &'static str,
    answer: Value,
    batch: &[Reading],
    count: usize,
) {
    let mut total = 0;
    let mut readings = batch.iter();
    for (key, stream) in streams(answer) {
        let Some(Reading { feed, after }) = readings.by_ref().find(|r| r.feed.key == key) else {
            continue;
        };
        let page = page(stream);
        total += page.len;
        if !feed.deliver(*after, &page) || page.len >= count {
            shared.mark(feed);
        }
    }
    metrics::tail_read(way, total);
}

/// Keeps the subscriptions as the feeds want them, for ever.
pub(super) async fn keep_subscribed(shared: Arc<Shared>) {
    let mut generation = 0;
    loop {
        let current = shared.link.generation();
        if current > generation {
            generation = current;
            start_over(&shared);
        }
        let wanted = std::mem::take(&mut *lock(&shared.wanted));
        if wanted.is_empty() {
            tokio::select! {
                () = shared.wants.notified() => {}
                newer = shared.link.reconnected(generation) => if newer.is_err() { return },
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
    // Under the lock, so that who leaves meanwhile is unsubscribed after.
    for feed in lock(&shared.feeds).values() {
        feed.set_hinted(false);
        shared.mark(feed);
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
    let (shared, tasks) = (Arc::downgrade(shared), tasks.to_vec());
    tokio::spawn(async move {
        tokio::time::sleep(REFUSED).await;
        let Some(shared) = shared.upgrade() else { return };
        let feeds = lock(&shared.feeds);
        for task in tasks {
            if feeds.get(&task).is_some_and(|feed| !feed.is_hinted()) {
                shared.want(Wanted::Hints(task));
            }
        }
    });
}
