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

fn text(value: Value) -> Option<String> {
    String::from_utf8(bytes(value)?.into()).ok()
}

/// The pairs of a map, or of a flat array: RESP3 and RESP2 differ.
fn pairs(value: Value) -> Vec<(Value, Value)> {
    match value {
        Value::Map(pairs) => pairs,
        Value::Array(values) => {
            let mut pairs = Vec::with_capacity(values.len() / 2);
            let mut values = values.into_iter();
            while let (Some(key), Some(value)) = (values.next(), values.next()) {
                pairs.push((key, value));
            }
            pairs
        }
        _ => Vec::new(),
    }
}

/// `[[id, [field, value, …]], …]`. A deleted entry (nil, or with nil for
/// its fields) is left out.
pub(super) fn raw_entries(value: Value) -> Vec<RawEntry> {
    let Value::Array(entries) = value else { return Vec::new() };
    entries
        .into_iter()
        .filter_map(|entry| {
            let Value::Array(parts) = entry else { return None };
            let mut parts = parts.into_iter();
            let id = text(parts.next()?)?;
            let fields = match parts.next()? {
                Value::Nil => return None,
                fields => pairs(fields),
            };
            let fields = fields
                .into_iter()
                .filter_map(|(field, value)| Some((bytes(field)?, bytes(value)?)))
                .collect();
            Some(RawEntry { id, fields })
        })
        .collect()
}

/// What one read brings of a task's stream.
pub(super) struct Page {
    pub(super) entries: Vec<Entry>,
    /// The last entry's ID, an event or not: where to read on from.
    pub(super) last: Option<EventId>,
    /// How many entries there were, events or not.
    pub(super) len: usize,
}

/// Events of a task's stream. What isn't one (a newer rill's event, somebody
/// else's entry) is left out, and shows to readers as a gap.
pub(super) fn page(value: Value) -> Page {
    let raw = raw_entries(value);
    let last = raw.last().and_then(|entry| entry.id.parse().ok());
    let len = raw.len();
    let entries = raw
        .into_iter()
        .filter_map(|raw| {
            let id = raw.id.parse().ok()?;
            let name = std::str::from_utf8(raw.field("e")?).ok()?.parse().ok()?;
            let data = raw.field("d")?.clone();
            Some(Entry { id, name, data })
        })
        .collect();
    Page { entries, last, len }
}

/// The streams of an `XREAD` reply, by key. Nil (nothing new) is none.
pub(super) fn streams(value: Value) -> Vec<(String, Value)> {
    match value {
        Value::Map(pairs) => {
            pairs.into_iter().filter_map(|(key, entries)| Some((text(key)?, entries))).collect()
        }
        Value::Array(streams) => streams
            .into_iter()
            .filter_map(|stream| {
                let Value::Array(parts) = stream else { return None };
                let mut parts = parts.into_iter();
                Some((text(parts.next()?)?, parts.next()?))
            })
            .collect(),
        _ => Vec::new(),
    }
}
