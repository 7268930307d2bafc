//! Follow: one reader's way through a task's stream, whole and in order, to
//! its end.
//!
//! Events come from the tail; [`Splice`] says which to send. Where the stream
//! can't say (it expired, Redis lost it, trimming left a gap up to the end),
//! PostgreSQL does: a snapshot of the whole answer and the terminal event.

use std::time::{Duration, Instant};

use super::{PERSIST, Result, Tasks};
use crate::domain::splice::{Splice, Step};
use crate::domain::{AccountId, Class, Event, EventId, EventName, TaskId};
use crate::log_limit::LogLimit;
use crate::metrics;
use crate::store::StreamEnd;
use crate::streams::Entry;
use crate::streams::tail::{Next, Subscription, Tail};

/// A stream that was asked for.
#[derive(Debug)]
pub enum Follow {
    /// There is no such task.
    NoTask,
    /// The cursor is at the stream's end: nothing will follow.
    AtEnd,
    /// It is open.
    Reader(Box<Reader>),
}

/// Reads one stream for one reader.
#[derive(Debug)]
pub struct Reader {
    tasks: Tasks,
    task: TaskId,
    /// The last event that the reader has.
    sent: EventId,
    source: Source,
}

/// Where the next events come from.
#[derive(Debug)]
enum Source {
    /// The stream itself.
    Stream(Subscription, Splice),
    /// PostgreSQL, which has to be asked.
    Database,
    /// PostgreSQL, which was asked.
    End(Box<StreamEnd>),
    /// Nothing follows.
    Nothing,
}

impl Tasks {
    /// Opens a task's stream after `cursor` ([`EventId::START`]: from the
    /// beginning). One statement, shared by all that are opened at the same time;
    /// a second one where Redis doesn't hold the end any more. A cursor ahead of the stream is no error: the
    /// reader waits for the reset that will come.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn follow(
        &self,
        account: AccountId,
        task: TaskId,
        cursor: EventId,
    ) -> Result<Follow> {
        let Some(place) = self.store.stream_place(account, task).await? else {
            return Ok(Follow::NoTask);
        };
        if place.end.is_some_and(|end| cursor >= end) {
            metrics::stream_opened("ended");
            return Ok(Follow::AtEnd);
        }
        let held = match place.end {
            Some(end) => self.streams.holds(task, end).await.unwrap_or(false),
            None => true,
        };
        let source = match &self.tail {
            _ if !held => {
                metrics::stream_opened("database");
                Source::Database
            }
            Some(tail) => {
                metrics::stream_opened("redis");
                // What attempts before this one wrote is worth nothing now.
                let after = cursor.max(EventId::new(place.attempt, 0).before());
                Source::Stream(tail.subscribe(task, after), Splice::after(after))
            }
            None => Source::Nothing,
        };
        Ok(Follow::Reader(Box::new(Reader { tasks: self.clone(), task, sent: cursor, source })))
    }
}

impl Reader {
    /// The next events, at least one, as many as are there. Nothing once the
    /// stream has ended. May be dropped and called again: nothing is lost.
    pub async fn next(&mut self) -> Option<Vec<Entry>> {
        loop {
            match &mut self.source {
                Source::Nothing => return None,
                // Boxed, as a stream seldom comes here and would keep the place for ever.
                Source::Database => self.source = Box::pin(self.ask()).await,
                Source::End(end) => {
                    let events = from_database(end, self.sent);
                    self.source = Source::Nothing;
                    return Some(events);
                }
                Source::Stream(subscription, splice) => {
                    let (events, then) = match subscription.next().await {
                        Next::Suspect => (Vec::new(), Some(Source::Database)),
                        Next::Entries(entries) => sift(splice, entries),
                    };
                    if let Some(then) = then {
                        self.source = then;
                    }
                    if let Some(last) = events.last() {
                        self.sent = last.id;
                        return Some(events);
                    }
                }
            }
        }
    }

    /// How the task ended, waiting for PostgreSQL as long as that takes.
    async fn ask(&self) -> Source {
        let mut failures = 0;
        loop {
            match self.tasks.store.stream_end(self.task).await {
                Ok(Some(end)) => return Source::End(Box::new(end)),
                // Deleted, or going on. The client comes back, and is told.
                Ok(None) => return Source::Nothing,
                Err(_) => {
                    failures += 1;
                    tokio::time::sleep(PERSIST.delay(failures, rand::random())).await;
                }
            }
        }
    }
}

/// Those of the entries that are to be sent, and where to read on if not here.
fn sift(splice: &mut Splice, entries: Vec<Entry>) -> (Vec<Entry>, Option<Source>) {
    let mut events = Vec::with_capacity(entries.len());
    for entry in entries {
        let class = entry.name.class();
        match splice.offer(entry.id, class) {
            Step::Skip => {}
            Step::Fill => return (events, Some(Source::Database)),
            Step::Forward => {
                events.push(entry);
                if class == Class::Terminal {
                    return (events, Some(Source::Nothing));
                }
            }
        }
    }
    (events, None)
}

/// Those of the entries that are to be sent; for [`crate::hot`].
pub(crate) fn forwarded(splice: &mut Splice, entries: Vec<Entry>) -> Vec<Entry> {
    sift(splice, entries).0
}

/// The whole answer and the end, as PostgreSQL has them. Who has everything up
/// to the end gets the end alone: no ID is sent twice.
fn from_database(end: &StreamEnd, sent: EventId) -> Vec<Entry> {
    let last = Entry::new(end.id, end.name, end.data.clone());
    if sent == end.id.before() {
        return vec![last];
    }
    let data = Event::Snapshot(end.answer.clone()).encode().data;
    vec![Entry::new(end.id.before(), EventName::Snapshot, data), last]
}

/// How often streams are looked through for ends that were lost.
const LOOK: Duration = Duration::from_secs(1);
/// How long a stream is silent before PostgreSQL is asked.
const SILENCE: Duration = Duration::from_secs(15);
/// How often all streams are looked at for silence.
const SWEEP: Duration = Duration::from_secs(3);

/// Asks PostgreSQL which of the silent streams have ended, for ever: one
/// statement for all of them, and none while nothing is silent.
pub async fn watch_ends(tasks: Tasks, tail: Tail) {
    static AWAY: LogLimit = LogLimit::new();
    let mut unasked: Vec<TaskId> = Vec::new();
    let mut swept = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        if tail.was_cut_off() {
            unasked.extend(tail.suspects(Duration::ZERO));
        } else if swept.elapsed() >= SWEEP {
            swept = Instant::now();
            unasked.extend(tail.suspects(SILENCE));
        }
        if unasked.is_empty() {
            continue;
        }
        match tasks.store.ended_among(&unasked).await {
            Ok(ended) => {
                for task in ended {
                    tail.suspect(task);
                }
                unasked.clear();
            }
            Err(error) => {
                unasked.sort_unstable();
                unasked.dedup();
                if let Some(skipped) = AWAY.pass() {
                    tracing::warn!(%error, skipped, "can't ask whether silent streams have ended");
                }
            }
        }
    }
}
