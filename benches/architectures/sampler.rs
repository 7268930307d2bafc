//! Reads some of rill's streams in Redis itself, as nobody else does: when a
//! token is there, by how late it was when it was there.
//!
//! rill's own histogram of appends says how long they take, and not when the
//! model had written what they bring. It costs Redis some reads, so what is
//! sampled is not what is compared.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use hdrhistogram::Histogram;
use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, AsyncConnectionConfig};
use rill::domain::TaskId;
use tokio::task::JoinSet;

use crate::baseline::Spread;
use crate::load::tokens;

/// The longest time that is told from longer ones, in microseconds.
const LONGEST: u64 = 600_000_000;
/// How long one read waits, in milliseconds.
const BLOCK: usize = 2_000;

type Times = Arc<Mutex<Histogram<u64>>>;

/// Reads until it is dropped.
pub(crate) struct Sampler {
    url: String,
    times: Times,
    reading: JoinSet<Result<()>>,
}

impl Sampler {
    pub(crate) fn new(url: String) -> Self {
        let times = Histogram::new_with_bounds(1, LONGEST, 3).expect("bounds");
        Self { url, times: Arc::new(Mutex::new(times)), reading: JoinSet::new() }
    }

    /// Reads a task's stream, to its end.
    pub(crate) fn follow(&mut self, task: &str) -> Result<()> {
        let task: TaskId = task.parse()?;
        let key = format!("rill:{{{}}}:task:{task}", task.partition());
        self.reading.spawn(read(self.url.clone(), key, self.times.clone()));
        Ok(())
    }

    /// What was seen so far.
    pub(crate) fn seen(&self) -> Option<Spread> {
        Spread::of(&self.times.lock().expect("no holder panics"))
    }
}

async fn read(url: String, key: String, times: Times) -> Result<()> {
    let patient = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
    let client = redis::Client::open(url)?;
    let mut redis = client.get_multiplexed_async_connection_with_config(&patient).await?;
    let options = StreamReadOptions::default().block(BLOCK);
    let mut last = "0-0".to_owned();
    loop {
        let read: Option<StreamReadReply> =
            redis.xread_options(&[&key], &[&last], &options).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_micros())?;
        for entry in read.into_iter().flat_map(|read| read.keys).flat_map(|key| key.ids) {
            let (event, data): (Option<String>, Option<Vec<u8>>) = (entry.get("e"), entry.get("d"));
            last = entry.id;
            match event.as_deref() {
                Some("delta") => {
                    let mut times = times.lock().expect("no holder panics");
                    for (_, stamp) in tokens::find(&data.unwrap_or_default()) {
                        times.saturating_record(now.saturating_sub(stamp));
                    }
                }
                Some("done" | "failed" | "cancelled") => return Ok(()),
                _ => {}
            }
        }
    }
}
