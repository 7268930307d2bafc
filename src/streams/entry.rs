//! Replies of `XREAD`, `XRANGE` and `XREADGROUP`, taken apart without copies.

use bytes::Bytes;
use redis::Value;

use crate::domain::{EventId, EventName};

/// One stored event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its ID in the stream.
    pub id: EventId,
    /// Field `e`.
    pub name: EventName,
    /// Field `d`: one line of JSON.
    pub data: Bytes,
}

/// An entry of any stream: its ID as text, and its fields.
pub(super) struct RawEntry {
    pub(super) id: String,
    pub(super) fields: Vec<(Bytes, Bytes)>,
}

impl RawEntry {
    pub(super) fn field(&self, name: &str) -> Option<&Bytes> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }
}

fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        Value::SimpleString(text) => Some(text.into()),
        _ => None,
    }
}

/// The pairs of a map, or of a flat array: RESP3 and RESP2 differ.
fn pairs(value: Value) -> impl Iterator<Item = (Value, Value)> {
    let (map, flat) = match value {
        Value::Map(pairs) => (pairs, Vec::new()),
        Value::Array(values) => (Vec::new(), values),
        _ => (Vec::new(), Vec::new()),
    };
    let mut flat = flat.into_iter();
    let flat = std::iter::from_fn(move || Some((flat.next()?, flat.next()?)));
    map.into_iter().chain(flat)
}

/// `[[id, [field, value, …]], …]`. A deleted entry is left out.
pub(super) fn raw_entries(value: Value) -> Vec<RawEntry> {
    let Value::Array(entries) = value else { return Vec::new() };
    entries
        .into_iter()
        .filter_map(|entry| {
            let (id, fields) = parts(entry)?;
            let id = String::from_utf8(id.into()).ok()?;
            let fields = pairs(fields)
                .filter_map(|(field, value)| Some((bytes(field)?, bytes(value)?)))
                .collect();
            Some(RawEntry { id, fields })
        })
        .collect()
}

/// What one read brings of a task's stream.
#[derive(Default)]
pub(super) struct Page {
    pub(super) entries: Vec<Entry>,
    /// The last entry's ID, an event or not: where to read on from.
    pub(super) last: Option<EventId>,
    /// How many entries there were, events or not.
    pub(super) len: usize,
}

/// The task streams of an `XREAD` reply: each key, and what was read of it.
pub(super) fn pages(answer: Value) -> Vec<(Bytes, Page)> {
    streams(answer).into_iter().map(|(key, stream)| (key, page(stream))).collect()
}

/// Events of a task's stream. What isn't one (a newer rill's event, somebody
/// else's entry) is left out, and shows to readers as a gap.
pub(super) fn page(value: Value) -> Page {
    let Value::Array(stream) = value else {
        return Page::default();
    };
    let (mut last, mut len) = (None, 0);
    let mut entries = Vec::with_capacity(stream.len());
    for entry in stream {
        let Some((id, fields)) = parts(entry) else { continue };
        len += 1;
        last = std::str::from_utf8(&id).ok().and_then(|id| id.parse().ok());
        entries.extend(last.and_then(|id| event(id, fields)));
    }
    Page { entries, last, len }
}

/// An entry's ID and its fields; nothing if it was deleted (nil, or with nil
/// for its fields).
fn parts(entry: Value) -> Option<(Bytes, Value)> {
    let Value::Array(parts) = entry else { return None };
    let mut parts = parts.into_iter();
    let id = bytes(parts.next()?)?;
    parts.next().filter(|fields| *fields != Value::Nil).map(|fields| (id, fields))
}

/// The event that an entry's fields are.
fn event(id: EventId, fields: Value) -> Option<Entry> {
    let (mut name, mut data) = (None, None);
    for (field, value) in pairs(fields) {
        let (Some(field), Some(value)) = (bytes(field), bytes(value)) else { continue };
        match &*field {
            b"e" if name.is_none() => name = Some(value),
            b"d" if data.is_none() => data = Some(value),
            _ => {}
        }
    }
    let name = std::str::from_utf8(&name?).ok()?.parse().ok()?;
    Some(Entry { id, name, data: data? })
}

/// The streams of an `XREAD` reply, by key. Nil (nothing new) is none.
pub(super) fn streams(value: Value) -> Vec<(Bytes, Value)> {
    match value {
        Value::Map(pairs) => {
            pairs.into_iter().filter_map(|(key, entries)| Some((bytes(key)?, entries))).collect()
        }
        Value::Array(streams) => streams
            .into_iter()
            .filter_map(|stream| {
                let Value::Array(parts) = stream else { return None };
                let mut parts = parts.into_iter();
                Some((bytes(parts.next()?)?, parts.next()?))
            })
            .collect(),
        _ => Vec::new(),
    }
}
