//! Every Redis key and channel that rill uses, with its form.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `rill:{p}:task:<task_id>` | stream, TTL | the task's events |
//! | `rill:{p}:wake:<task_id>` | channel | wake-up hints; payload: the newest event ID |
//! | `rill:{jobs}` | stream, group `workers` | tasks to run |
//! | `rill:{jobs}:dead` | stream, bounded | what was given up on, and why |
//! | `rill:cancel` | channel | cancel hints; payload: the task's ID |
//! | `rill:{bell}:<tail>:<n>` | stream, TTL | ends a blocking read early, so that a new key can join it |
//!
//! `{p}` is the task's partition and a hash tag, so a task's key and channel
//! share a slot on Redis Cluster. `rill` is the prefix, which can be changed.

use uuid::Uuid;

use crate::domain::TaskId;

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

    pub(crate) fn task(&self, task: TaskId) -> String {
        format!("{}:{{{}}}:task:{task}", self.prefix, task.partition())
    }

    pub(crate) fn wake(&self, task: TaskId) -> String {
        format!("{}:{{{}}}:wake:{task}", self.prefix, task.partition())
    }

    /// The task whose wake-up channel this is.
    pub(crate) fn woken(&self, channel: &[u8]) -> Option<TaskId> {
        let channel = std::str::from_utf8(channel).ok()?;
        let (_, task) = channel.strip_prefix(&self.prefix)?.rsplit_once(":wake:")?;
        task.parse().ok()
    }

    pub(crate) fn jobs(&self) -> String {
        format!("{}:{{jobs}}", self.prefix)
    }

    pub(crate) fn dead(&self) -> String {
        format!("{}:{{jobs}}:dead", self.prefix)
    }

    pub(crate) fn cancel(&self) -> String {
        format!("{}:cancel", self.prefix)
    }

    pub(crate) fn bell(&self, tail: Uuid, shard: usize) -> String {
        format!("{}:{{bell}}:{tail}:{shard}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_channel_names_its_task() {
        let keys = Keys::new("rill");
        let task = TaskId::generate();
        assert_eq!(keys.woken(keys.wake(task).as_bytes()), Some(task));
        assert_eq!(keys.woken(keys.cancel().as_bytes()), None);
        assert_eq!(Keys::new("other").woken(keys.wake(task).as_bytes()), None);
    }

    #[test]
    fn a_tasks_key_and_channel_share_a_hash_tag() {
        let keys = Keys::new("rill");
        let task = TaskId::generate();
        let tag = |key: String| {
            let (_, rest) = key.split_once('{').expect("has a tag");
            rest.split_once('}').expect("ends").0.to_owned()
        };
        assert_eq!(tag(keys.task(task)), tag(keys.wake(task)));
    }
}
