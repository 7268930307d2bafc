//! Which tool call a piece belongs to, whatever the server's discipline.
//!
//! A call's identity is more than its index: servers send all calls under one,
//! or without, and IDs that are empty, the same, or new with each piece.
//!
//! | the piece has | it continues | it begins another call when |
//! |---|---|---|
//! | an index | the newest call under that index | its ID is another non-empty one; or the call's arguments are complete and more follow; or another name follows arguments |
//! | an ID only | the call of that ID | no call has it |
//! | neither | the last call | its name follows arguments, or is another |
//!
//! A piece of arguments with another ID but without another name, before they are
//! complete, continues: a call without a name would be of no use, and neither would half of
//! the arguments. Readers get indexes of ours, without holes, and IDs that differ:
//! ours where the server's is empty, missing at the end, or another call's.

use std::collections::VecDeque;

use serde_json::value::RawValue;
use uuid::Uuid;

use super::chunk::CallPiece;
use super::repair::Joiner;
use crate::domain::event::ToolCallDelta;
use crate::domain::opaque::OpaqueData;
use crate::model::{Delta, without_nul};

/// Calls of one answer, at most: what is more continues the last.
const MOST: usize = 1_000;

/// Bytes of an ID; a longer one is none.
const LONGEST_ID: usize = 512;

/// Bytes of a name, after which no more parts of it are believed.
const LONGEST_NAME: usize = 256;

/// The calls of one answer.
#[derive(Debug, Default)]
pub(super) struct Calls(Vec<Call>);

#[derive(Debug, Default)]
struct Call {
    /// The server's.
    index: Option<u32>,
    /// The server's, not empty.
    id: Option<String>,
    /// What readers know it by.
    told_id: Option<String>,
    name: String,
    arguments: String,
    shape: Shape,
    /// Its name came once more behind its arguments: more of them are another call's.
    named_again: bool,
    joiner: Joiner,
}

impl Calls {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in the pieces of one chunk.
    pub(super) fn add(&mut self, pieces: Vec<CallPiece>, marked: bool, out: &mut VecDeque<Delta>) {
        let together = pieces.len() > 1;
        for (place, mut piece) in pieces.into_iter().enumerate() {
            piece.name = piece.name.filter(|name| !name.is_empty());
            if piece.id.as_ref().is_some_and(|id| id.len() > LONGEST_ID) {
                piece.id = Some(String::new());
            }
            let at = self.place(&piece, together.then_some(place)).unwrap_or_else(|| {
                let before = self.newest(|call| call.index == piece.index);
                let before = before.map(|at| &self.0[at]).filter(|call| call.named_again);
                piece.name = piece.name.take().or_else(|| before.map(|call| call.name.clone()));
                self.0.push(Call { index: piece.index, ..Call::default() });
                self.0.len() - 1
            });
            self.take(at, piece, marked, out);
        }
    }

    /// Gives IDs to calls that have none yet, and lets go of what was held back.
    pub(super) fn settle(&mut self, out: &mut VecDeque<Delta>) {
        for (index, call) in (0..).zip(&mut self.0) {
            let arguments = call.joiner.finish().unwrap_or_default();
            let id = call.told_id.is_none().then(new_id);
            if id.is_some() || !arguments.is_empty() {
                call.told_id = call.told_id.take().or_else(|| id.clone());
                out.push_back(Delta::ToolCall(ToolCallDelta { index, id, name: None, arguments }));
            }
        }
    }

    /// The call that a piece continues; nothing: it begins one.
    fn place(&self, piece: &CallPiece, place: Option<usize>) -> Option<usize> {
        let last = self.0.len().checked_sub(1);
        if self.0.len() >= MOST {
            return last;
        }
        let id = piece.id.as_deref().filter(|id| !id.is_empty());
        let of_id = || id.and_then(|id| self.newest(|call| call.id.as_deref() == Some(id)));
        let continues = |at: &usize| !self.0[*at].is_followed_by(piece);
        if let Some(index) = piece.index {
            let Some(at) = self.newest(|call| call.index == Some(index)) else {
                // An index that wanders.
                return of_id().filter(|_| piece.name.is_none());
            };
            if !self.0[at].has_another_id(id) {
                return Some(at).filter(continues);
            }
            let blank = piece.arguments.as_deref().is_none_or(str::is_empty);
            if piece.name.is_none() && blank {
                return Some(at);
            }
            let of_id = of_id().filter(|at| self.0[*at].index == Some(index));
            return of_id
                .filter(continues)
                .or_else(|| Some(at).filter(|_| self.0[at].goes_on_with(piece)));
        }
        if id.is_some() {
            let last = last
                .filter(|at| self.0[*at].goes_on_with(piece) || self.0[*at].waits_for_an_id(piece));
            return of_id().or(last).filter(continues);
        }
        if piece.name.is_none() {
            let nth = place.filter(|place| *place < self.0.len());
            return nth.or(last).filter(continues);
        }
        let again = |at: &usize| {
            let call = &self.0[*at];
            let same = piece.name.as_deref() == Some(&call.name);
            call.name.is_empty() || same && place.is_none() && call.shape != Shape::Complete
        };
        last.filter(again).filter(continues)
    }

    fn newest(&self, is: impl Fn(&Call) -> bool) -> Option<usize> {
        self.0.iter().rposition(is)
    }

    fn take(&mut self, at: usize, piece: CallPiece, marked: bool, out: &mut VecDeque<Delta>) {
        let index = at as u32;
        let is_new = self.0[at].told_id.is_none()
            && self.0[at].name.is_empty()
            && self.0[at].arguments.is_empty();
        let id = self.told(at, piece.id.as_deref());
        let call = &mut self.0[at];
        let name = piece.name.map(without_nul);
        call.named_again |= call.shape == Shape::Complete && name.as_ref() == Some(&call.name);
        let name = name.and_then(|name| call.named(name));
        let arguments =
            piece.arguments.map(|more| call.joiner.push(more, marked)).unwrap_or_default();
        // The whole call once more.
        let repeats = call.shape == Shape::Complete && arguments == call.arguments;
        let arguments = if repeats { String::new() } else { without_nul(arguments) };
        call.shape.add(&arguments);
        call.arguments.push_str(&arguments);
        if is_new || id.is_some() || name.is_some() || !arguments.is_empty() {
            out.push_back(Delta::ToolCall(ToolCallDelta { index, id, name, arguments }));
        }
        out.extend(piece.opaque.into_iter().map(|(name, json)| opaque(Some(index), name, json)));
    }

    /// The ID to tell readers now, if there is news of it.
    fn told(&mut self, at: usize, id: Option<&str>) -> Option<String> {
        let id = id?;
        let call = &mut self.0[at];
        if call.id.is_none() && !id.is_empty() {
            call.id = Some(id.to_owned());
        }
        if call.told_id.is_some() {
            return None;
        }
        let taken = self.0.iter().any(|call| call.told_id.as_deref() == Some(id));
        let id = if id.is_empty() || taken { new_id() } else { without_nul(id.to_owned()) };
        self.0[at].told_id = Some(id.clone());
        Some(id)
    }
}

impl Call {
    fn has_another_id(&self, id: Option<&str>) -> bool {
        matches!((&self.id, id), (Some(own), Some(id)) if own != id)
    }

    /// Its arguments aren't complete, and the piece has more of them and nothing
    /// that begins a call.
    fn goes_on_with(&self, piece: &CallPiece) -> bool {
        let more = piece.arguments.as_ref().is_some_and(|more| !more.is_empty());
        let same_name = piece.name.as_ref().is_some_and(|name| *name == self.name);
        match self.shape {
            Shape::Empty => more && piece.name.is_none(),
            Shape::Open { .. } => more && (piece.name.is_none() || same_name),
            Shape::Complete => false,
        }
    }

    /// It was begun without one.
    fn waits_for_an_id(&self, piece: &CallPiece) -> bool {
        self.id.is_none() && self.told_id.is_none() && piece.name.is_none()
    }

    /// A piece that looks like more of this call begins another.
    fn is_followed_by(&self, piece: &CallPiece) -> bool {
        let more = piece.arguments.as_deref().map(str::trim_start).unwrap_or_default();
        let name = piece.name.as_deref().filter(|name| !name.is_empty());
        let another_name = name.is_some_and(|name| !self.name.is_empty() && name != self.name);
        let known = piece.id.is_some() && piece.id == self.id;
        match self.shape {
            Shape::Complete if more.starts_with(['{', '[']) => {
                !(known && piece.index.is_some() && more == self.arguments)
            }
            // It may be this call's once more, or the next one's.
            Shape::Complete if piece.index.is_some() && more.is_empty() => another_name && !known,
            Shape::Complete => name.is_some() && !known,
            Shape::Open { .. } => another_name && !known,
            Shape::Empty => false,
        }
    }

    /// The whole name, if the piece changes it: it may come in parts, and again.
    fn named(&mut self, name: String) -> Option<String> {
        let is_settled = !self.arguments.is_empty() && !self.name.is_empty();
        if name == self.name || is_settled || self.name.len() > LONGEST_NAME {
            return None;
        }
        if name.starts_with(&self.name) {
            self.name = name;
        } else {
            self.name.push_str(&name);
        }
        Some(self.name.clone())
    }
}

/// How far arguments are, as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Shape {
    #[default]
    Empty,
    Open {
        depth: u32,
        in_string: bool,
        escaped: bool,
    },
    /// An object or array that is closed.
    Complete,
}

impl Shape {
    fn add(&mut self, arguments: &str) {
        for byte in arguments.bytes() {
            *self = self.after(byte);
        }
    }

    fn after(self, byte: u8) -> Self {
        let open = |depth, in_string, escaped| Self::Open { depth, in_string, escaped };
        match (self, byte) {
            (Self::Empty, b'{' | b'[') => open(1, false, false),
            (Self::Empty, byte) if byte.is_ascii_whitespace() => Self::Empty,
            (Self::Empty, _) => open(0, false, false),
            (Self::Open { depth, in_string: true, escaped: true }, _) => open(depth, true, false),
            (Self::Open { depth, in_string: true, .. }, b'\\') => open(depth, true, true),
            (Self::Open { depth, in_string, .. }, b'"') => open(depth, !in_string, false),
            (Self::Open { depth, in_string: false, .. }, b'{' | b'[') => {
                open(depth.saturating_add(1), false, false)
            }
            (Self::Open { depth: 1, in_string: false, .. }, b'}' | b']') => Self::Complete,
            (Self::Open { depth, in_string: false, .. }, b'}' | b']') => {
                open(depth.saturating_sub(1), false, false)
            }
            (same, _) => same,
        }
    }
}

/// An ID that no other call has, in a form that every server takes.
fn new_id() -> String {
    format!("call_{}", Uuid::new_v4().simple())
}

/// Data that the server wants back.
pub(super) fn opaque(call: Option<u32>, name: &str, json: Box<RawValue>) -> Delta {
    let json: Box<str> = json.into();
    Delta::Opaque(OpaqueData { call, name: name.to_owned(), json: json.into() })
}
