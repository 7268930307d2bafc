//! Both ends of a stream: who appends to it, and who follows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Pipeline, Value};
use rill::domain::{EventId, TaskId};
use tokio::time::{Interval, timeout};

use crate::support::{App, PATIENCE};

/// Events that a stream keeps, about.
pub(crate) const MAXLEN: u32 = 10_000;

/// One task's stream, as a worker writes it: one append in flight.
pub(crate) struct Stream {
    task: TaskId,
    key: String,
    wake: String,
}

impl Stream {
    pub(crate) fn new(app: &App, task: TaskId) -> Self {
        let key = format!("{}:{{{}}}:task:{task}", app.name, task.partition());
        Self { task, key, wake: format!("{}:wake", app.name) }
    }

    pub(crate) async fn begin(&self, redis: &mut MultiplexedConnection) -> Result<()> {
        let data = r#"{"type":"started","attempt":1,"model":"simulator"}"#;
        let mut commands = redis::pipe();
        commands.xadd(&self.key, "1-0", &[("e", "started"), ("d", data)]).expire(&self.key, 3600);
        Ok(commands.exec_async(redis).await?)
    }

    pub(crate) async fn write(
        self,
        mut redis: MultiplexedConnection,
        clock: Instant,
        mut due: Interval,
        total: u64,
        written: Arc<AtomicU64>,
    ) -> Result<()> {
        for seq in 1..=total {
            due.tick().await;
            let data =
                format!(r#"{{"type":"delta","text":"{seq} {}"}}"#, clock.elapsed().as_micros());
            self.append(&mut redis, seq, "delta", &data).await?;
            written.fetch_add(1, Ordering::Relaxed);
        }
        let id = uuid::Uuid::nil();
        let data =
            format!(r#"{{"type":"failed","message_id":"{id}","code":"over","message":"over"}}"#);
        self.append(&mut redis, total + 1, "failed", &data).await
    }

    async fn append(
        &self,
        redis: &mut MultiplexedConnection,
        seq: u64,
        event: &str,
        data: &str,
    ) -> Result<()> {
        let id = EventId::new(1, seq).to_string();
        let mut commands = Pipeline::with_capacity(2);
        let xadd = commands.cmd("XADD").arg(&self.key).arg("NOMKSTREAM").arg("MAXLEN").arg("~");
        xadd.arg(MAXLEN).arg(&id).arg("e").arg(event).arg("d").arg(data);
        commands.cmd("PUBLISH").arg(&self.wake).arg(format!("{} {id}", self.task));
        // The hint may be refused: only XADD's answer counts.
        match redis.req_packed_commands(&commands, 0, 2).await?.into_iter().next() {
            Some(Value::BulkString(_)) => Ok(()),
            other => bail!("XADD answered {other:?}"),
        }
    }
}

/// What a client received. Latencies are in microseconds.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) latencies: Vec<u64>,
}

impl Seen {
    pub(crate) fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.latencies.extend(other.latencies);
    }
}

/// A client that follows one stream.
pub(crate) struct Viewer {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Viewer {
    /// Connects, and waits for the `started` that is there.
    pub(crate) async fn open(client: &reqwest::Client, url: String) -> Result<Self> {
        let response = client.get(url).send().await?.error_for_status()?;
        let mut viewer = Self { response, buffer: Vec::new() };
        let started = async {
            while viewer.frame().is_none_or(|frame| !frame.contains("event: started")) {
                viewer.receive().await?;
            }
            Ok(viewer)
        };
        timeout(PATIENCE, started).await.context("a stream does not begin")?
    }

    async fn receive(&mut self) -> Result<()> {
        let piece = self.response.chunk().await?.context("a stream broke off")?;
        self.buffer.extend_from_slice(&piece);
        Ok(())
    }

    /// The next event, if it is there whole.
    fn frame(&mut self) -> Option<String> {
        let end = self.buffer.windows(2).position(|two| two == b"\n\n")?;
        String::from_utf8(self.buffer.drain(..end + 2).collect()).ok()
    }

    pub(crate) async fn follow(mut self, clock: Instant, total: u64) -> Result<Seen> {
        let mut seen = Seen::default();
        let mut next = 1;
        loop {
            self.receive().await?;
            let now = clock.elapsed().as_micros() as u64;
            while let Some(frame) = self.frame() {
                let Some(event) = frame.strip_prefix("id: 1-") else { continue };
                let (seq, rest) = event.split_once('\n').context("a frame of one line")?;
                let seq: u64 = seq.parse()?;
                seen.doubled += u64::from(seq < next);
                seen.lost += seq.saturating_sub(next);
                next = next.max(seq + 1);
                if rest.starts_with("event: failed\n") {
                    ensure!(seq == total + 1, "{seq} is not the end");
                    return Ok(seen);
                }
                let text = rest.split('"').nth(7).and_then(|text| text.split_once(' '));
                let (content, sent) = text.with_context(|| format!("not ours: {frame}"))?;
                ensure!(content.parse() == Ok(seq), "event {seq} has the content of {content}");
                seen.latencies.push(now.saturating_sub(sent.parse()?));
            }
        }
    }
}
