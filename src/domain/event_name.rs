//! Names of events, and the class that each name tells.
//!
//! A reader or worker meets events of newer versions during a rolling upgrade.
//! The name alone says what to do with one, so that it is carried and not
//! dropped (`docs/compatibility.md`):
//!
//! | class | names | a reader | a worker that takes over |
//! |---|---|---|---|
//! | [`Class::Reset`] | `started`, `snapshot`; a closed set | begins anew with it | folds from it |
//! | [`Class::Content`] | `delta`, `reasoning`, `tool_call`, `content.…` | is sent it | folds it, or leaves the task to a newer worker |
//! | [`Class::Public`] | `retrying`, every other name | is sent it | passes over it |
//! | [`Class::Internal`] | `complete`, `internal.…` | is not sent it | uses it, or passes over it |
//! | [`Class::Terminal`] | `done`, `failed`, `cancelled`; a closed set | ends with it | finds the task ended |

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// An event's meaning to readers and to workers that take over. See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Everything follows from here: the reader drops what it has.
    Reset,
    /// Adds to the answer.
    Content,
    /// Tells readers something, and adds nothing to the answer.
    Public,
    /// For workers alone.
    Internal,
    /// The stream ends with it.
    Terminal,
}

/// The names that this version knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventName {
    /// An attempt begins; a reset.
    Started,
    /// Text to append.
    Delta,
    /// Reasoning to append.
    Reasoning,
    /// A piece of a tool call.
    ToolCall,
    /// This attempt failed, another follows.
    Retrying,
    /// The whole answer so far; a reset.
    Snapshot,
    /// The answer is complete; terminal.
    Done,
    /// No answer will follow; terminal.
    Failed,
    /// The caller stopped it; terminal.
    Cancelled,
    /// The model has finished; internal.
    Complete,
    /// Data that the model's server wants back; internal.
    Opaque,
}

impl EventName {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Started,
        Self::Delta,
        Self::Reasoning,
        Self::ToolCall,
        Self::Retrying,
        Self::Snapshot,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
        Self::Complete,
        Self::Opaque,
    ];

    /// As written in Redis, in `event:` and in the data's `type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Delta => "delta",
            Self::Reasoning => "reasoning",
            Self::ToolCall => "tool_call",
            Self::Retrying => "retrying",
            Self::Snapshot => "snapshot",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Complete => "complete",
            Self::Opaque => "internal.opaque",
        }
    }

    /// The event of that name, if this version knows it. A `match`, as each token
    /// goes through here.
    const fn of(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"started" => Self::Started,
            b"delta" => Self::Delta,
            b"reasoning" => Self::Reasoning,
            b"tool_call" => Self::ToolCall,
            b"retrying" => Self::Retrying,
            b"snapshot" => Self::Snapshot,
            b"done" => Self::Done,
            b"failed" => Self::Failed,
            b"cancelled" => Self::Cancelled,
            b"complete" => Self::Complete,
            b"internal.opaque" => Self::Opaque,
            _ => return None,
        })
    }

    /// The class. For names of other versions: [`StoredName::class`].
    pub const fn class(self) -> Class {
        match self {
            Self::Started | Self::Snapshot => Class::Reset,
            Self::Delta | Self::Reasoning | Self::ToolCall => Class::Content,
            Self::Retrying => Class::Public,
            Self::Complete | Self::Opaque => Class::Internal,
            Self::Done | Self::Failed | Self::Cancelled => Class::Terminal,
        }
    }

    /// The stream ends with this event.
    pub const fn is_terminal(self) -> bool {
        matches!(self.class(), Class::Terminal)
    }

    /// The reader drops what it has: everything follows from here.
    pub const fn is_reset(self) -> bool {
        matches!(self.class(), Class::Reset)
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that this version doesn't know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown event name {0:?}")]
pub struct UnknownEventName(pub String);

impl FromStr for EventName {
    type Err = UnknownEventName;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::of(s.as_bytes()).ok_or_else(|| UnknownEventName(s.to_owned()))
    }
}

/// Bytes of a name at most, whatever the version.
const LONGEST: usize = 64;
/// Prefixes of unknown names, a class each.
const CONTENT: &str = "content.";
const INTERNAL: &str = "internal.";

/// A stored event's name: one of ours, or another version's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StoredName {
    /// One that this version knows.
    Known(EventName),
    /// Another version's, which is carried as it is: 1 to 64 of `a-z0-9_.`, and
    /// so fit for an `event:` line.
    Other(Arc<str>),
}

impl StoredName {
    /// Reads a name; nothing if no version could have written it.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if let Some(name) = EventName::of(bytes) {
            return Some(Self::Known(name));
        }
        let text = std::str::from_utf8(bytes).ok()?;
        let fit = (1..=LONGEST).contains(&text.len())
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.'));
        fit.then(|| Self::Other(text.into()))
    }

    /// As written in Redis and in `event:`.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(name) => name.as_str(),
            Self::Other(name) => name,
        }
    }

    /// The class, which the name tells.
    pub fn class(&self) -> Class {
        match self {
            Self::Known(name) => name.class(),
            Self::Other(name) if name.starts_with(CONTENT) => Class::Content,
            Self::Other(name) if name.starts_with(INTERNAL) => Class::Internal,
            Self::Other(_) => Class::Public,
        }
    }

    /// The stream ends with this event.
    pub fn is_terminal(&self) -> bool {
        self.class() == Class::Terminal
    }

    /// The reader drops what it has: everything follows from here.
    pub fn is_reset(&self) -> bool {
        self.class() == Class::Reset
    }

    /// The name, if this version knows it.
    pub const fn known(&self) -> Option<EventName> {
        match self {
            Self::Known(name) => Some(*name),
            Self::Other(_) => None,
        }
    }
}

impl From<EventName> for StoredName {
    fn from(name: EventName) -> Self {
        Self::Known(name)
    }
}

impl PartialEq<EventName> for StoredName {
    fn eq(&self, other: &EventName) -> bool {
        self.known() == Some(*other)
    }
}

impl fmt::Display for StoredName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_name_tells_the_class() {
        let class = |name: &str| StoredName::read(name.as_bytes()).map(|name| name.class());
        assert_eq!(class("citation"), Some(Class::Public));
        assert_eq!(class("content.citation"), Some(Class::Content));
        assert_eq!(class("internal.checkpoint"), Some(Class::Internal));
        assert_eq!(class("contentious"), Some(Class::Public));
        // What begins or ends a stream is a closed set.
        for name in ["restarted", "snapshot2", "done.", "internal.done", "content.snapshot"] {
            assert!(!matches!(class(name), Some(Class::Reset | Class::Terminal)), "{name}");
        }
        for name in EventName::ALL {
            assert_eq!(StoredName::read(name.as_str().as_bytes()), Some(name.into()));
            assert_eq!(class(name.as_str()), Some(name.class()));
        }
    }

    #[test]
    fn the_classes_of_known_names_follow_the_rule_for_unknown_ones() {
        for name in EventName::ALL.into_iter().filter(|name| name.as_str().contains('.')) {
            assert_eq!(StoredName::Other(name.as_str().into()).class(), name.class());
        }
    }

    proptest! {
        #[test]
        fn a_name_fits_an_event_line_or_is_none(bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..80),
            "[a-z0-9_.]{0,70}".prop_map(String::into_bytes),
        ]) {
            let fit = (1..=64).contains(&bytes.len())
                && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.".contains(b));
            let name = StoredName::read(&bytes);
            prop_assert_eq!(name.is_some(), fit);
            prop_assert!(name.is_none_or(|name| name.as_str().as_bytes() == bytes));
        }
    }
}
