//! Reading because of hints: fast, and never relied on.
//!
//! The channel of hints is subscribed to first, and each stream read once after,
//! so that nothing falls between. When the connection breaks, the channel is
//! subscribed to again and every stream read again. Where the subscription is
//! refused (ACL), blocking reads cover the streams instead.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use redis::Cmd;

use super::feed::Feed;
use super::sizing::Sizing;
use super::{Hints, PAGE, RETRY, Shared};
use crate::domain::EventId;
use crate::log_limit::LogLimit;
use crate::metrics::{self, Way};
use crate::streams::entry::Page;
use crate::streams::{PATIENCE, Result, hint};
use crate::sync::lock;

/// Streams in one read, at most.
const BATCH: usize = 512;
/// Entries of all streams in one read, about.
const ENTRIES: usize = 4096;
/// Bytes of an ID, about.
const ID: usize = 8;
/// How long after a refusal hints are asked for again.
const REFUSED: Duration = Duration::from_secs(30);

impl Shared {
    /// A message of hints. Runs on the connection's own task.
    pub(super) fn on_hints(&self, message: &[u8]) {
        let feeds = lock(&self.feeds);
        let mut news = false;
        for (task, event) in hint::read(message) {
            if let Some(feed) = feeds.get(&task)
                && feed.soil_for(event)
            {
                lock(&self.dirty).push(feed.clone());
                news = true;
            }
        }
        drop(feeds);
        if news {
            self.dirtied.notify_one();
        }
    }

    /// Hints come from now on, or don't: then blocking reads cover all streams.
    fn set_hinted(&self, hinted: bool) {
        if self.hinted.swap(hinted, Ordering::Relaxed) && !hinted {
            for shard in &self.shards {
                shard.joined.notify_one();
            }
        }
    }
}

/// Reads whatever is marked, all of it in one command, for ever.
pub(super) async fn read_dirty(shared: Arc<Shared>) {
    static LIMIT: LogLimit = LogLimit::new();
    let mut sizing = Sizing::default();
    loop {
        let batch = take_batch(&shared, sizing.keys(BATCH));
        if batch.is_empty() {
            shared.dirtied.notified().await;
            continue;
        }
        match read(&shared, &batch, &sizing).await {
            Ok(brought) => sizing.learn(brought.entries, brought.bytes),
            Err(error) => {
                for reading in &batch {
                    shared.mark(&reading.feed);
                }
                sizing.fail();
                if let Some(skipped) = LIMIT.pass() {
                    tracing::warn!(%error, skipped, "task streams can't be read; trying again");
                }
                tokio::time::sleep(RETRY.delay(sizing.failures(), rand::random())).await;
            }
        }
    }
}

/// A stream to be read, and from where.
pub(super) struct Reading {
    pub(super) feed: Arc<Feed>,
    pub(super) after: EventId,
}

fn take_batch(shared: &Shared, keys: usize) -> Vec<Reading> {
    let mut batch = Vec::new();
    while batch.len() < keys {
        let feeds: Vec<Arc<Feed>> = {
            let mut dirty = lock(&shared.dirty);
            let count = dirty.len().min(keys - batch.len());
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

async fn read(shared: &Shared, batch: &[Reading], sizing: &Sizing) -> Result<Brought> {
    // Many streams at once share one answer's size.
    let count = sizing.count(batch.len(), (ENTRIES / batch.len()).min(PAGE));
    let bytes = batch.first().map_or(0, |reading| reading.feed.key.len() + ID);
    let mut command = Cmd::with_capacity(4 + 2 * batch.len(), batch.len() * bytes);
    command.arg("XREAD").arg("COUNT").arg(count).arg("STREAMS");
    for reading in batch {
        command.arg(&reading.feed.key);
    }
    for reading in batch {
        command.arg(&*reading.after.text());
    }
    Ok(deliver(shared, Way::Hint, shared.reads.read(&command).await?, batch, count))
}

/// What a read brought, of all streams.
#[derive(Debug, Default)]
pub(super) struct Brought {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

/// Hands what was read of several keys to their feeds, which are in the order of
/// `batch`. Streams with `count` entries have more.
pub(super) fn deliver(
    shared: &Shared,
    way: Way,
    pages: Vec<(Bytes, Page)>,
    batch: &[Reading],
    count: usize,
) -> Brought {
    let mut brought = Brought::default();
    let mut readings = batch.iter();
    for (key, page) in pages {
        let reading = readings.by_ref().find(|reading| key == reading.feed.key);
        let Some(Reading { feed, after }) = reading else { continue };
        brought.entries += page.len;
        brought.bytes += page.bytes;
        if !feed.deliver(*after, &page) || page.len >= count {
            shared.mark(feed);
        }
        if way == Way::Look && page.len > 0 {
            // Its hint was lost, or is late: until one comes, somebody waits for it.
            feed.doubt_hints();
            shared.shards[feed.shard].joined.notify_one();
        }
    }
    metrics::tail_read(way, brought.entries);
    brought
}

/// Keeps the channel of hints subscribed to, for ever.
pub(super) async fn keep_subscribed(shared: Arc<Shared>) {
    let mut generation = 0;
    loop {
        match shared.reads.link.reconnected(generation).await {
            Ok(newer) => generation = newer,
            Err(_) => return,
        }
        shared.reconnected.store(true, Ordering::Relaxed);
        shared.set_hinted(false);
        loop {
            let hinted = shared.hints == Hints::On && subscribe(&shared).await;
            shared.set_hinted(hinted);
            // Redis may have lost anything, and hints were lost.
            for feed in lock(&shared.feeds).values() {
                shared.mark(feed);
            }
            if hinted || shared.hints == Hints::Off {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(REFUSED) => {}
                newer = shared.reads.link.reconnected(generation) => match newer {
                    Ok(_) => break,
                    Err(_) => return,
                },
            }
        }
    }
}

async fn subscribe(shared: &Shared) -> bool {
    let outcome = match shared.reads.link.get(PATIENCE).await {
        Ok(mut connected) => connected.subscribe(&shared.streams.keys().wake()).await,
        Err(error) => Err(error),
    };
    let Err(error) = outcome else { return true };
    if let Some(skipped) = shared.hints_refused.pass() {
        tracing::warn!(%error, skipped, "no wake-up hints; blocking reads alone serve the streams");
    }
    false
}
