//! The job queue: a Redis stream and its consumer group, at-least-once.
//!
//! An entry names a task. It is delivered to one worker, stays pending while
//! the worker renews it, and is deleted when acknowledged. What a dead worker
//! leaves pending is claimed by others. Entries may be lost or doubled:
//! PostgreSQL knows which tasks must run, and the relay adds what is missing.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use redis::{Pipeline, Script, Value, cmd};

use super::blocking::BlockingPool;
use super::entry::{RawEntry, raw_entries, streams};
use super::keys::GROUP;
use super::{Error, Result, Streams, answered};
use crate::domain::{JobKind, TaskId, WorkerId};

/// Dead letters that are kept, about.
const DEAD_KEPT: u64 = 10_000;

/// Jobs that are renewed or acknowledged in one round trip at most.
const BATCH: usize = 256;

/// A job as it was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The entry, to acknowledge it by.
    pub entry: String,
    /// The task to run; nothing if the entry is malformed.
    pub task: Option<TaskId>,
}

impl From<RawEntry> for Delivery {
    fn from(raw: RawEntry) -> Self {
        let task = raw
            .field("task")
            .and_then(|task| std::str::from_utf8(task).ok())
            .and_then(|task| task.parse().ok());
        Self { entry: raw.id, task }
    }
}

/// Renews what the consumer still owns, and only that: `XCLAIM` by an old owner
/// would steal back an entry that another has claimed.
///
/// KEYS: the job stream. ARGV: group, consumer, entry IDs. Returns how many.
static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local renewed = 0
        for i = 3, #ARGV do
            local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])
            if #pending == 1 then
                redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
                renewed = renewed + 1
            end
        end
        return renewed
        ",
    )
});

/// Adds the job anew and removes the old entry, so that it is never in neither.
///
/// KEYS: the job stream. ARGV: group, old entry, task. Returns the new entry.
static HAND_BACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local entry = redis.call('XADD', KEYS[1], '*', 'task', ARGV[3])
        redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
        redis.call('XDEL', KEYS[1], ARGV[2])
        return entry
        ",
    )
});

/// Removes the job and keeps a letter in its place, at once: what died in between
/// would leave neither or both. A task whose job was doubled has one letter, as
/// far as the newest hundred tell.
///
/// KEYS: the job stream, the dead letters. ARGV: group, entry, how many letters
/// to keep, why, and the task, where it is known. Returns 1 if there is a new one.
/// Of a job that names no task, the letter keeps the fields (4 KiB of their JSON).
static BURY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local function kept()
            for _, letter in ipairs(redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 100)) do
                for i = 1, #letter[2], 2 do
                    if letter[2][i] == 'task' and letter[2][i + 1] == ARGV[5] then
                        return true
                    end
                end
            end
            return false
        end
        local added = 0
        if not ARGV[5] or not kept() then
            local letter = {'entry', ARGV[2], 'why', ARGV[4]}
            local job = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
            if ARGV[5] then
                table.insert(letter, 'task')
                table.insert(letter, ARGV[5])
            elseif job then
                table.insert(letter, 'job')
                table.insert(letter, string.sub(cjson.encode(job[2]), 1, 4096))
            end
            redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', unpack(letter))
            added = 1
        end
        redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
        redis.call('XDEL', KEYS[1], ARGV[2])
        return added
        ",
    )
});

/// Removes a consumer if it has nothing pending: `XGROUP DELCONSUMER` destroys
/// what is pending.
///
/// KEYS: the job stream. ARGV: group, consumer. Returns 1 if it is gone.
static FORGET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local pending = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
        if #pending > 0 then
            return 0
        end
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
        return 1
        ",
    )
});

/// The queue as one worker sees it.
#[derive(Debug, Clone)]
pub struct Consumer {
    streams: Streams,
    pool: BlockingPool,
    name: String,
    key: String,
    dead: String,
}

impl Streams {
    /// Adds a task to the queue, giving up after `wait`.
    ///
    /// # Errors
    /// When it may not have been added.
    pub async fn enqueue(&self, task: TaskId, wait: Duration) -> Result<()> {
        let add = async {
            let mut connected = self.inner.link.get(wait).await?;
            let mut command = cmd("XADD");
            command
                .arg(self.keys().jobs(JobKind::Generate))
                .arg("*")
                .arg("task")
                .arg(task.to_string());
            answered(connected.send(&command).await?)?;
            Ok(())
        };
        tokio::time::timeout(wait, add).await.unwrap_or(Err(Error::Disconnected))
    }

    /// Adds tasks to the queue, in one round trip.
    ///
    /// # Errors
    /// When some may not have been added.
    pub async fn enqueue_all(&self, tasks: &[TaskId]) -> Result<()> {
        for batch in tasks.chunks(BATCH) {
            let mut commands = Pipeline::with_capacity(batch.len());
            for task in batch {
                commands
                    .cmd("XADD")
                    .arg(self.keys().jobs(JobKind::Generate))
                    .arg("*")
                    .arg("task")
                    .arg(task.to_string());
            }
            let answers = self.connection().await?.send_all(&commands, batch.len()).await?;
            for answer in answers {
                answered(answer)?;
            }
        }
        Ok(())
    }

    /// How long the oldest job that was never delivered has waited, on Redis'
    /// clock; zero without a backlog.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn backlog_age(&self) -> Result<Duration> {
        let key = self.keys().jobs(JobKind::Generate);
        let mut connected = self.connection().await?;
        let groups = connected.send(cmd("XINFO").arg("GROUPS").arg(&key)).await.and_then(answered);
        let groups: Vec<HashMap<String, Value>> = match groups {
            Ok(groups) => {
                redis::from_redis_value(groups).map_err(|_| Error::Unexpected("XINFO GROUPS"))?
            }
            // No queue yet, and so no backlog.
            Err(Error::Redis(error))
                if error.detail().is_some_and(|d| d.contains("no such key")) =>
            {
                return Ok(Duration::ZERO);
            }
            Err(error) => return Err(error),
        };
        let delivered = groups
            .into_iter()
            .find(|group| matches!(group.get("name"), Some(Value::BulkString(name)) if name == GROUP.as_bytes()))
            .and_then(|mut group| group.remove("last-delivered-id"))
            .and_then(|id| redis::from_redis_value::<String>(id).ok())
            .unwrap_or_else(|| "0-0".to_owned());
        let mut commands = Pipeline::with_capacity(2);
        commands.cmd("XRANGE").arg(&key).arg(format!("({delivered}")).arg("+").arg("COUNT").arg(1);
        commands.cmd("TIME");
        let mut answers = connected.send_all(&commands, 2).await?.into_iter();
        let oldest =
            raw_entries(answered(answers.next().unwrap_or(Value::Nil))?).into_iter().next();
        let Some(oldest) = oldest else { return Ok(Duration::ZERO) };
        let (seconds, micros): (u64, u64) =
            redis::from_redis_value(answered(answers.next().unwrap_or(Value::Nil))?)
                .map_err(|_| Error::Unexpected("TIME"))?;
        let now = seconds * 1000 + micros / 1000;
        let added = oldest.id.split_once('-').and_then(|(ms, _)| ms.parse().ok()).unwrap_or(now);
        Ok(Duration::from_millis(now.saturating_sub(added)))
    }

    /// This worker's end of the queue of a kind of jobs.
    pub fn consumer(&self, kind: JobKind, worker: WorkerId) -> Consumer {
        Consumer {
            streams: self.clone(),
            pool: self.blocking_pool("jobs", 1),
            name: worker.to_string(),
            key: self.keys().jobs(kind),
            dead: self.keys().dead(kind),
        }
    }
}

impl Consumer {
    /// Makes the group, and the stream, if they are not there. From the
    /// beginning: what Redis still holds is delivered again, which is harmless.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn create_group(&self) -> Result<()> {
        let mut command = cmd("XGROUP");
        command.arg("CREATE").arg(&self.key).arg(GROUP).arg("0").arg("MKSTREAM");
        match self.streams.connection().await?.send(&command).await.and_then(answered) {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("BUSYGROUP") => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes up to `count` jobs, waiting up to `block` for the first.
    ///
    /// Never drop this future: the command goes on without it, and what it
    /// takes then is only found by [`Consumer::undelivered`].
    ///
    /// # Errors
    /// When Redis is away, or the group is gone ([`is_no_group`]).
    pub async fn take(&self, count: usize, block: Duration) -> Result<Vec<Delivery>> {
        let mut command = cmd("XREADGROUP");
        command.arg("GROUP").arg(GROUP).arg(&self.name).arg("COUNT").arg(count);
        command.arg("BLOCK").arg(u64::try_from(block.as_millis()).unwrap_or(1000).max(1));
        command.arg("STREAMS").arg(&self.key).arg(">");
        self.read(&command, block).await
    }

    /// Jobs that were delivered to this consumer and not acknowledged: those
    /// that it runs, and those whose delivery was lost with a connection.
    ///
    /// # Errors
    /// When Redis is away, or the group is gone.
    pub async fn undelivered(&self, count: usize) -> Result<Vec<Delivery>> {
        let mut command = cmd("XREADGROUP");
        command.arg("GROUP").arg(GROUP).arg(&self.name).arg("COUNT").arg(count);
        command.arg("STREAMS").arg(&self.key).arg("0");
        self.read(&command, Duration::ZERO).await
    }

    async fn read(&self, command: &redis::Cmd, block: Duration) -> Result<Vec<Delivery>> {
        let answer = answered(self.pool.read(command, block).await?)?;
        let jobs = streams(answer).into_iter().flat_map(|(_, entries)| raw_entries(entries));
        Ok(jobs.map(Delivery::from).collect())
    }

    /// Claims jobs that their consumer has not renewed for `idle`. Begins at
    /// `cursor`; answers with the next, `0-0` at the end.
    ///
    /// # Errors
    /// When Redis is away, or the group is gone.
    pub async fn reclaim(
        &self,
        idle: Duration,
        cursor: &str,
        count: usize,
    ) -> Result<(String, Vec<Delivery>)> {
        let mut command = cmd("XAUTOCLAIM");
        command.arg(&self.key).arg(GROUP).arg(&self.name);
        command.arg(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX));
        command.arg(cursor).arg("COUNT").arg(count);
        let answer = answered(self.streams.connection().await?.send(&command).await?)?;
        let Value::Array(parts) = answer else { return Err(Error::Unexpected("XAUTOCLAIM")) };
        let mut parts = parts.into_iter();
        let next = parts.next().unwrap_or(Value::Nil);
        let next = redis::from_redis_value(next).map_err(|_| Error::Unexpected("XAUTOCLAIM"))?;
        let jobs = raw_entries(parts.next().unwrap_or(Value::Nil));
        Ok((next, jobs.into_iter().map(Delivery::from).collect()))
    }

    /// Renews the lease on jobs that this consumer still owns.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn renew(&self, entries: &[String]) -> Result<()> {
        for batch in entries.chunks(BATCH) {
            self.run(&RENEW, batch).await?;
        }
        Ok(())
    }

    /// The job is done with: acknowledged and deleted.
    ///
    /// # Errors
    /// When Redis is away; it is then delivered again, which is harmless.
    pub async fn acknowledge(&self, entry: &str) -> Result<()> {
        // A transaction: what is acknowledged and not deleted would never be
        // delivered again, and stay for ever.
        let mut commands = Pipeline::with_capacity(4);
        commands.cmd("MULTI");
        commands.cmd("XACK").arg(&self.key).arg(GROUP).arg(entry);
        commands.cmd("XDEL").arg(&self.key).arg(entry);
        commands.cmd("EXEC");
        let answers = self.streams.connection().await?.send_all(&commands, 4).await?;
        answered(answers.into_iter().last().unwrap_or(Value::Nil))?;
        Ok(())
    }

    /// The job is given up on: it becomes a dead letter, for people to look at.
    ///
    /// # Errors
    /// When Redis is away; it is then delivered again.
    pub async fn bury(&self, job: &Delivery, why: &str) -> Result<()> {
        let mut connected = self.streams.connection().await?;
        let mut invocation = BURY.key(&self.key);
        invocation.key(&self.dead);
        invocation.arg(GROUP).arg(&job.entry).arg(DEAD_KEPT).arg(why);
        if let Some(task) = job.task {
            invocation.arg(task.to_string());
        }
        connected.run(&invocation).await?;
        Ok(())
    }

    /// Gives the job to somebody else, at the end of the queue.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn hand_back(&self, entry: &str, task: TaskId) -> Result<()> {
        let mut connected = self.streams.connection().await?;
        let mut invocation = HAND_BACK.key(&self.key);
        invocation.arg(GROUP).arg(entry).arg(task.to_string());
        connected.run(&invocation).await?;
        Ok(())
    }

    /// Removes consumers that have been idle for `idle` and have nothing pending.
    ///
    /// # Errors
    /// When Redis is away, or the group is gone.
    pub async fn forget_dead(&self, idle: Duration) -> Result<()> {
        let mut connected = self.streams.connection().await?;
        let consumers = answered(
            connected.send(cmd("XINFO").arg("CONSUMERS").arg(&self.key).arg(GROUP)).await?,
        )?;
        let consumers: Vec<HashMap<String, Value>> =
            redis::from_redis_value(consumers).map_err(|_| Error::Unexpected("XINFO CONSUMERS"))?;
        for mut consumer in consumers {
            let mut take = |field| consumer.remove(field).unwrap_or(Value::Nil);
            let name: String = redis::from_redis_value(take("name"))
                .map_err(|_| Error::Unexpected("XINFO CONSUMERS"))?;
            let quiet: u64 = redis::from_redis_value(take("idle"))
                .map_err(|_| Error::Unexpected("XINFO CONSUMERS"))?;
            if name != self.name && Duration::from_millis(quiet) > idle {
                self.forget(&name).await?;
            }
        }
        Ok(())
    }

    /// This worker stops: it leaves no consumer behind, unless it left jobs.
    ///
    /// # Errors
    /// When Redis is away; others remove it later.
    pub async fn leave(&self) -> Result<()> {
        self.forget(&self.name).await
    }

    async fn forget(&self, name: &str) -> Result<()> {
        let mut connected = self.streams.connection().await?;
        let mut invocation = FORGET.key(&self.key);
        invocation.arg(GROUP).arg(name);
        connected.run(&invocation).await?;
        Ok(())
    }

    async fn run(&self, script: &Script, entries: &[String]) -> Result<()> {
        let mut connected = self.streams.connection().await?;
        let mut invocation = script.key(&self.key);
        invocation.arg(GROUP).arg(&self.name);
        for entry in entries {
            invocation.arg(entry);
        }
        connected.run(&invocation).await?;
        Ok(())
    }
}

/// The group or its stream is gone (`FLUSHALL`): make it again.
pub fn is_no_group(error: &Error) -> bool {
    error.code() == Some("NOGROUP")
}
