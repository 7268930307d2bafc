//! Every Redis key and channel that rill uses, with its form.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `rill:{p}:task:<task_id>` | stream, TTL | the task's events |
//! | `rill:wake` | channel | wake-up hints; payload: lines of a task's ID and its newest event's |
//! | `rill:{jobs}:<kind>` | stream, group `workers` | jobs of a kind; of `generate`, tasks to run |
//! | `rill:{jobs}:<kind>:dead` | stream, bounded | what was given up on, and why |
//! | `rill:deployment` | string | the ID of the deployment that the prefix belongs to |
//! | `rill:cancel` | channel | cancel hints; payload: the task's ID |
//! | `rill:{bell}:<tail>:<n>` | stream, TTL | ends a blocking read early, so that a new key can join it |
//!
//! `{p}` is the task's partition and a hash tag, so that on Redis Cluster one
//! read has the streams of a partition. `rill` is the prefix, which can be changed.

use uuid::Uuid;

use crate::domain::{JobKind, TaskId};

/// The consumer group of the job stream.
pub(crate) const GROUP: &str = "workers";

/// Makes keys under one prefix.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn task(&self, task: TaskId) -> String {
        format!("{}:{{{}}}:task:{task}", self.prefix, task.partition())
    }

    pub(crate) fn wake(&self) -> String {
        format!("{}:wake", self.prefix)
    }

    pub(crate) fn jobs(&self, kind: JobKind) -> String {
        format!("{}:{{jobs}}:{kind}", self.prefix)
    }

    pub(crate) fn dead(&self, kind: JobKind) -> String {
        format!("{}:{{jobs}}:{kind}:dead", self.prefix)
    }

    pub(crate) fn deployment(&self) -> String {
        format!("{}:deployment", self.prefix)
    }

    pub(crate) fn cancel(&self) -> String {
        format!("{}:cancel", self.prefix)
    }

    pub(crate) fn bell(&self, tail: Uuid, shard: usize) -> String {
        format!("{}:{{bell}}:{tail}:{shard}", self.prefix)
    }
}
