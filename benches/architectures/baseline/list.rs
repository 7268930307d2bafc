//! Chunks in a Redis list, readers woken by pub/sub, jobs in another list.
//!
//! | key | holds |
//! |---|---|
//! | `chunks:<task>` | a list: `event data`, number 1 first; and a channel of that name |
//! | `jobs` | a list of tasks that wait |

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis::aio::MultiplexedConnection;
use redis::cmd;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use uuid::Uuid;

use super::channels::{self, Channels, Listener};
use super::gauges::Gauges;
use super::{Chunk, Design, Reader, Ticket};

const JOBS: &str = "jobs";
/// How long a list is kept after its beginning, and after its end.
const TTL_SECONDS: i64 = 3600;
/// Pub/sub may lose a message; a reader that hears nothing looks by itself.
const LOOK: Duration = Duration::from_secs(1);
/// How long a worker waits for a job before it asks again, in seconds.
const BLOCK: u32 = 1;

/// A list, and pub/sub.
#[derive(Clone)]
pub(super) struct List {
    url: String,
    channels: Channels,
    /// For what blocks: workers need it.
    blocking: Arc<OnceCell<MultiplexedConnection>>,
    gauges: Arc<Gauges>,
}

impl List {
    pub(super) async fn connect(url: &str, gauges: Arc<Gauges>) -> Result<Self> {
        Ok(Self {
            url: url.to_owned(),
            channels: Channels::connect(url).await?,
            blocking: Arc::default(),
            gauges,
        })
    }
}

impl Design for List {
    type Reader = Follower;

    async fn submitted(&self, task: Uuid) -> Result<()> {
        let mut redis = self.channels.connection.clone();
        let _: u64 = cmd("LPUSH").arg(JOBS).arg(task.to_string()).query_async(&mut redis).await?;
        Ok(())
    }

    async fn jobs(&self, _: usize) -> Result<Vec<Ticket>> {
        let connect = || channels::connect(&self.url, |_| {});
        let mut redis = self.blocking.get_or_try_init(connect).await?.clone();
        let popped: Option<(String, String)> =
            cmd("BRPOP").arg(JOBS).arg(BLOCK).query_async(&mut redis).await?;
        let Some((_, task)) = popped else { return Ok(Vec::new()) };
        Ok(vec![Ticket::Waiting(task.parse()?)])
    }

    async fn append(&self, task: Uuid, seq: u64, chunk: &Chunk) -> Result<()> {
        let key = channels::name(task);
        let mut commands = redis::pipe();
        commands.cmd("RPUSH").arg(&key).arg(format!("{} {}", chunk.event, chunk.data));
        commands.cmd("PUBLISH").arg(&key).arg(seq).ignore();
        if seq == 1 || chunk.is_terminal() {
            commands.cmd("EXPIRE").arg(&key).arg(TTL_SECONDS).ignore();
        }
        let mut redis = self.channels.connection.clone();
        let (length,): (u64,) = commands.query_async(&mut redis).await?;
        ensure!(length == seq, "the list has {length} chunks instead of {seq}");
        Ok(())
    }

    async fn read(&self, task: Uuid, after: u64) -> Result<Follower> {
        // First listens, then reads: what comes between is heard.
        let listener = self.channels.listen(task).await?;
        let (redis, gauges) = (self.channels.connection.clone(), self.gauges.clone());
        Ok(Follower { redis, gauges, key: channels::name(task), after, listener, fresh: true })
    }
}

/// One stream's.
pub(super) struct Follower {
    redis: MultiplexedConnection,
    gauges: Arc<Gauges>,
    key: String,
    after: u64,
    listener: Listener,
    /// It has not read yet.
    fresh: bool,
}

impl Reader for Follower {
    async fn next(&mut self) -> Result<Vec<Chunk>> {
        loop {
            if !std::mem::take(&mut self.fresh) {
                // Heard or not, it looks.
                let _ = timeout(LOOK, self.listener.published()).await;
            }
            let mut read = cmd("LRANGE");
            read.arg(&self.key).arg(self.after).arg(-1);
            let chunks: Vec<String> = read.query_async(&mut self.redis).await?;
            self.gauges.read(chunks.len());
            if !chunks.is_empty() {
                self.after += chunks.len() as u64;
                return chunks.iter().map(|chunk| parse(chunk)).collect();
            }
        }
    }
}

fn parse(chunk: &str) -> Result<Chunk> {
    let (event, data) = chunk.split_once(' ').context("not a chunk")?;
    Ok(Chunk { event: event.to_owned(), data: data.to_owned() })
}
