//! Dead letters: what was given up on, and why, for people to look at. Newest
//! first; about 10,000 are kept.

use redis::{Value, cmd};
use serde::Serialize;

use super::entry::{RawEntry, raw_entries};
use super::{Error, Result, Streams, answered};
use crate::domain::{JobKind, TaskId};

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// Its ID.
    pub letter: String,
    /// How old it is, on Redis' clock.
    pub age_ms: u64,
    /// The task that was given up on; nothing if the job was malformed.
    pub task: Option<TaskId>,
    /// The job's entry.
    pub entry: Option<String>,
    /// Why.
    pub why: String,
    /// The fields of a job that named no task, as JSON; cut off at 4 KiB.
    pub job: Option<String>,
}

impl DeadLetter {
    fn new(raw: RawEntry, now: u64) -> Self {
        let text = |name| raw.field(name).map(|value| String::from_utf8_lossy(value).into_owned());
        Self {
            age_ms: age(&raw.id, now),
            task: text("task").and_then(|task| task.parse().ok()),
            entry: text("entry").filter(|entry| !entry.is_empty()),
            why: text("why").unwrap_or_default(),
            job: text("job"),
            letter: raw.id,
        }
    }
}

/// How old an entry is whose ID Redis made, in milliseconds.
pub(super) fn age(id: &str, now: u64) -> u64 {
    id.split_once('-').and_then(|(ms, _)| ms.parse().ok()).map_or(0, |at| now.saturating_sub(at))
}

/// Redis' `TIME`, in milliseconds.
pub(super) fn clock(answer: Value) -> Result<u64> {
    let (seconds, micros): (u64, u64) =
        redis::from_redis_value(answer).map_err(|_| Error::Unexpected("TIME"))?;
    Ok(seconds * 1000 + micros / 1000)
}

/// The ID of an entry whose ID Redis made: two numbers.
pub fn is_letter(id: &str) -> bool {
    let number = |part: &str| part.parse::<u64>().is_ok();
    id.split_once('-').is_some_and(|(ms, seq)| number(ms) && number(seq))
}

impl Streams {
    /// Up to `limit` dead letters, the newest first; those older than `before`,
    /// if it is given.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn dead_letters(
        &self,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let end = before.map_or("+".to_owned(), |before| format!("({before}"));
        self.read_dead(&end, "-", limit).await
    }

    /// One dead letter.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn dead_letter_of(&self, id: &str) -> Result<Option<DeadLetter>> {
        Ok(self.read_dead(id, id, 1).await?.pop())
    }

    /// Removes dead letters; how many there were.
    ///
    /// # Errors
    /// When Redis is away; some may be gone.
    pub async fn drop_dead(&self, ids: &[String]) -> Result<u64> {
        let mut dropped = 0;
        for batch in ids.chunks(500) {
            let mut command = cmd("XDEL");
            command.arg(self.keys().dead(JobKind::Generate)).arg(batch);
            let answer = answered(self.connection().await?.send(&command).await?)?;
            dropped +=
                redis::from_redis_value::<u64>(answer).map_err(|_| Error::Unexpected("XDEL"))?;
        }
        Ok(dropped)
    }

    async fn read_dead(&self, end: &str, start: &str, limit: usize) -> Result<Vec<DeadLetter>> {
        let mut commands = redis::Pipeline::with_capacity(2);
        commands.cmd("TIME");
        commands.cmd("XREVRANGE").arg(self.keys().dead(JobKind::Generate)).arg(end).arg(start);
        commands.arg("COUNT").arg(limit);
        let mut answers = self.connection().await?.send_all(&commands, 2).await?.into_iter();
        let now = clock(answered(answers.next().unwrap_or(Value::Nil))?)?;
        let letters = raw_entries(answered(answers.next().unwrap_or(Value::Nil))?);
        Ok(letters.into_iter().map(|raw| DeadLetter::new(raw, now)).collect())
    }
}
