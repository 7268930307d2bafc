//! A task's stream as Redis keeps it, and how it loses it.

use super::End;
use crate::domain::event::Encoded;
use crate::domain::{Event, EventId, MessageId};
use crate::streams::Entry;
use crate::streams::history::History;

/// What becomes of an append.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    Well,
    /// It is in the stream, and the writer doesn't know.
    ReplyLost,
    /// It is not.
    RequestLost,
    /// Another connection, and nothing else.
    Reconnected,
    /// Redis came back without its newest entries.
    TailLost(usize),
    /// Redis came back empty.
    AllLost,
}

/// What `XADD` answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Added {
    Yes,
    /// nil: `NOMKSTREAM`, and there is no stream.
    Gone,
    /// Not above the last; this is the last.
    Stale(EventId),
}

pub(super) struct Redis {
    pub(super) entries: Vec<Entry>,
    /// It survives trimming.
    last: EventId,
    exists: bool,
    /// Connections are numbered.
    pub(super) generation: u64,
    pub(super) maxlen: usize,
    fates: std::iter::Cycle<std::vec::IntoIter<Fate>>,
    /// Only trimming has taken entries away since the last reset was written.
    whole: bool,
}

impl Redis {
    pub(super) fn new(maxlen: usize, fates: Vec<Fate>) -> Self {
        Self {
            entries: Vec::new(),
            last: EventId::START,
            exists: false,
            generation: 1,
            maxlen,
            // No stretch of bad luck lasts for ever.
            fates: [fates, vec![Fate::Well; 3]].concat().into_iter().cycle(),
            whole: true,
        }
    }

    pub(super) fn next_fate(&mut self) -> Fate {
        self.fates.next().unwrap_or(Fate::Well)
    }

    /// Whatever happens breaks the connection.
    pub(super) fn suffer(&mut self, fate: Fate) {
        match fate {
            Fate::Well => return,
            Fate::ReplyLost | Fate::RequestLost | Fate::Reconnected => {}
            Fate::TailLost(count) => {
                self.entries.truncate(self.entries.len().saturating_sub(count));
                match self.entries.last() {
                    // As when the append-only file ended there.
                    Some(entry) => self.last = entry.id,
                    None => self.forget(),
                }
                self.whole = false;
            }
            Fate::AllLost => self.forget(),
        }
        self.generation += 1;
    }

    fn forget(&mut self) {
        self.entries.clear();
        self.last = EventId::START;
        self.exists = false;
        self.whole = false;
    }

    pub(super) fn add(&mut self, id: EventId, event: &Encoded, create: bool) -> Added {
        if !create && !self.exists {
            return Added::Gone;
        }
        if id <= self.last {
            return Added::Stale(self.last);
        }
        self.exists = true;
        self.last = id;
        self.entries.push(Entry::new(id, event.name, event.data.clone()));
        self.whole |= event.name.is_reset();
        if !create {
            // `~` may leave more; exactly N is the worst that it does.
            let surplus = self.entries.len().saturating_sub(self.maxlen);
            self.entries.drain(..surplus);
        }
        Added::Yes
    }

    /// `Streams::append_end`.
    pub(super) fn append_end(&mut self, end: &End, with_snapshot: bool) {
        if with_snapshot {
            let snapshot = Event::Snapshot(end.answer.clone()).encode();
            self.add(end.id.before(), &snapshot, true);
        }
        let message_id = MessageId(uuid::Uuid::nil());
        self.add(end.id, &Event::Cancelled { message_id, usage: None }.encode(), true);
    }

    /// `XREAD COUNT`.
    pub(super) fn read(&self, after: EventId, count: usize) -> &[Entry] {
        let from = self.entries.partition_point(|entry| entry.id <= after);
        &self.entries[from..self.entries.len().min(from + count)]
    }

    pub(super) fn holds(&self, id: EventId) -> bool {
        self.entries.iter().any(|entry| entry.id == id)
    }

    pub(super) fn history(&self) -> History {
        History::fold(&self.entries)
    }

    /// Trimming alone leaves a reset to start from, always.
    pub(super) fn always_has_a_reset(&self) {
        let reset = self.entries.iter().any(|entry| entry.name.is_reset());
        assert!(!self.whole || reset || self.entries.is_empty(), "{:?}", self.entries);
    }
}
