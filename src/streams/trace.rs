//! A task's traces in Redis: its jobs, its stream, its dead letters. Read only,
//! page by page.

use std::time::Duration;

use redis::{Pipeline, Value, cmd};
use serde::Serialize;

use super::dead::{DeadLetter, age, clock};
use super::entry::{page, raw_entries};
use super::history::{FIRST_PAGE, next_page};
use super::queue::Delivery;
use super::{Error, Result, Streams, answered};
use crate::domain::{Event, EventId, EventName, JobKind, StoredName, TaskId};

/// Entries that one command asks for, of the queue and the dead letters.
const PAGE: usize = 1_000;
/// Jobs that are looked at in all.
const JOBS: usize = 100_000;
/// Events that are looked at in all: a stream has about 10,000 by default.
const EVENTS: usize = 100_000;

/// A task's traces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// Its entries in the job stream; a duplicate is harmless.
    pub jobs: Vec<JobTrace>,
    /// Only so many of the oldest jobs were looked at; nothing: all of them.
    pub jobs_looked_at: Option<usize>,
    /// Its stream, if there is one.
    pub stream: Option<StreamTrace>,
    /// Dead letters that name it.
    pub dead_letters: Vec<DeadLetter>,
}

/// An entry of the job stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobTrace {
    /// Which.
    pub entry: String,
    /// It was added so long ago.
    pub age_ms: u64,
    /// Jobs before it that were not delivered either; nothing once it was.
    pub waiting_behind: Option<usize>,
    /// The worker that has it.
    pub consumer: Option<String>,
    /// That worker has not renewed it for so long.
    pub idle_ms: Option<u64>,
    /// How often it was delivered.
    pub deliveries: Option<u64>,
}

/// A task's stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamTrace {
    /// Its key.
    pub key: String,
    /// Events that it holds.
    pub events: u64,
    /// The oldest event that it holds.
    pub first: Option<String>,
    /// The newest.
    pub last: Option<String>,
    /// The newest's name.
    pub last_event: Option<String>,
    /// Until it expires; nothing: it never does, which is a defect.
    pub expires_in_ms: Option<u64>,
    /// What each attempt wrote.
    pub attempts: Vec<AttemptTrace>,
}

/// What one attempt wrote, as far as it is still there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AttemptTrace {
    /// Which.
    pub attempt: u32,
    /// Its events, by name, in the order in which they came first.
    pub events: serde_json::Map<String, serde_json::Value>,
    /// The model had finished.
    pub complete: bool,
    /// Why it failed, where another followed.
    pub retrying: Option<String>,
    /// The terminal event's name.
    pub terminal: Option<String>,
}

impl AttemptTrace {
    fn count(&mut self, name: &StoredName, data: &[u8]) {
        let count = self.events.entry(name.as_str()).or_insert_with(|| 0.into());
        *count = (count.as_u64().unwrap_or(0) + 1).into();
        self.complete |= *name == EventName::Complete;
        if name.is_terminal() {
            self.terminal = Some(name.to_string());
        }
        if *name == EventName::Retrying
            && let Ok(Event::Retrying { code, .. }) = Event::decode(EventName::Retrying, data)
        {
            self.retrying = Some(code);
        }
    }
}

impl Streams {
    /// Looks for all that Redis has of a task.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn trace(&self, task: TaskId) -> Result<Trace> {
        let (jobs, jobs_looked_at) = self.jobs_of(task).await?;
        let stream = self.stream_of(task).await?;
        let mut dead_letters = Vec::new();
        let mut before = None;
        loop {
            let letters = self.dead_letters(before.as_deref(), PAGE).await?;
            let full = letters.len() == PAGE;
            before = letters.last().map(|letter| letter.letter.clone());
            dead_letters.extend(letters.into_iter().filter(|letter| letter.task == Some(task)));
            if !full {
                break;
            }
        }
        Ok(Trace { jobs, jobs_looked_at, stream, dead_letters })
    }

    async fn jobs_of(&self, task: TaskId) -> Result<(Vec<JobTrace>, Option<usize>)> {
        let key = self.keys().jobs(JobKind::Generate);
        let delivered = self.group().await?.map(|group| order(&group.last_delivered));
        let delivered = delivered.flatten().unwrap_or((0, 0));
        let (mut jobs, mut looked_at, mut waiting) = (Vec::new(), 0, 0);
        let mut start = "-".to_owned();
        loop {
            let mut commands = Pipeline::with_capacity(2);
            commands.cmd("TIME");
            commands.cmd("XRANGE").arg(&key).arg(&start).arg("+").arg("COUNT").arg(PAGE);
            let mut answers = self.connection().await?.send_all(&commands, 2).await?.into_iter();
            let now = clock(answered(answers.next().unwrap_or(Value::Nil))?)?;
            let entries = raw_entries(answered(answers.next().unwrap_or(Value::Nil))?);
            let (full, last) = (entries.len() == PAGE, entries.last().map(|e| e.id.clone()));
            looked_at += entries.len();
            for entry in entries {
                let is_waiting = order(&entry.id).is_some_and(|id| id > delivered);
                let job = Delivery::from(entry);
                if job.task == Some(task) {
                    let holder = self.holder(&job.entry).await?;
                    jobs.push(JobTrace {
                        age_ms: age(&job.entry, now),
                        waiting_behind: is_waiting.then_some(waiting),
                        consumer: holder.as_ref().map(|(name, ..)| name.clone()),
                        idle_ms: holder.as_ref().map(|(_, idle, _)| *idle),
                        deliveries: holder.map(|(.., deliveries)| deliveries),
                        entry: job.entry,
                    });
                }
                waiting += usize::from(is_waiting);
            }
            match last {
                Some(_) if full && looked_at >= JOBS => return Ok((jobs, Some(looked_at))),
                Some(last) if full => start = format!("({last}"),
                _ => return Ok((jobs, None)),
            }
        }
    }

    async fn stream_of(&self, task: TaskId) -> Result<Option<StreamTrace>> {
        let key = self.keys().task(task);
        let mut commands = Pipeline::with_capacity(2);
        commands.cmd("XLEN").arg(&key);
        commands.cmd("PTTL").arg(&key);
        let mut answers = self.connection().await?.send_all(&commands, 2).await?.into_iter();
        let mut number = || -> Result<i64> {
            let answer = answered(answers.next().unwrap_or(Value::Nil))?;
            redis::from_redis_value(answer).map_err(|_| Error::Unexpected("XLEN or PTTL"))
        };
        let (length, ttl) = (number()?, number()?);
        // -2: there is no such key.
        if ttl == -2 {
            return Ok(None);
        }
        let mut trace = StreamTrace {
            key,
            events: u64::try_from(length).unwrap_or(0),
            first: None,
            last: None,
            last_event: None,
            expires_in_ms: u64::try_from(ttl).ok(),
            attempts: Vec::new(),
        };
        self.read_events(&mut trace).await?;
        Ok(Some(trace))
    }

    async fn read_events(&self, trace: &mut StreamTrace) -> Result<()> {
        let (mut after, mut looked_at, mut count) = (EventId::START, 0, FIRST_PAGE);
        while looked_at < EVENTS {
            let mut command = cmd("XRANGE");
            command.arg(&trace.key).arg(format!("({after}")).arg("+").arg("COUNT").arg(count);
            let page = page(answered(self.connection().await?.send(&command).await?)?);
            let Some(last) = page.last else { break };
            looked_at += page.len;
            count = next_page(count, page.bytes);
            for entry in &page.entries {
                trace.first.get_or_insert_with(|| entry.id.to_string());
                trace.last = Some(entry.id.to_string());
                trace.last_event = Some(entry.name.to_string());
                if trace.attempts.last().is_none_or(|last| last.attempt != entry.id.attempt) {
                    let attempt = entry.id.attempt;
                    trace.attempts.push(AttemptTrace { attempt, ..AttemptTrace::default() });
                }
                if let Some(attempt) = trace.attempts.last_mut() {
                    attempt.count(&entry.name, &entry.data);
                }
            }
            after = last;
            // Redis has other things to do as well.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

/// The two numbers of an entry's ID, which order entries.
fn order(id: &str) -> Option<(u64, u64)> {
    let (ms, seq) = id.split_once('-')?;
    Some((ms.parse().ok()?, seq.parse().ok()?))
}
