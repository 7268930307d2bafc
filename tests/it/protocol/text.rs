//! Text, as far as the protocol looks at it.

use std::hash::{DefaultHasher, Hash, Hasher};

use rill::domain::{Class, EventName, StoredName};

/// What deltas say and snapshots repeat.
pub(crate) trait Text: Clone + Eq + Hash + Default + std::fmt::Debug {
    /// Adds what follows. False: it does not follow, something was lost,
    /// doubled or mixed.
    fn append(&mut self, more: &Self) -> bool;
    /// This says all of `less`, and perhaps more.
    fn begins_with(&self, less: &Self) -> bool;
    /// Nothing was said.
    fn is_empty(&self) -> bool;
}

/// The model's text: the chunks `from..to` of what attempt `by` was told.
/// Two attempts never say the same, so a mixture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Span {
    by: u32,
    from: u8,
    to: u8,
}

impl Span {
    /// Whose attempt it is; 0 of nothing.
    pub(crate) const fn by(self) -> u32 {
        self.by
    }

    /// Nothing, where there is nothing.
    pub(crate) fn new(by: u32, from: u8, to: u8) -> Self {
        if from == to { Self::default() } else { Self { by, from, to } }
    }
}

impl Text for Span {
    fn append(&mut self, more: &Self) -> bool {
        if more.is_empty() {
            return true;
        }
        let follows = more.from == self.to && (self.is_empty() || self.by == more.by);
        *self = Self { by: more.by, from: 0, to: more.to };
        follows
    }

    fn begins_with(&self, less: &Self) -> bool {
        less.is_empty() || self.by == less.by && self.to >= less.to
    }

    fn is_empty(&self) -> bool {
        self.to == 0
    }
}

impl Text for String {
    fn append(&mut self, more: &Self) -> bool {
        self.push_str(more);
        true
    }

    fn begins_with(&self, less: &Self) -> bool {
        self.starts_with(less.as_str())
    }

    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }
}

/// What an entry's name says: an event that every version knows, or one of a newer
/// version, of which only the class is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Known(EventName),
    Newer(Class),
}

impl Kind {
    /// Reads field `e`.
    pub(crate) fn read(name: &str) -> Option<Self> {
        let name = StoredName::read(name.as_bytes())?;
        Some(name.known().map_or_else(|| Self::Newer(name.class()), Self::Known))
    }

    pub(crate) const fn class(self) -> Class {
        match self {
            Self::Known(name) => name.class(),
            Self::Newer(class) => class,
        }
    }

    pub(crate) const fn known(self) -> Option<EventName> {
        match self {
            Self::Known(name) => Some(name),
            Self::Newer(_) => None,
        }
    }

    pub(crate) const fn is_reset(self) -> bool {
        matches!(self.class(), Class::Reset)
    }

    pub(crate) const fn is_terminal(self) -> bool {
        matches!(self.class(), Class::Terminal)
    }

    /// It adds what only a newer worker can continue.
    pub(crate) const fn is_newer_content(self) -> bool {
        matches!(self, Self::Newer(Class::Content))
    }

    /// A name of its class.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Known(name) => name.as_str(),
            Self::Newer(Class::Content) => "content.newer",
            Self::Newer(Class::Internal) => "internal.newer",
            Self::Newer(_) => "newer",
        }
    }
}

impl From<EventName> for Kind {
    fn from(name: EventName) -> Self {
        Self::Known(name)
    }
}

impl PartialEq<EventName> for Kind {
    fn eq(&self, other: &EventName) -> bool {
        self.known() == Some(*other)
    }
}

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Content<T> {
    /// Field `e`.
    pub(crate) event: Kind,
    /// What it says, of a delta or a snapshot.
    pub(crate) text: T,
    /// It says more: content that only a newer version understands.
    pub(crate) more: bool,
    /// All of field `d`, hashed; where the text is everything, 0.
    pub(crate) data: u64,
}

impl<T: Text> Content<T> {
    /// An event that says nothing more than its text.
    pub(crate) fn new(event: impl Into<Kind>, text: T) -> Self {
        let event = event.into();
        Self { event, text, more: event.is_newer_content(), data: 0 }
    }

    /// The same for every reader: the same bytes, or, as an attempt's first
    /// word, two resets to nothing.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self == other
            || self.event.is_reset()
                && other.event.is_reset()
                && self.text.is_empty()
                && other.text.is_empty()
    }
}

/// Bytes, as a number.
pub(crate) fn hashed(data: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    hasher.finish()
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (self.from..self.to).try_for_each(|chunk| write!(f, "{}.{chunk} ", self.by))
    }
}
