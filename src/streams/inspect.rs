//! The queue as operators see it. Read only, and bounded: nothing here holds
//! Redis up for longer than a worker's own commands do.

use std::collections::HashMap;

use redis::{Pipeline, Value, cmd};
use serde::Serialize;

use super::dead::{age, clock};
use super::entry::raw_entries;
use super::keys::GROUP;
use super::{Error, Result, Streams, answered};
use crate::domain::JobKind;

/// Pending jobs that one command asks for.
const PAGE: usize = 1_000;
/// Pending jobs that are looked at in all; a worker has 256 by default.
const LOOKED_AT: usize = 50_000;

/// The job queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct QueueView {
    /// Jobs that were not delivered yet.
    pub waiting: u64,
    /// The oldest of them was added so long ago.
    pub oldest_waiting_ms: Option<u64>,
    /// Jobs that were delivered, and are not done with.
    pub pending: u64,
    /// The oldest of them was added so long ago.
    pub oldest_pending_ms: Option<u64>,
    /// The one that was not renewed for longest.
    pub longest_idle_ms: Option<u64>,
    /// Pending jobs that were delivered more than once.
    pub redelivered: u64,
    /// Deliveries of one pending job at most.
    pub most_deliveries: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// The newest of them was added so long ago.
    pub newest_dead_letter_ms: Option<u64>,
    /// Pending jobs that the figures about pending jobs are made of: all, but
    /// for a queue with more than 50,000.
    pub looked_at: u64,
    /// Who takes jobs.
    #[serde(skip)]
    pub consumers: Vec<ConsumerView>,
}

/// Who takes jobs: a worker, by its ID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsumerView {
    /// The worker's ID.
    pub name: String,
    /// Jobs that were delivered to it, and are not done with.
    pub pending: u64,
    /// It has not talked to Redis for so long.
    pub idle_ms: u64,
    /// The one of its jobs that was not renewed for longest.
    pub longest_idle_ms: Option<u64>,
}

/// `XINFO GROUPS`, of the workers' group.
pub(super) struct Group {
    pub(super) pending: u64,
    pub(super) last_delivered: String,
    lag: Option<u64>,
}

/// One pending job.
struct Pending {
    entry: String,
    consumer: String,
    idle_ms: u64,
    deliveries: u64,
}

fn field<T: redis::FromRedisValue>(map: &mut HashMap<String, Value>, name: &str) -> Option<T> {
    redis::from_redis_value(map.remove(name)?).ok()
}

/// There is no such key, or no group: no worker was there yet.
fn nothing_yet(error: &Error) -> bool {
    error.code() == Some("NOGROUP")
        || matches!(error, Error::Redis(error) if error.detail().is_some_and(|d| d.contains("no such key")))
}

impl Streams {
    /// The queue, its consumers and dead letters.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn queue_view(&self) -> Result<QueueView> {
        let group = self.group().await?;
        let after = group.as_ref().map_or("0-0", |group| group.last_delivered.as_str());
        let (jobs, dead) =
            (self.keys().jobs(JobKind::Generate), self.keys().dead(JobKind::Generate));
        let mut commands = Pipeline::with_capacity(5);
        commands.cmd("TIME");
        commands.cmd("XLEN").arg(&jobs);
        commands.cmd("XRANGE").arg(&jobs).arg(format!("({after}")).arg("+").arg("COUNT").arg(1);
        commands.cmd("XLEN").arg(&dead);
        commands.cmd("XREVRANGE").arg(&dead).arg("+").arg("-").arg("COUNT").arg(1);
        let mut answers = self.connection().await?.send_all(&commands, 5).await?.into_iter();
        let mut next = || answered(answers.next().unwrap_or(Value::Nil));
        let count = |value| redis::from_redis_value(value).map_err(|_| Error::Unexpected("XLEN"));
        let now = clock(next()?)?;
        let length: u64 = count(next()?)?;
        let oldest = raw_entries(next()?).into_iter().next();
        let dead_letters = count(next()?)?;
        let newest_dead = raw_entries(next()?).into_iter().next();
        let mut view = QueueView {
            oldest_waiting_ms: oldest.as_ref().map(|entry| age(&entry.id, now)),
            dead_letters,
            newest_dead_letter_ms: newest_dead.map(|entry| age(&entry.id, now)),
            ..QueueView::default()
        };
        // Redis can't always tell the lag; all but what is pending, then.
        let Some(group) = group else {
            view.waiting = length;
            return Ok(view);
        };
        if oldest.is_some() {
            view.waiting = group.lag.unwrap_or(length.saturating_sub(group.pending)).max(1);
        }
        view.pending = group.pending;
        view.consumers = self.consumers().await?;
        self.look_at_pending(&mut view, now).await?;
        Ok(view)
    }

    async fn look_at_pending(&self, view: &mut QueueView, now: u64) -> Result<()> {
        let mut start = "-".to_owned();
        while (view.looked_at as usize) < LOOKED_AT {
            let page = self.pending(&start, "+", PAGE).await?;
            for job in &page {
                view.looked_at += 1;
                view.oldest_pending_ms.get_or_insert(age(&job.entry, now));
                view.longest_idle_ms = view.longest_idle_ms.max(Some(job.idle_ms));
                view.most_deliveries = view.most_deliveries.max(job.deliveries);
                view.redelivered += u64::from(job.deliveries > 1);
                if let Some(c) = view.consumers.iter_mut().find(|c| c.name == job.consumer) {
                    c.longest_idle_ms = c.longest_idle_ms.max(Some(job.idle_ms));
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => start = format!("({}", last.entry),
                _ => break,
            }
        }
        Ok(())
    }

    /// The workers' group, if there is one.
    pub(super) async fn group(&self) -> Result<Option<Group>> {
        let mut connected = self.connection().await?;
        let groups = connected
            .send(cmd("XINFO").arg("GROUPS").arg(self.keys().jobs(JobKind::Generate)))
            .await;
        let groups = match groups.and_then(answered) {
            Err(error) if nothing_yet(&error) => return Ok(None),
            groups => groups?,
        };
        let groups: Vec<HashMap<String, Value>> =
            redis::from_redis_value(groups).map_err(|_| Error::Unexpected("XINFO GROUPS"))?;
        Ok(groups.into_iter().find_map(|mut group| {
            (field::<String>(&mut group, "name")? == GROUP).then_some(())?;
            Some(Group {
                pending: field(&mut group, "pending")?,
                last_delivered: field(&mut group, "last-delivered-id")?,
                lag: field::<Option<u64>>(&mut group, "lag").flatten(),
            })
        }))
    }

    async fn consumers(&self) -> Result<Vec<ConsumerView>> {
        let mut connected = self.connection().await?;
        let mut command = cmd("XINFO");
        command.arg("CONSUMERS").arg(self.keys().jobs(JobKind::Generate)).arg(GROUP);
        let consumers = match connected.send(&command).await.and_then(answered) {
            Err(error) if nothing_yet(&error) => return Ok(Vec::new()),
            consumers => consumers?,
        };
        let consumers: Vec<HashMap<String, Value>> =
            redis::from_redis_value(consumers).map_err(|_| Error::Unexpected("XINFO CONSUMERS"))?;
        let view = |mut consumer| {
            Some(ConsumerView {
                name: field(&mut consumer, "name")?,
                pending: field(&mut consumer, "pending")?,
                idle_ms: field(&mut consumer, "idle")?,
                longest_idle_ms: None,
            })
        };
        Ok(consumers.into_iter().filter_map(view).collect())
    }

    async fn pending(&self, start: &str, end: &str, count: usize) -> Result<Vec<Pending>> {
        let mut command = cmd("XPENDING");
        command.arg(self.keys().jobs(JobKind::Generate)).arg(GROUP).arg(start).arg(end).arg(count);
        let pending = match self.connection().await?.send(&command).await.and_then(answered) {
            Err(error) if nothing_yet(&error) => return Ok(Vec::new()),
            pending => pending?,
        };
        let pending: Vec<(String, String, u64, u64)> =
            redis::from_redis_value(pending).map_err(|_| Error::Unexpected("XPENDING"))?;
        let job = |(entry, consumer, idle_ms, deliveries)| Pending {
            entry,
            consumer,
            idle_ms,
            deliveries,
        };
        Ok(pending.into_iter().map(job).collect())
    }

    /// Who has the job, for how long it was not renewed, and how often it was
    /// delivered; nothing if nobody has it.
    pub(super) async fn holder(&self, entry: &str) -> Result<Option<(String, u64, u64)>> {
        let job = self.pending(entry, entry, 1).await?.pop();
        Ok(job.map(|job| (job.consumer, job.idle_ms, job.deliveries)))
    }
}
