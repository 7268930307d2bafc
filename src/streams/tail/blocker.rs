//! Reading because of nothing but time: the guarantee that no event is missed.
//!
//! Each blocking reader looks after a share of the streams. Those that hints
//! come for are read, without blocking, once they have been quiet for a second
//! and then each second. For the others there is one `XREAD BLOCK` of up to 256
//! keys. A key can't join a block in progress, so a stream that comes meanwhile
//! rings the reader's bell: an entry in a stream of its own that is read along.
//! All of it goes over connections of its own: hints may hang with theirs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, Pipeline, Value, cmd};

use super::hinted::{Reading, deliver};
use super::sizing::Sizing;
use super::{RETRY, Shared};
use crate::log_limit::LogLimit;
use crate::metrics::Way;
use crate::streams::blocking::BlockingPool;
use crate::streams::entry::{page, pages, raw_entries, streams};
use crate::streams::{Result, answered};
use crate::sync::lock;

/// Keys of one read at most: each wake costs Redis 0.7 µs for each.
const KEYS: usize = 256;
/// Entries of one stream in one read at most: with all keys, about as many as
/// other reads bring.
const COUNT: usize = 16;
/// How long one read blocks. Redis rounds it up a little.
const BLOCK: Duration = Duration::from_secs(1);
/// How long a stream with hints may be quiet before it is looked at, and how
/// often it then is.
const QUIET: Duration = Duration::from_secs(1);
/// A bell that nobody rings is gone after this.
const BELL_TTL_SECONDS: u64 = 60;

/// Covers the streams of one shard, for ever.
pub(super) async fn run(shared: Arc<Shared>, pool: BlockingPool, shard: usize) {
    static LIMIT: LogLimit = LogLimit::new();
    let mut reader = Reader {
        bell: shared.streams.keys().bell(shared.id, shard),
        rung: "0-0".to_owned(),
        turn: 0,
        look_at: Instant::now() + QUIET,
        doubtful: true,
        sizing: Sizing::default(),
        shard,
        shared,
        pool,
    };
    let mut failures = 0;
    loop {
        match reader.round().await {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                reader.sizing.fail();
                if let Some(skipped) = LIMIT.pass() {
                    tracing::warn!(%error, skipped, "a blocking read failed; trying again");
                }
                tokio::time::sleep(RETRY.delay(failures, rand::random())).await;
            }
        }
    }
}

struct Reader {
    shared: Arc<Shared>,
    pool: BlockingPool,
    shard: usize,
    bell: String,
    /// The bell's last entry that was heard.
    rung: String,
    /// Which keys come first, when there are more than fit.
    turn: usize,
    /// When quiet streams are looked at next.
    look_at: Instant,
    /// There may be streams to wait for though hints come.
    doubtful: bool,
    sizing: Sizing,
}

impl Reader {
    async fn round(&mut self) -> Result<()> {
        let shared = self.shared.clone();
        let shard = &shared.shards[self.shard];
        if Instant::now() >= self.look_at {
            self.look().await?;
            self.look_at = Instant::now() + QUIET;
        }
        let (keys, groups) = self.choose();
        if keys.is_empty() {
            let empty = lock(&shard.feeds).is_empty();
            let look = async {
                if empty {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep_until(self.look_at.into()).await;
            };
            tokio::select! {
                () = shard.joined.notified() => self.doubtful = true,
                () = look => {}
            }
            return Ok(());
        }
        let mut block = BLOCK / groups;
        if shared.is_hinted() {
            block = block.min(self.look_at.saturating_duration_since(Instant::now()));
        }
        let answer = tokio::select! {
            answer = self.read(&keys, block) => answer,
            never = self.ring_when_joined() => never,
        };
        let answer = answer?;
        let (bells, news): (Vec<_>, Vec<_>) =
            streams(answer).into_iter().partition(|(key, _)| *key == self.bell);
        if let Some(heard) = bells.into_iter().flat_map(|(_, bell)| raw_entries(bell)).next_back() {
            self.rung = heard.id;
        }
        let news = news.into_iter().map(|(key, stream)| (key, page(stream))).collect();
        let brought = deliver(&shared, Way::Block, news, &keys, self.count(&keys));
        self.sizing.learn(brought.entries, brought.bytes);
        Ok(())
    }

    /// Reads the streams that hints come for, and came for none lately.
    async fn look(&mut self) -> Result<()> {
        if !self.shared.is_hinted() {
            return Ok(());
        }
        let now = Instant::now();
        let quiet: Vec<_> = lock(&self.shared.shards[self.shard].feeds)
            .values()
            .filter(|feed| feed.is_quiet(now, QUIET))
            .cloned()
            .collect();
        for feeds in quiet.chunks(self.sizing.keys(KEYS)) {
            let keys: Vec<_> = feeds
                .iter()
                .map(|feed| Reading { after: feed.read(), feed: feed.clone() })
                .collect();
            let mut command = cmd("XREAD");
            let count = self.count(&keys);
            command.arg("COUNT").arg(count).arg("STREAMS");
            add_streams(&mut command, None, &keys);
            let answer = answered(self.pool.read(&command, Duration::ZERO).await?)?;
            let brought = deliver(&self.shared, Way::Look, pages(answer), &keys, count);
            self.sizing.learn(brought.entries, brought.bytes);
        }
        Ok(())
    }

    /// The streams of this round, and how many rounds go through all.
    fn choose(&mut self) -> (Vec<Reading>, u32) {
        let shard = &self.shared.shards[self.shard];
        let hinted = self.shared.is_hinted();
        if hinted && !self.doubtful {
            return (Vec::new(), 1);
        }
        let mut waiting: Vec<_> = lock(&shard.feeds)
            .values()
            .filter(|feed| !hinted || feed.doubts_hints())
            .cloned()
            .collect();
        self.doubtful = !waiting.is_empty();
        let most = self.sizing.keys(KEYS);
        let rounds = waiting.len().div_ceil(most).max(1);
        if rounds > 1 {
            waiting.sort_unstable_by_key(|feed| feed.task);
            self.turn = (self.turn + 1) % rounds;
            waiting = waiting.into_iter().skip(self.turn * most).take(most).collect();
        }
        let readings =
            waiting.into_iter().map(|feed| Reading { after: feed.read(), feed }).collect();
        (readings, u32::try_from(rounds).unwrap_or(u32::MAX))
    }

    /// Entries of each stream of the next read.
    fn count(&self, keys: &[Reading]) -> usize {
        self.sizing.count(keys.len(), COUNT)
    }

    async fn read(&self, keys: &[Reading], block: Duration) -> Result<Value> {
        let millis = u64::try_from(block.as_millis()).unwrap_or(1000).max(1);
        let mut command = cmd("XREAD");
        command.arg("COUNT").arg(self.count(keys)).arg("BLOCK").arg(millis).arg("STREAMS");
        add_streams(&mut command, Some((&self.bell, &self.rung)), keys);
        answered(self.pool.read(&command, block).await?)
    }

    /// Rings this reader's own bell when a stream joins while it blocks. A bell
    /// that can't be rung costs the rest of the block.
    async fn ring_when_joined(&self) -> Result<Value> {
        self.shared.shards[self.shard].joined.notified().await;
        let mut commands = Pipeline::with_capacity(4);
        commands.cmd("MULTI");
        commands.cmd("XADD").arg(&self.bell).arg("MAXLEN").arg(1).arg("*").arg("b").arg(1);
        commands.cmd("EXPIRE").arg(&self.bell).arg(BELL_TTL_SECONDS);
        commands.cmd("EXEC");
        if let Ok(mut connected) = self.shared.reads.link.get(Duration::ZERO).await {
            let _ = connected.send_all(&commands, 4).await;
        }
        std::future::pending().await
    }
}

/// The keys of an `XREAD`, and the IDs after which they are read.
fn add_streams(command: &mut Cmd, bell: Option<(&str, &str)>, keys: &[Reading]) {
    let (bell, rung) = bell.unzip();
    command.arg(bell);
    for reading in keys {
        command.arg(&reading.feed.key);
    }
    command.arg(rung);
    for reading in keys {
        command.arg(&*reading.after.text());
    }
}
