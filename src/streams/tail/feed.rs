//! One task's stream as this process reads it, and the mailboxes of its
//! subscribers.
//!
//! A [`Feed`] lives from its first subscriber to its last. Whoever reads for it
//! (by a hint or by a blocking read) hands the entries to [`Feed::deliver`],
//! which drops what was delivered before, so both ways may bring the same.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::domain::{EventId, TaskId};
use crate::streams::Entry;
use crate::streams::entry::Page;
use crate::sync::lock;

/// Bytes that an entry counts for beside its data.
const OVERHEAD: usize = 64;

/// What waits for one subscriber. Bounded: on overflow it is emptied, and the
/// subscriber catches up from Redis by itself.
#[derive(Debug)]
pub(super) struct Mailbox {
    state: Mutex<Waiting>,
    pub(super) arrived: Notify,
    limit: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    bytes: usize,
    overflowed: bool,
    suspect: bool,
}

/// What a subscriber finds in its mailbox.
pub(super) enum Mail {
    Nothing,
    Entries(Vec<Entry>),
    /// There was more than fits.
    Overflowed,
    /// The task may have ended without its stream saying so.
    Suspect,
}

impl Mailbox {
    pub(super) fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), arrived: Notify::new(), limit }
    }

    fn put(&self, entries: &[Entry]) {
        let mut waiting = lock(&self.state);
        if waiting.overflowed {
            return;
        }
        for entry in entries {
            let size = entry.data.len() + OVERHEAD;
            // One entry always fits, however large.
            if waiting.bytes + size > self.limit && !waiting.entries.is_empty() {
                *waiting =
                    Waiting { overflowed: true, suspect: waiting.suspect, ..Waiting::default() };
                break;
            }
            waiting.bytes += size;
            waiting.entries.push_back(entry.clone());
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    fn suspect(&self) {
        lock(&self.state).suspect = true;
        self.arrived.notify_one();
    }

    pub(super) fn take_suspect(&self) -> bool {
        std::mem::take(&mut lock(&self.state).suspect)
    }

    pub(super) fn take(&self) -> Mail {
        let mut waiting = lock(&self.state);
        if !waiting.entries.is_empty() {
            waiting.bytes = 0;
            return Mail::Entries(std::mem::take(&mut waiting.entries).into());
        }
        if waiting.overflowed {
            return Mail::Overflowed;
        }
        if std::mem::take(&mut waiting.suspect) {
            return Mail::Suspect;
        }
        Mail::Nothing
    }
}

/// One task's stream.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) task: TaskId,
    pub(super) key: String,
    /// Which blocking reader covers it.
    pub(super) shard: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The last entry that was delivered.
    read: EventId,
    mailboxes: Vec<Arc<Mailbox>>,
    /// Something was read that no hint had come for.
    doubtful: bool,
    /// It waits to be read.
    dirty: bool,
    last_news: Instant,
    last_checked: Instant,
}

impl Feed {
    pub(super) fn new(task: TaskId, key: String, shard: usize, read: EventId) -> Self {
        let now = Instant::now();
        let state = State {
            read,
            mailboxes: Vec::new(),
            doubtful: false,
            dirty: false,
            last_news: now,
            last_checked: now,
        };
        Self { task, key, shard, state: Mutex::new(state) }
    }

    /// Adds a subscriber. What it gets begins after the answered ID.
    pub(super) fn attach(&self, mailbox: &Arc<Mailbox>) -> EventId {
        let mut state = lock(&self.state);
        state.mailboxes.push(mailbox.clone());
        state.read
    }

    /// Empties an overflowed mailbox's flag. What it gets begins after the
    /// answered ID.
    pub(super) fn reattach(&self, mailbox: &Mailbox) -> EventId {
        // The feed's lock comes first, always: no delivery falls between.
        let state = lock(&self.state);
        lock(&mailbox.state).overflowed = false;
        state.read
    }

    /// Removes a subscriber; true when none is left.
    pub(super) fn detach(&self, mailbox: &Arc<Mailbox>) -> bool {
        let mut state = lock(&self.state);
        state.mailboxes.retain(|other| !Arc::ptr_eq(other, mailbox));
        state.mailboxes.is_empty()
    }

    /// Reads again from `cursor`: a subscriber that was far ahead of what Redis
    /// holds made the feed begin there. The others drop what comes twice.
    pub(super) fn rewind(&self, cursor: EventId) {
        let mut state = lock(&self.state);
        state.read = state.read.min(cursor);
    }

    /// Where to read on from.
    pub(super) fn read(&self) -> EventId {
        lock(&self.state).read
    }

    /// Hands what was read after `after` to all subscribers. False: it doesn't
    /// join on to what they have, as the feed was rewound while it was read.
    pub(super) fn deliver(&self, after: EventId, page: &Page) -> bool {
        let mut state = lock(&self.state);
        if after > state.read {
            return false;
        }
        let new = page.entries.partition_point(|entry| entry.id <= state.read);
        let entries = &page.entries[new..];
        if let Some(last) = page.last
            && last > state.read
        {
            state.read = last;
            state.last_news = Instant::now();
        }
        if !entries.is_empty() {
            for mailbox in &state.mailboxes {
                mailbox.put(entries);
            }
        }
        true
    }

    /// Marks the feed to be read; true when it was not marked yet.
    pub(super) fn soil(&self) -> bool {
        !std::mem::replace(&mut lock(&self.state).dirty, true)
    }

    /// Marks the feed unless the hinted event was read already; true when it
    /// was not marked yet.
    pub(super) fn soil_for(&self, hint: EventId) -> bool {
        let mut state = lock(&self.state);
        state.doubtful = false;
        hint > state.read && !std::mem::replace(&mut state.dirty, true)
    }

    /// Takes the mark away, *before* reading: what arrives meanwhile marks anew.
    /// Nothing when nobody is left to read for.
    pub(super) fn clean(&self) -> Option<EventId> {
        let mut state = lock(&self.state);
        state.dirty = false;
        (!state.mailboxes.is_empty()).then_some(state.read)
    }

    /// Hints can't be relied on, until one comes.
    pub(super) fn doubt_hints(&self) {
        lock(&self.state).doubtful = true;
    }

    pub(super) fn doubts_hints(&self) -> bool {
        lock(&self.state).doubtful
    }

    /// No news for `quiet`, and no doubt about hints. Asked of every feed each
    /// second: the caller has the clock.
    pub(super) fn is_quiet(&self, now: Instant, quiet: Duration) -> bool {
        let state = lock(&self.state);
        !state.doubtful && now.saturating_duration_since(state.last_news) >= quiet
    }

    /// Silent for so long that its end may have been lost. Answered once in
    /// `silence` at most.
    pub(super) fn take_suspect(&self, now: Instant, silence: Duration) -> bool {
        let mut state = lock(&self.state);
        let since = |then| now.saturating_duration_since(then) >= silence;
        let silent = since(state.last_news) && since(state.last_checked);
        if silent {
            state.last_checked = now;
        }
        silent
    }

    pub(super) fn suspect(&self) {
        for mailbox in &lock(&self.state).mailboxes {
            mailbox.suspect();
        }
    }
}
