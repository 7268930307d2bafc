//! A task's stream, read back by whoever continues what an earlier attempt left.

use std::time::Duration;

use redis::cmd;

use super::entry::{page, raw_entries};
use super::{Entry, Result, Streams, answered};
use crate::domain::answer::Completion;
use crate::domain::{Answer, Event, EventId, TaskId};

/// What earlier attempts left in a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The text of the newest attempt, as far as it goes without a gap.
    pub answer: Answer,
    /// The model had finished it, and nothing of it is missing: it can be
    /// committed without calling the model again.
    pub completion: Option<Completion>,
}

impl History {
    /// Folds entries, oldest first.
    pub(crate) fn fold(stored: &[Entry]) -> Self {
        let mut history = Self::default();
        let Some(newest) = stored.last().map(|entry| entry.id.attempt) else { return history };
        let mut expected = None;
        for entry in stored.iter().filter(|entry| entry.id.attempt == newest) {
            if entry.name.is_reset() {
                expected = Some(entry.id.seq);
            }
            if expected != Some(entry.id.seq) {
                // A gap: what follows it is worth nothing until a reset.
                expected = None;
                continue;
            }
            expected = entry.id.seq.checked_add(1);
            let Ok(event) = Event::decode(entry.name, &entry.data) else {
                expected = None;
                continue;
            };
            history.answer.apply(&event);
            if let Event::Complete { finish_reason, usage } = event {
                history.completion = Some(Completion { finish_reason, usage });
            }
        }
        history
    }
}

impl Streams {
    /// Reads what earlier attempts left. Empty when the stream is gone.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn history(&self, task: TaskId) -> Result<History> {
        let key = self.keys().task(task);
        let mut stored = Vec::new();
        let mut after = EventId::START;
        loop {
            let mut connected = self.connection().await?;
            let mut command = cmd("XRANGE");
            command.arg(&key).arg(format!("({after}")).arg("+").arg("COUNT").arg(500);
            let page = page(answered(connected.send(&command).await?)?);
            let Some(last) = page.last else { break };
            after = last;
            let page = page.entries;
            // Only the newest attempt counts, and of it only what follows its
            // last reset: the rest need not be held.
            let newest = stored.len() + page.iter().rposition(|e| e.name.is_reset()).unwrap_or(0);
            let reset = page.iter().any(|entry| entry.name.is_reset());
            stored.extend(page);
            if reset {
                stored.drain(..newest);
            }
        }
        Ok(History::fold(&stored))
    }

    /// The stream holds the entry.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn holds(&self, task: TaskId, id: EventId) -> Result<bool> {
        let mut connected = self.inner.link.get(Duration::from_millis(500)).await?;
        let mut command = cmd("XRANGE");
        command.arg(self.keys().task(task)).arg(id.to_string()).arg(id.to_string());
        Ok(!raw_entries(answered(connected.send(&command).await?)?).is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(attempt: u32, seq: u64, event: &Event) -> Entry {
        let encoded = event.encode();
        Entry { id: EventId::new(attempt, seq), name: encoded.name, data: encoded.data.into() }
    }

    fn delta(text: &str) -> Event {
        Event::Delta { text: text.into() }
    }

    fn complete() -> Event {
        Event::Complete { finish_reason: "stop".into(), usage: None }
    }

    fn started(attempt: u32) -> Event {
        Event::Started { attempt, model: "m".into() }
    }

    #[test]
    fn a_whole_history_is_complete() {
        let history = History::fold(&[
            entry(1, 0, &started(1)),
            entry(1, 1, &delta("x")),
            entry(2, 0, &started(2)),
            entry(2, 1, &delta("a")),
            entry(2, 2, &delta("b")),
            entry(2, 3, &complete()),
        ]);
        assert_eq!(history.answer.text, "ab");
        assert!(history.completion.is_some());
    }

    #[test]
    fn a_history_with_a_gap_is_not_complete() {
        let history = History::fold(&[
            entry(1, 0, &started(1)),
            entry(1, 1, &delta("a")),
            entry(1, 3, &delta("c")),
            entry(1, 4, &complete()),
        ]);
        assert_eq!(history.answer.text, "a");
        assert!(history.completion.is_none());
    }

    #[test]
    fn a_snapshot_mends_a_gap() {
        let whole = Answer { text: "abc".into(), ..Answer::default() };
        let history = History::fold(&[
            entry(1, 7, &delta("c")),
            entry(1, 8, &Event::Snapshot(whole)),
            entry(1, 9, &delta("d")),
            entry(1, 10, &complete()),
        ]);
        assert_eq!(history.answer.text, "abcd");
        assert!(history.completion.is_some());
    }

    #[test]
    fn nothing_follows_the_last_id_that_there_is() {
        let whole = Answer { text: "abc".into(), ..Answer::default() };
        let history = History::fold(&[entry(1, u64::MAX, &Event::Snapshot(whole))]);
        assert_eq!(history.answer.text, "abc");
    }
}
