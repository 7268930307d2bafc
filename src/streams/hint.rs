//! What a wake-up hint says: which tasks' streams have which new event.
//!
//! One channel carries all hints, and one message those of a whole round trip
//! of appends, a line for each: so a batch of appends costs Redis one
//! `PUBLISH`, and an API one message. A process reads lines of tasks that it
//! doesn't follow, too; that is a look-up each.

use crate::domain::{EventId, TaskId};

/// Hints, as they are published.
#[derive(Debug, Default)]
pub(super) struct Hints(String);

impl Hints {
    /// One task's hint.
    pub(super) fn of(task: TaskId, event: EventId) -> Self {
        let mut hints = Self::default();
        hints.push(task, event);
        hints
    }

    pub(super) fn push(&mut self, task: TaskId, event: EventId) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(task.0.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()));
        self.0.push(' ');
        self.0.push_str(&event.text());
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The hints of a message. What can't be read is left out: a hint may get lost.
pub(super) fn read(message: &[u8]) -> impl Iterator<Item = (TaskId, EventId)> {
    std::str::from_utf8(message).unwrap_or_default().lines().filter_map(|line| {
        let (task, event) = line.split_once(' ')?;
        Some((task.parse().ok()?, event.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_read_as_they_were_written_and_rubbish_is_left_out() {
        let tasks = [TaskId::generate(), TaskId::generate()];
        let mut hints = Hints::of(tasks[0], EventId::new(1, 17));
        hints.push(tasks[1], EventId::new(3, 0));
        let written: Vec<_> = read(hints.as_str().as_bytes()).collect();
        assert_eq!(written, [(tasks[0], EventId::new(1, 17)), (tasks[1], EventId::new(3, 0))]);
        let odd = format!("rubbish\n{} x\n \n\n{} 1-2\nx 1-1", tasks[0], tasks[1]);
        assert_eq!(read(odd.as_bytes()).collect::<Vec<_>>(), [(tasks[1], EventId::new(1, 2))]);
        assert_eq!(read(b"\xff").count(), 0);
    }
}
