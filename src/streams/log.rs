//! A task's stream, from the writing side: one attempt's log of events.
//!
//! Exactness rests on three rules that live here (`docs/design.md`):
//! an ID once sent has one content for ever, so an append whose reply was lost
//! is repeated with the same bytes; `XADD` refuses an ID that is not above the
//! last, so a replaced attempt is fenced; and after anything that may have made
//! Redis forget, the next event must be a snapshot.

pub(crate) mod place;

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, Pipeline, Value, cmd};

use place::Place;

use super::entry::{RawEntry, raw_entries};
use super::hint::Hints;
use super::lane::{Append, Outcome};
use super::link::Connected;
use super::{Error, Receipt, Result, Streams, answered, is_stale_id};
use crate::clock::unix_ms;
use crate::domain::event::Encoded;
use crate::domain::retry::Backoff;
use crate::domain::{Answer, ClaimId, Event, EventId, Fence, TaskId};
use crate::log_limit::LogLimit;
use crate::metrics;

/// Why an append can never succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// Another attempt has begun: write nothing more.
    #[error("another attempt writes this stream")]
    Fenced,
    /// The stream is gone (expired, deleted, or Redis lost it). Whether to make
    /// it again is PostgreSQL's to say; see [`Log::revive`].
    #[error("the stream is gone")]
    Gone,
    /// The stream holds an event of this attempt that this log did not write.
    #[error("the stream has events of this attempt that it did not write")]
    Diverged,
}

/// Writes one attempt's events, one at a time.
#[derive(Debug)]
pub struct Log {
    streams: Streams,
    task: TaskId,
    key: String,
    /// Who writes: the first event names it.
    claim: ClaimId,
    place: Place,
    receipt: Arc<Receipt>,
}

/// An event, and when it is appended: the time of the first try. It is not part
/// of the event's content, so that anyone may append a task's end.
#[derive(Debug, Clone, Copy)]
struct Stamped<'a> {
    event: &'a Encoded,
    appended_ms: u64,
    /// Of an attempt's first event: the claim that began it.
    claim: Option<ClaimId>,
}

impl Stamped<'_> {
    /// The bytes that vary.
    fn bytes(&self) -> usize {
        self.event.data.len() + self.event.opaque.as_ref().map_or(0, String::len)
    }

    /// The fields, as `entry.rs` lists them.
    fn write(&self, command: &mut Cmd) {
        let Encoded { name, data, opaque } = self.event;
        command.arg("e").arg(name.as_str()).arg("d").arg(data).arg("t").arg(self.appended_ms);
        if let Some(opaque) = opaque {
            command.arg("o").arg(opaque);
        }
        if let Some(claim) = self.claim {
            command.arg("c").arg(claim.to_string());
        }
    }

    /// An entry's fields are these.
    fn is(&self, entry: &RawEntry) -> bool {
        let Encoded { name, data, opaque } = self.event;
        let (appended, claim) = (self.appended_ms.to_string(), self.claim.map(|id| id.to_string()));
        [
            ("e", Some(name.as_str())),
            ("d", Some(data.as_str())),
            ("t", Some(appended.as_str())),
            ("o", opaque.as_deref()),
            ("c", claim.as_deref()),
        ]
        .into_iter()
        .all(|(field, value)| {
            entry.field(field).map(|stored| &**stored) == value.map(str::as_bytes)
        })
    }
}

/// What one try to append came to.
enum Try {
    /// By a connection, and when.
    Confirmed(u64, Instant),
    Unknown,
    Stopped(Stopped),
}

const RETRY: Backoff = Backoff { base: Duration::from_millis(20), max: Duration::from_secs(1) };

impl Streams {
    /// The log of an attempt that has written nothing yet.
    pub fn log(&self, task: TaskId, fence: Fence) -> Log {
        Log {
            streams: self.clone(),
            task,
            key: self.keys().task(task),
            claim: fence.claim,
            place: Place::new(fence.attempt),
            receipt: Arc::default(),
        }
    }
}

impl Log {
    /// Redis may have forgotten the tail: the next event must be a snapshot.
    pub const fn must_heal(&self) -> bool {
        self.place.must_heal()
    }

    /// A snapshot is due: trimming would soon leave readers without a reset to
    /// start from.
    pub fn snapshot_is_due(&self) -> bool {
        self.place.snapshot_is_due(self.streams.inner.maxlen)
    }

    /// An ID that no event of this attempt has, sent or not: where an end goes
    /// whose predecessor may still be on its way.
    pub const fn free_id(&self) -> EventId {
        self.place.free_id()
    }

    /// Where outcomes arrive: for whoever has better to do than to hear of each.
    pub(crate) fn receipt(&self) -> Arc<Receipt> {
        self.receipt.clone()
    }

    /// Appends an event, repeating it until its outcome is known, however long
    /// Redis is away. The first makes the stream and its expiry; later ones
    /// never make it again.
    ///
    /// # Errors
    /// When nothing can be appended any more.
    pub async fn append(&mut self, event: &Encoded) -> std::result::Result<EventId, Stopped> {
        let first = self.place.next().seq == 0;
        self.write(event, first).await
    }

    /// Makes a stream that is gone again, with a snapshot at the next ID.
    ///
    /// # Errors
    /// When another attempt was quicker.
    pub async fn revive(&mut self, answer: &Answer) -> std::result::Result<EventId, Stopped> {
        let snapshot = Event::Snapshot(answer.clone()).encode();
        self.place.pass_over();
        self.write(&snapshot, true).await
    }

    async fn write(
        &mut self,
        event: &Encoded,
        create: bool,
    ) -> std::result::Result<EventId, Stopped> {
        let started = Instant::now();
        // Once: an append that is repeated has the same bytes.
        let claim = (self.place.next().seq == 0).then_some(self.claim);
        let stamped = Stamped { event, appended_ms: unix_ms(), claim };
        let mut failures = 0;
        loop {
            match self.try_append(stamped, create).await {
                Try::Confirmed(generation, at) => {
                    let id = self.place.confirmed(event.name, generation);
                    metrics::event_appended(event.name, at.saturating_duration_since(started));
                    return Ok(id);
                }
                Try::Stopped(stopped) => {
                    metrics::append_error(match stopped {
                        Stopped::Fenced => "fenced",
                        Stopped::Gone => "gone",
                        Stopped::Diverged => "diverged",
                    });
                    return Err(stopped);
                }
                Try::Unknown => {
                    self.place.unknown();
                    failures += 1;
                    tokio::time::sleep(RETRY.delay(failures, rand::random())).await;
                }
            }
        }
    }

    async fn try_append(&mut self, event: Stamped<'_>, create: bool) -> Try {
        if create {
            return self.create(event).await;
        }
        self.place.sending();
        let append = self.add(event);
        let Outcome { answer, generation, at } =
            self.streams.inner.lane.append(append, &self.receipt).await;
        match answer.and_then(answered) {
            Ok(Value::Nil) => Try::Stopped(Stopped::Gone),
            Ok(_) => Try::Confirmed(generation, at),
            Err(error) if is_stale_id(&error) => self.find_out(event).await,
            Err(error) => self.unknown(&error),
        }
    }

    async fn create(&mut self, event: Stamped<'_>) -> Try {
        let mut connected = match self.streams.connection().await {
            Ok(connected) => connected,
            Err(error) => return self.unknown(&error),
        };
        self.place.sending();
        let events = [(self.place.next(), event)];
        match add_and_expire(&mut connected, &self.streams, self.task, &events).await {
            Ok(()) => Try::Confirmed(connected.generation, Instant::now()),
            Err(error) if is_stale_id(&error) => self.find_out(event).await,
            Err(error) => self.unknown(&error),
        }
    }

    /// `XADD … NOMKSTREAM`. Answered with nil where there is no stream.
    fn add(&self, event: Stamped<'_>) -> Append {
        /// Bytes and arguments beside what varies.
        const BYTES: usize = 80;
        const ARGUMENTS: usize = 15;
        let next = self.place.next();
        let bytes = self.key.len() + event.bytes() + BYTES;
        let mut command = Cmd::with_capacity(ARGUMENTS, bytes);
        command
            .arg("XADD")
            .arg(&self.key)
            .arg("NOMKSTREAM")
            .arg("MAXLEN")
            .arg("~")
            .arg(self.streams.inner.maxlen)
            .arg(&*next.text());
        event.write(&mut command);
        Append { command, bytes, hint: (self.task, next) }
    }

    /// Refused as not above the last: was that ours, or another's? Our own number may
    /// be another's as well ([`Fence`]), so what is at our ID has to be what we sent.
    async fn find_out(&self, event: Stamped<'_>) -> Try {
        let next = self.place.next();
        let mut connected = match self.streams.connection().await {
            Ok(connected) => connected,
            Err(error) => return self.unknown(&error),
        };
        match last_id(&mut connected, &self.key).await {
            Ok(Some(last)) if last == next => match entry(&mut connected, &self.key, next).await {
                Ok(Some(stored)) if event.is(&stored) => {
                    Try::Confirmed(connected.generation, Instant::now())
                }
                Ok(Some(_)) => Try::Stopped(Stopped::Diverged),
                // Emptied by somebody: as good as gone.
                Ok(None) => Try::Stopped(Stopped::Gone),
                Err(error) => self.unknown(&error),
            },
            Ok(Some(last)) if last.attempt > next.attempt => Try::Stopped(Stopped::Fenced),
            Ok(Some(last)) if last > next => Try::Stopped(Stopped::Diverged),
            // Gone or emptied since it was refused: try again, and see.
            Ok(_) => Try::Unknown,
            Err(error) => self.unknown(&error),
        }
    }

    fn unknown(&self, error: &Error) -> Try {
        static LIMIT: LogLimit = LogLimit::new();
        metrics::append_error("unknown");
        if let Some(skipped) = LIMIT.pass() {
            tracing::warn!(%error, task = %self.task, skipped, "an append is not confirmed; repeating it");
        }
        Try::Unknown
    }
}

/// `XADD`s and `EXPIRE` in one transaction, so that no stream is ever left
/// without an expiry, then the hint.
async fn add_and_expire(
    connected: &mut Connected,
    streams: &Streams,
    task: TaskId,
    events: &[(EventId, Stamped<'_>)],
) -> Result<()> {
    let key = streams.keys().task(task);
    let mut commands = Pipeline::with_capacity(events.len() + 4);
    commands.cmd("MULTI");
    for (id, event) in events {
        let mut command = cmd("XADD");
        command.arg(&key).arg(id.to_string());
        event.write(&mut command);
        commands.add_command(command);
    }
    commands.cmd("PEXPIRE").arg(key).arg(ttl_ms(streams));
    commands.cmd("EXEC");
    let last = events.last().map_or(EventId::START, |(id, _)| *id);
    commands.cmd("PUBLISH").arg(streams.keys().wake()).arg(Hints::of(task, last).as_str());
    let mut answers = connected.send_all(&commands, events.len() + 4).await?;
    answers.pop();
    let exec = answers.pop().unwrap_or(Value::Nil);
    // An `XADD` that is refused is refused inside EXEC; the last one counts.
    match exec {
        Value::Array(mut results) => {
            results.pop();
            let added = results.pop().ok_or(Error::Unexpected("EXEC"))?;
            answered(added)?;
            Ok(())
        }
        other => {
            answered(other)?;
            Err(Error::Unexpected("EXEC"))
        }
    }
}

fn ttl_ms(streams: &Streams) -> u64 {
    u64::try_from(streams.inner.ttl.as_millis()).unwrap_or(u64::MAX)
}

/// The last ID that the stream ever had (`XINFO STREAM`); it survives trimming.
async fn last_id(connected: &mut Connected, key: &str) -> Result<Option<EventId>> {
    let answer = connected.send(cmd("XINFO").arg("STREAM").arg(key)).await.and_then(answered);
    match answer {
        Ok(value) => {
            let fields: std::collections::HashMap<String, Value> =
                redis::from_redis_value(value).map_err(|_| Error::Unexpected("XINFO STREAM"))?;
            let last = fields.get("last-generated-id").cloned().unwrap_or(Value::Nil);
            let last: String =
                redis::from_redis_value(last).map_err(|_| Error::Unexpected("XINFO STREAM"))?;
            Ok(last.parse().ok())
        }
        Err(Error::Redis(error)) if error.detail().is_some_and(|d| d.contains("no such key")) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The entry at an ID.
async fn entry(connected: &mut Connected, key: &str, id: EventId) -> Result<Option<RawEntry>> {
    let id = id.text();
    let command = cmd("XRANGE").arg(key).arg(&*id).arg(&*id).clone();
    Ok(raw_entries(answered(connected.send(&command).await?)?).into_iter().next())
}

impl Streams {
    /// Appends a task's end, which PostgreSQL has committed: any number of
    /// times, by anyone. `events` end with the terminal one; each is the same
    /// whoever appends it, so being refused means that it is there, or that
    /// Redis knows a later one.
    ///
    /// # Errors
    /// When Redis is away: repeat.
    pub async fn append_end(&self, task: TaskId, events: &[(EventId, Encoded)]) -> Result<()> {
        let started = Instant::now();
        let mut connected = self.connection().await?;
        let appended_ms = unix_ms();
        let events: Vec<_> = events
            .iter()
            .map(|(id, event)| (*id, Stamped { event, appended_ms, claim: None }))
            .collect();
        match add_and_expire(&mut connected, self, task, &events).await {
            Ok(()) => {
                if let Some((_, Stamped { event, .. })) = events.last() {
                    metrics::event_appended(event.name, started.elapsed());
                }
                Ok(())
            }
            Err(error) if is_stale_id(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Moves the expiry of streams that are being written, in one round trip.
    ///
    /// # Errors
    /// When Redis is away; the next heartbeat does it.
    pub async fn keep(&self, tasks: &[TaskId]) -> Result<()> {
        if tasks.is_empty() {
            return Ok(());
        }
        let mut commands = Pipeline::with_capacity(tasks.len());
        for task in tasks {
            commands.cmd("PEXPIRE").arg(self.keys().task(*task)).arg(ttl_ms(self));
        }
        self.connection().await?.send_all(&commands, tasks.len()).await?;
        Ok(())
    }
}
