//! The tail: one reader of task streams for the whole process.
//!
//! [`Tail::subscribe`] yields a stream's entries after a cursor. Replay and
//! live are the same read: `XREAD` after a concrete ID. Two things make the
//! process read:
//!
//! - **time** (`blocker`) is the guarantee: an `XREAD` that blocks covers every
//!   stream without hints, and one that doesn't looks after every hinted stream
//!   that has been quiet for a second;
//! - a **hint** (`hinted`) only makes it fast: the streams that were hinted
//!   at go into one non-blocking multi-key `XREAD`, and hints that arrive
//!   meanwhile make the next one.
//!
//! Viewers of one task share one read. A subscriber that comes late, or whose
//! mailbox overflowed, catches up by itself and then takes what the shared
//! read delivers; entries that come twice are told by their IDs.

mod blocker;
mod feed;
mod hinted;
pub(crate) mod hot;
mod sizing;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::cmd;
use tokio::sync::{Notify, Semaphore};
use uuid::Uuid;

use self::feed::{Feed, Mail, Mailbox};
use super::entry::Page;
use super::link::as_one;
use super::reads::Reads;
use super::{Entry, Result, Streams};
use crate::domain::retry::Backoff;
use crate::domain::{EventId, TaskId};
use crate::log_limit::LogLimit;
use crate::metrics;
use crate::sync::lock;

/// Whether wake-up hints are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Hints {
    /// Pub/sub hints make reads immediate.
    On,
    /// Blocking reads alone.
    Off,
}

/// How streams are followed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Streams")]
#[group(skip)]
pub struct Options {
    /// Use pub/sub hints to read at once; off: blocking reads alone, exact too but slower
    #[arg(long, env = "RILL_HINTS", default_value = "on")]
    pub hints: Hints,
    /// Connections for blocking reads, 256 streams each
    #[arg(long, env = "RILL_BLOCKING_CONNECTIONS", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub blocking_connections: u32,
    /// Bytes held for one reader at most (half of them on their way to it) before it has to catch up
    #[arg(long, env = "RILL_READER_BUFFER", default_value_t = 256 * 1024)]
    pub reader_buffer: usize,
}

/// Entries that one read brings of one stream at most; a full answer is
/// followed by another read.
const PAGE: usize = 100;
/// Subscribers that read pages of their own at the same time: their answers wait in
/// one connection's buffer.
const CATCHING_UP: usize = 8;
const RETRY: Backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_secs(1) };

/// Follows task streams. Clones share everything.
#[derive(Clone)]
pub struct Tail {
    shared: Arc<Shared>,
}

struct Shared {
    streams: Streams,
    /// Hints, and the reads that they cause.
    reads: Reads,
    /// What subscribers read by themselves: nobody's next event waits behind it.
    catch_up: Reads,
    hints: Hints,
    /// Bytes of a mailbox, and of a page: one is filled while the other is written.
    reader_buffer: usize,
    id: Uuid,
    feeds: Mutex<HashMap<TaskId, Arc<Feed>>>,
    /// Feeds by blocking reader.
    shards: Vec<Shard>,
    dirty: Mutex<Vec<Arc<Feed>>>,
    dirtied: Notify,
    /// Hints are subscribed to.
    hinted: AtomicBool,
    /// Redis was away: every stream's end may have been lost.
    reconnected: AtomicBool,
    hints_refused: LogLimit,
    catching_up: Semaphore,
}

/// The streams that one blocking reader covers.
#[derive(Default)]
struct Shard {
    feeds: Mutex<HashMap<TaskId, Arc<Feed>>>,
    /// How many feeds, to place the next one.
    count: AtomicUsize,
    /// A stream came that the reader should cover at once.
    joined: Notify,
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tail").field("hints", &self.shared.hints).finish_non_exhaustive()
    }
}

impl Tail {
    /// Starts the reader's tasks; they end when the streams are stopped.
    pub fn start(streams: &Streams, options: &Options) -> Self {
        let client = &streams.inner.client;
        let stop = &streams.inner.stop;
        let reads = |on_message| {
            Reads::new(client.clone(), streams.inner.deployment.clone(), on_message, stop.clone())
        };
        let (catch_up, driver) = reads(Arc::new(|_: &[u8]| ()));
        streams.inner.register.link("catching up", &catch_up.link);
        tokio::spawn(driver);
        let mut driver = None;
        let shared = Arc::new_cyclic(|weak: &std::sync::Weak<Shared>| {
            let weak = weak.clone();
            let on_hints = Arc::new(move |message: &[u8]| {
                if let Some(shared) = weak.upgrade() {
                    shared.on_hints(message);
                }
            });
            let (reads, reading) = reads(on_hints);
            streams.inner.register.link("hints and reads", &reads.link);
            driver = Some(reading);
            Shared {
                streams: streams.clone(),
                reads,
                catch_up,
                hints: options.hints,
                reader_buffer: options.reader_buffer / 2,
                id: Uuid::new_v4(),
                feeds: Mutex::default(),
                shards: (0..options.blocking_connections).map(|_| Shard::default()).collect(),
                dirty: Mutex::default(),
                dirtied: Notify::new(),
                hinted: AtomicBool::new(false),
                reconnected: AtomicBool::new(false),
                hints_refused: LogLimit::new(),
                catching_up: Semaphore::new(CATCHING_UP),
            }
        });
        let spawn = |work: futures_util::future::BoxFuture<'static, ()>| {
            let stop = stop.clone();
            tokio::spawn(async move { stop.run_until_cancelled(work).await });
        };
        if let Some(driver) = driver {
            tokio::spawn(as_one(driver, hinted::read_dirty(shared.clone())));
        }
        spawn(Box::pin(hinted::keep_subscribed(shared.clone())));
        let pool = streams.blocking_pool("blocking reads", options.blocking_connections);
        for shard in 0..shared.shards.len() {
            spawn(Box::pin(blocker::run(shared.clone(), pool.clone(), shard)));
        }
        Self { shared }
    }

    /// Follows a task's stream after `cursor`.
    pub fn subscribe(&self, task: TaskId, cursor: EventId) -> Subscription {
        let shared = &self.shared;
        let mailbox = Arc::new(Mailbox::new(shared.reader_buffer));
        let mut feeds = lock(&shared.feeds);
        let (feed, new) = match feeds.get(&task) {
            Some(feed) => (feed.clone(), false),
            None => {
                let (shard, _) = shared
                    .shards
                    .iter()
                    .enumerate()
                    .min_by_key(|(_, shard)| shard.count.load(Ordering::Relaxed))
                    .unwrap_or((0, &shared.shards[0]));
                let key = shared.streams.keys().task(task);
                let feed = Arc::new(Feed::new(task, key, shard, cursor));
                feeds.insert(task, feed.clone());
                (feed, true)
            }
        };
        let from = feed.attach(&mailbox);
        if new {
            shared.join(&feed);
            metrics::tail_streams(feeds.len());
        }
        drop(feeds);
        Subscription {
            shared: shared.clone(),
            feed,
            mailbox,
            cursor,
            catch_up_to: (cursor < from).then_some(from),
            page: PAGE,
        }
    }

    /// Redis was away since this was asked last: any stream's end may have been
    /// lost.
    pub fn was_cut_off(&self) -> bool {
        self.shared.reconnected.swap(false, Ordering::Relaxed)
    }

    /// Streams whose end may have been lost: silent for `silence`. `XREAD` can't
    /// tell «nothing new» from «gone».
    pub fn suspects(&self, silence: Duration) -> Vec<TaskId> {
        let now = Instant::now();
        lock(&self.shared.feeds)
            .values()
            .filter(|feed| feed.take_suspect(now, silence))
            .map(|feed| feed.task)
            .collect()
    }

    /// Tells the subscribers that the task has ended; see [`Next::Suspect`].
    pub fn suspect(&self, task: TaskId) {
        let feed = lock(&self.shared.feeds).get(&task).cloned();
        if let Some(feed) = feed {
            feed.suspect();
        }
    }
}

impl Shared {
    /// A feed is new: it is read once, and from now on when it is hinted at, so
    /// that nothing falls between. Under the lock of `feeds`.
    fn join(&self, feed: &Arc<Feed>) {
        let shard = &self.shards[feed.shard];
        lock(&shard.feeds).insert(feed.task, feed.clone());
        let first = shard.count.fetch_add(1, Ordering::Relaxed) == 0;
        self.mark(feed);
        if first || !self.is_hinted() {
            shard.joined.notify_one();
        }
    }

    /// The last subscriber went. Under the lock of `feeds`.
    fn leave(&self, feed: &Arc<Feed>) {
        let shard = &self.shards[feed.shard];
        lock(&shard.feeds).remove(&feed.task);
        shard.count.fetch_sub(1, Ordering::Relaxed);
    }

    fn is_hinted(&self) -> bool {
        self.hinted.load(Ordering::Relaxed)
    }

    /// The feed has to be read.
    fn mark(&self, feed: &Arc<Feed>) {
        if feed.soil() {
            lock(&self.dirty).push(feed.clone());
            self.dirtied.notify_one();
        }
    }
}

/// One reader's way through a stream. Dropping it is leaving.
pub struct Subscription {
    shared: Arc<Shared>,
    feed: Arc<Feed>,
    mailbox: Arc<Mailbox>,
    cursor: EventId,
    /// Entries up to here come from a read of its own.
    catch_up_to: Option<EventId>,
    /// Entries of its next page.
    page: usize,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("task", &self.feed.task)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

/// What a subscription brings.
#[derive(Debug)]
pub enum Next {
    /// Entries after all before, oldest first; at least one.
    Entries(Vec<Entry>),
    /// The task has ended, perhaps without its stream saying so.
    Suspect,
}

impl Subscription {
    /// Waits for what comes next, however long. May be dropped and called
    /// again: nothing is lost.
    pub async fn next(&mut self) -> Next {
        loop {
            if let Some(goal) = self.catch_up_to {
                // Boxed, as waiting subscribers would keep the place for ever.
                match Box::pin(self.catch_up(goal)).await {
                    Some(next) => return next,
                    None => continue,
                }
            }
            match self.mailbox.take() {
                Mail::Entries(mut entries) => {
                    entries.retain(|entry| entry.id > self.cursor);
                    if let Some(last) = entries.last() {
                        self.cursor = last.id;
                        return Next::Entries(entries);
                    }
                }
                Mail::Overflowed => self.catch_up_to = Some(self.feed.reattach(&self.mailbox)),
                Mail::Suspect => return Next::Suspect,
                Mail::Nothing => self.mailbox.arrived.notified().await,
            }
        }
    }

    /// One page of the subscriber's own reading, or what of it fits.
    async fn catch_up(&mut self, goal: EventId) -> Option<Next> {
        let mut failures = 0;
        let mut page = loop {
            match self.read_page().await {
                Ok(page) => break page,
                Err(_) if self.mailbox.take_suspect() => return Some(Next::Suspect),
                Err(_) => {
                    failures += 1;
                    tokio::time::sleep(RETRY.delay(failures, rand::random())).await;
                }
            }
        };
        metrics::tail_read(metrics::Way::CatchUp, page.len);
        self.fit(&mut page);
        match page.last {
            Some(last) => self.cursor = last,
            // Trimmed, expired, or not yet written: what follows will tell.
            None => {
                self.feed.rewind(self.cursor);
                self.shared.mark(&self.feed);
                self.catch_up_to = None;
            }
        }
        if self.cursor >= goal {
            self.catch_up_to = None;
        }
        (!page.entries.is_empty()).then_some(Next::Entries(page.entries))
    }

    async fn read_page(&self) -> Result<Page> {
        // Never closed, so this can't fail.
        let _turn = self.shared.catching_up.acquire().await.ok();
        let mut command = cmd("XREAD");
        command.arg("COUNT").arg(self.page).arg("STREAMS").arg(&self.feed.key);
        command.arg(self.cursor.to_string());
        match self.shared.catch_up.read(&command).await?.pop() {
            None => Ok(Page::default()),
            Some((key, page)) if key == self.feed.key => Ok(page),
            // Another's: replies don't follow their commands on this connection any more.
            Some(_) => {
                self.shared.catch_up.give_up();
                Err(super::Error::Unexpected("XREAD"))
            }
        }
    }

    /// Drops what goes beyond the reader's buffer, to be read again, and makes
    /// the next page as much smaller, or larger.
    fn fit(&mut self, page: &mut Page) {
        let mut bytes = 0;
        let fits = page.entries.iter().take_while(|entry| {
            let first = bytes == 0;
            bytes += entry.data.len();
            first || bytes <= self.shared.reader_buffer
        });
        let fits = fits.count();
        if fits < page.entries.len() {
            page.entries.truncate(fits);
            page.last = page.entries.last().map(|entry| entry.id);
            self.page = fits;
        } else {
            self.page = (self.page * 2).min(PAGE);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut feeds = lock(&self.shared.feeds);
        if self.feed.detach(&self.mailbox) {
            feeds.remove(&self.feed.task);
            self.shared.leave(&self.feed);
            metrics::tail_streams(feeds.len());
        }
    }
}
