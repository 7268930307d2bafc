//! A task's stream, read back by whoever continues what an earlier attempt left.

use std::time::Duration;

use bytes::Bytes;
use redis::cmd;

use super::entry::{EventFields, RawEntry, raw_entries};
use super::{Entry, Result, Streams, answered};
use crate::domain::answer::Completion;
use crate::domain::{Answer, Class, Event, EventId, TaskId};

/// Entries that one command asks for at most, and first.
const PAGE: usize = 500;
pub(super) const FIRST_PAGE: usize = 50;
/// Bytes that one page should have.
const PAGE_BYTES: usize = 256 * 1024;
/// Histories that a process reads at the same time: each may be many times an answer.
pub(super) const AT_ONCE: usize = 8;

/// What earlier attempts left in a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The newest attempt that wrote something; 0 if none did.
    pub attempt: u32,
    /// The text of the newest attempt, as far as it goes without a gap and
    /// without content that only a newer version understands.
    pub answer: Answer,
    /// The model had finished it, and nothing of it is missing: it can be
    /// committed without calling the model again.
    pub completion: Option<Completion>,
    /// A newer version's content is in it, which this one can't continue.
    pub says_more: bool,
}

/// Folds a stream's entries, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Fold {
    history: History,
    /// The seq that comes next; nothing inside a gap.
    expected: Option<u64>,
}

impl Fold {
    /// `opaque`: the entry's field `o`.
    pub(crate) fn take(&mut self, entry: &Entry, opaque: Option<&[u8]>) {
        let Self { history, expected } = self;
        if entry.id.attempt > history.attempt {
            // Only the newest attempt counts.
            *history = History { attempt: entry.id.attempt, ..History::default() };
            *expected = None;
        }
        if entry.name.class() == Class::Reset {
            *expected = Some(entry.id.seq);
            history.says_more = false;
        }
        if *expected != Some(entry.id.seq) {
            // A gap: what follows it is worth nothing until a reset.
            *expected = None;
            return;
        }
        *expected = entry.id.seq.checked_add(1);
        let Some(name) = entry.name.known() else {
            history.says_more |= entry.name.class() == Class::Content;
            return;
        };
        let Ok(mut event) = Event::decode(name, &entry.data) else {
            *expected = None;
            return;
        };
        if let (Event::Snapshot(answer), Some(opaque)) = (&mut event, opaque) {
            answer.opaque = serde_json::from_slice(opaque).unwrap_or_default();
        }
        if !history.says_more {
            history.answer.apply(&event);
            history.says_more = event.leaves_content_out(&entry.data);
        }
        match event {
            Event::Complete { finish_reason, usage } if !history.says_more => {
                history.completion = Some(Completion { finish_reason, usage });
            }
            // The attempt has failed: nobody needs to understand what it said.
            Event::Retrying { .. } => history.says_more = false,
            _ => {}
        }
    }

    pub(crate) fn history(self) -> History {
        self.history
    }

    /// Takes an entry as Redis has it; its ID, an event's or not.
    fn take_raw(&mut self, raw: &RawEntry) -> Option<EventId> {
        let id = raw.id.parse().ok()?;
        let mut fields = EventFields::default();
        raw.fields.iter().for_each(|(field, value)| fields.take(field, value));
        if let Some(entry) = fields.event(id, Bytes::copy_from_slice) {
            self.take(&entry, fields.opaque());
        }
        Some(id)
    }
}

impl History {
    /// Folds entries, oldest first.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn fold(stored: &[Entry]) -> Self {
        let mut fold = Fold::default();
        stored.iter().for_each(|entry| fold.take(entry, None));
        fold.history()
    }
}

/// Entries of the next page, where one of `count` had so many bytes.
pub(super) fn next_page(count: usize, bytes: usize) -> usize {
    (count * PAGE_BYTES / bytes.max(1)).clamp(1, (4 * count).min(PAGE))
}

impl Streams {
    /// Reads what earlier attempts left. Empty when the stream is gone.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn history(&self, task: TaskId) -> Result<History> {
        let key = self.keys().task(task);
        let mut fold = Fold::default();
        let mut after = EventId::START;
        // Never closed, so this can't fail.
        let _turn = self.inner.histories.acquire().await.ok();
        let mut count = FIRST_PAGE;
        loop {
            let mut connected = self.connection().await?;
            let mut command = cmd("XRANGE");
            command.arg(&key).arg(format!("({after}")).arg("+").arg("COUNT").arg(count);
            let page = raw_entries(answered(connected.send(&command).await?)?);
            let last = page.iter().filter_map(|raw| fold.take_raw(raw)).last();
            let Some(last) = last else { break };
            after = last;
            count = next_page(count, page.iter().map(RawEntry::bytes).sum());
        }
        Ok(fold.history())
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
    use crate::domain::StoredName;
    use crate::domain::opaque::OpaqueData;

    #[test]
    fn pages_have_as_many_entries_as_fit_and_grow_step_by_step() {
        assert_eq!(next_page(FIRST_PAGE, FIRST_PAGE * 100), 4 * FIRST_PAGE);
        assert_eq!(next_page(400, 400 * 100), PAGE);
        assert_eq!(next_page(PAGE, PAGE * 16 * 1024), 16);
        assert_eq!(next_page(16, 16 * 4 * PAGE_BYTES), 1);
        // The stream ends in a page that is not full.
        assert_eq!(next_page(1, 0), 4);
    }

    fn entry(attempt: u32, seq: u64, event: &Event) -> Entry {
        let encoded = event.encode();
        Entry::new(EventId::new(attempt, seq), encoded.name, encoded.data)
    }

    fn delta(text: &str) -> Event {
        Event::Delta { text: text.into() }
    }

    fn complete() -> Event {
        Event::Complete { finish_reason: "stop".into(), usage: None }
    }

    fn started(attempt: u32) -> Event {
        Event::Started {
            attempt,
            model: "m".into(),
            dropped_parameters: Vec::new(),
            prompt_begins_with: None,
        }
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

    fn newer(attempt: u32, seq: u64, name: &str, data: &str) -> Entry {
        let name = StoredName::read(name.as_bytes()).expect("a name");
        Entry::new(EventId::new(attempt, seq), name, data.to_owned())
    }

    #[test]
    fn newer_versions_events_keep_their_place_and_only_their_content_stops_the_fold() {
        let whole = |name: &str| {
            History::fold(&[
                entry(1, 0, &started(1)),
                entry(1, 1, &delta("a")),
                newer(1, 2, name, "{}"),
                entry(1, 3, &delta("b")),
                entry(1, 4, &complete()),
            ])
        };
        for name in ["status", "internal.checkpoint"] {
            let history = whole(name);
            assert!(history.completion.is_some() && !history.says_more, "{name}");
            assert_eq!(history.answer.text, "ab");
        }
        let history = whole("content.citation");
        assert!(history.completion.is_none() && history.says_more);
        assert_eq!((history.answer.text.as_str(), history.attempt), ("a", 1));
    }

    #[test]
    fn a_snapshot_that_says_all_of_it_is_understood_again() {
        let snapshot = |data| newer(1, 2, "snapshot", data);
        let history = |data| {
            History::fold(&[
                entry(1, 0, &started(1)),
                newer(1, 1, "content.citation", "{}"),
                snapshot(data),
                entry(1, 3, &complete()),
            ])
        };
        assert!(history(r#"{"type":"snapshot","text":"a"}"#).completion.is_some());
        let more = history(r#"{"type":"snapshot","text":"a","citations":[1]}"#);
        assert!(more.completion.is_none() && more.says_more);
        // What is known of it is what there is before that content.
        assert_eq!(more.answer.text, "a");
    }

    #[test]
    fn content_of_an_attempt_that_failed_need_not_be_understood() {
        let retrying = Event::Retrying { attempt: 1, code: "c".into(), retry_in_ms: 1 };
        let history = History::fold(&[
            entry(1, 0, &started(1)),
            newer(1, 1, "content.citation", "{}"),
            entry(1, 2, &retrying),
        ]);
        assert!(!history.says_more && history.completion.is_none());
    }

    #[test]
    fn opaque_data_comes_back_from_events_and_from_snapshots() {
        let opaque = |json: &str| OpaqueData { call: None, name: "x".into(), json: json.into() };
        let answer = Answer { opaque: vec![opaque("1")], ..Answer::default() };
        let snapshot = Event::Snapshot(answer).encode();
        let mut fold = Fold::default();
        fold.take(
            &newer(1, 7, "snapshot", &snapshot.data),
            snapshot.opaque.as_deref().map(str::as_bytes),
        );
        assert_eq!(fold.history.answer.opaque, [opaque("1")]);
        fold.take(&entry(1, 8, &Event::Opaque { data: vec![opaque("1"), opaque("2")] }), None);
        assert_eq!(fold.history().answer.opaque, [opaque("1"), opaque("2")]);
        assert!(!snapshot.data.contains("opaque"), "readers are sent {}", snapshot.data);
    }
}
