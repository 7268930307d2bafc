//! The rules of a task's stream that need no other source: IDs and contents.
//!
//! One step an entry, in the order in which Redis took them. The model's
//! appends and a trace's log go through the same [`Log::append`].

use std::collections::BTreeMap;

use rill::domain::{Class, EventId, EventName};

use super::text::{Content, Kind, Text};

pub(crate) const ASCENDING: &str =
    "an entry's ID is above the stream's last (promise 3: the fence)";
pub(crate) const ONE_CONTENT: &str = "an ID that was sent has one content for ever";
pub(crate) const OPENING: &str = "an attempt opens with a reset, and says `started` only there";
pub(crate) const NO_JUMP: &str = "seq rises by one; only a snapshot and the end may jump";
pub(crate) const HEALS: &str =
    "after Redis forgot its tail, a gap is followed by a snapshot at once";
pub(crate) const ONE_END: &str = "a task has one terminal event, and nothing comes after it";
pub(crate) const COMPLETE: &str = "nothing is said after `complete`";
pub(crate) const SNAPSHOT: &str =
    "a snapshot says what the events before it say, and not a word more";

/// How far an attempt is known to have come.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Told<T> {
    /// The seq that follows.
    next: u64,
    /// What was said up to there.
    text: T,
    /// Some ID below `next` was never seen, so `text` may lack something.
    unseen: bool,
    completed: bool,
}

/// A stream, what it holds and what it has ever held.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Log<T> {
    ever: BTreeMap<EventId, Content<T>>,
    /// What Redis holds, oldest first.
    held: Vec<EventId>,
    told: BTreeMap<u32, Told<T>>,
    ended: Option<EventId>,
    /// Redis came back without its tail, and nothing was appended since.
    cut: bool,
    /// An entry of this attempt left a gap: its next must be a reset.
    owed: Option<u32>,
    /// The newest attempt's history in `held` is gapless up to `complete`, and
    /// every version understands it.
    whole: bool,
    expected: Option<EventId>,
    /// Since the last reset, there was content that only a newer version
    /// understands.
    more: bool,
}

impl<T: Text> Log<T> {
    /// The terminal event was appended, whether or not Redis still has it.
    pub(crate) const fn ended(&self) -> Option<EventId> {
        self.ended
    }

    /// Who reads the history now finds the answer in it, complete.
    pub(crate) const fn whole(&self) -> bool {
        self.whole
    }

    /// Redis took an entry.
    ///
    /// # Errors
    /// With the rule that this breaks, and what was expected.
    pub(crate) fn append(&mut self, id: EventId, content: Content<T>) -> Result<(), Broken> {
        let last = self.held.last().copied();
        if last.is_some_and(|last| id <= last) {
            return Err(Broken::new(ASCENDING, || format!("the last was {last:?}")));
        }
        let event = content.event;
        let before = self.ever.get(&id);
        if let Some(before) = before
            && !before.same(&content)
        {
            return Err(Broken::new(ONE_CONTENT, || format!("it was {before:?}")));
        }
        if let Some(end) = self.ended
            && (id > end || event.is_terminal() && id != end)
        {
            return Err(Broken::new(ONE_END, || format!("the end was {end}")));
        }
        let opens = event == EventName::Started || id.seq == 0;
        if opens && (id.seq > 0 || !event.is_reset()) {
            return Err(Broken::new(OPENING, String::new));
        }
        let repeated = before.is_some();
        if !repeated {
            self.tell(id, &content)?;
        }
        self.heal(last, id, event)?;
        self.fold(last, id, &content);
        self.held.push(id);
        self.ever.insert(id, content);
        if event.is_terminal() {
            self.ended = Some(id);
        }
        Ok(())
    }

    /// What a new entry says must follow what its attempt said.
    fn tell(&mut self, id: EventId, content: &Content<T>) -> Result<(), Broken> {
        let event = content.event;
        let told = self.told.entry(id.attempt).or_default();
        if id.seq < told.next {
            // Jumped over when its outcome was unknown, and here at last.
            return Ok(());
        }
        let jumps = id.seq > told.next;
        if jumps && !told.unseen && event != EventName::Snapshot && !event.is_terminal() {
            return Err(Broken::new(NO_JUMP, || format!("{} was next", told.next)));
        }
        if told.completed && event.class() == Class::Content {
            return Err(Broken::new(COMPLETE, String::new));
        }
        if event == EventName::Snapshot && id.seq > 0 {
            let exact = !jumps && !told.unseen;
            let says = content.text == told.text || !exact && content.text.begins_with(&told.text);
            if !says {
                return Err(Broken::new(SNAPSHOT, || {
                    format!("they said {:?}, it says {:?}", told.text, content.text)
                }));
            }
        }
        told.unseen |= jumps;
        let follows = event != EventName::Delta || told.text.append(&content.text);
        if !follows && !told.unseen {
            return Err(Broken::new(SNAPSHOT, || "a delta that doesn't follow".into()));
        }
        match event.known() {
            Some(EventName::Snapshot) => (told.text, told.unseen) = (content.text.clone(), false),
            Some(EventName::Complete) => told.completed = true,
            _ => {}
        }
        told.next = id.seq + 1;
        Ok(())
    }

    /// A gap that a restart of Redis made is owed a reset.
    fn heal(&mut self, last: Option<EventId>, id: EventId, event: Kind) -> Result<(), Broken> {
        let heals = event.is_reset() || event.is_terminal();
        if self.owed == Some(id.attempt) && !heals {
            return Err(Broken::new(HEALS, || format!("the last was {last:?}")));
        }
        let follows = id.seq == 0 || last == Some(id.before());
        self.owed = (self.cut && !follows && !heals).then_some(id.attempt);
        self.cut = false;
        Ok(())
    }

    /// As `streams/history.rs` folds: the newest attempt, from its last reset on.
    fn fold(&mut self, last: Option<EventId>, id: EventId, content: &Content<T>) {
        let event = content.event;
        if event.is_reset() || last.is_some_and(|last| last.attempt < id.attempt) {
            self.whole = false;
        }
        let follows = event.is_reset() || self.expected == Some(id);
        self.expected = follows.then(|| id.next());
        self.more = content.more || self.more && !event.is_reset();
        self.whole |= follows && event == EventName::Complete && !self.more;
    }

    /// The key is gone.
    pub(crate) fn gone(&mut self) {
        self.held.clear();
        (self.cut, self.owed, self.whole, self.expected) = (false, None, false, None);
        self.more = false;
    }

    /// Redis came back without the entries from `from` on.
    pub(crate) fn lost(&mut self, from: EventId) {
        self.held.retain(|id| *id < from);
        (self.cut, self.owed, self.whole, self.expected) = (true, None, false, None);
        self.more = false;
        // What was lost may never have been seen either.
        for told in self.told.values_mut() {
            told.unseen = true;
        }
        let mut last = None;
        for id in self.held.clone() {
            if let Some(content) = self.ever.get(&id).cloned() {
                self.fold(last, id, &content);
            }
            last = Some(id);
        }
    }
}

/// A rule that was broken, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) rule: &'static str,
    pub(crate) detail: String,
}

impl Broken {
    pub(crate) fn new(rule: &'static str, detail: impl FnOnce() -> String) -> Self {
        Self { rule, detail: detail() }
    }
}
