//! Replies of `XREAD`, `XRANGE` and `XREADGROUP`, taken apart without copies.
//!
//! | field of an event's entry | holds | sent to readers |
//! |---|---|---|
//! | `e` | the name | as `event:` |
//! | `d` | one line of JSON | as `data:` |
//! | `t` | when it was appended: milliseconds of Unix time, the worker's clock | no |
//! | `o` | a snapshot's opaque data, a JSON array; only where there is any | no |
//! | `c` | the claim that began the attempt; only in its first entry | no |
//!
//! Other fields, of newer versions, are passed over.

use bytes::Bytes;
use memchr::memchr2;
use redis::Value;

use crate::domain::{EventId, StoredName};

/// One stored event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its ID in the stream.
    pub id: EventId,
    /// Field `e`.
    pub name: StoredName,
    /// Field `d`: one line of JSON.
    pub data: Bytes,
    /// Field `t`: milliseconds of Unix time; 0 where it isn't told.
    pub appended_ms: u64,
}

impl Entry {
    /// An entry that doesn't tell when it was appended.
    pub fn new(id: EventId, name: impl Into<StoredName>, data: impl Into<Bytes>) -> Self {
        Self { id, name: name.into(), data: data.into(), appended_ms: 0 }
    }
}

/// The fields of an entry, as far as they are an event's; the first of each
/// name counts.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct EventFields<'a> {
    name: Option<&'a [u8]>,
    data: Option<&'a [u8]>,
    time: Option<&'a [u8]>,
    opaque: Option<&'a [u8]>,
}

impl<'a> EventFields<'a> {
    pub(super) fn take(&mut self, field: &[u8], value: &'a [u8]) {
        let place = match field {
            b"e" => &mut self.name,
            b"d" => &mut self.data,
            b"t" => &mut self.time,
            b"o" => &mut self.opaque,
            _ => return,
        };
        if place.is_none() {
            *place = Some(value);
        }
    }

    pub(super) const fn opaque(&self) -> Option<&'a [u8]> {
        self.opaque
    }

    /// The event that the fields are, its data by `keep`. Nothing if no version
    /// of rill could have written it: it would break its frame.
    pub(super) fn event(self, id: EventId, keep: impl FnOnce(&'a [u8]) -> Bytes) -> Option<Entry> {
        let (name, data) = (StoredName::read(self.name?)?, self.data?);
        if name.known().is_none() && memchr2(b'\n', b'\r', data).is_some() {
            return None;
        }
        let time = self.time.and_then(|time| std::str::from_utf8(time).ok()?.parse().ok());
        Some(Entry { id, name, data: keep(data), appended_ms: time.unwrap_or(0) })
    }
}

/// An entry of any stream: its ID as text, and its fields.
pub(super) struct RawEntry {
    pub(super) id: String,
    pub(super) fields: Vec<(Bytes, Bytes)>,
}

impl RawEntry {
    /// Bytes of its fields.
    pub(super) fn bytes(&self) -> usize {
        self.fields.iter().map(|(field, value)| field.len() + value.len()).sum()
    }

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
    /// Bytes of those entries, about.
    pub(super) bytes: usize,
}

/// What an entry takes in a reply beside its data, about.
const FRAME: usize = 100;

/// The task streams of an `XREAD` reply: each key, and what was read of it.
pub(super) fn pages(answer: Value) -> Vec<(Bytes, Page)> {
    streams(answer).into_iter().map(|(key, stream)| (key, page(stream))).collect()
}

/// Events of a task's stream, other versions' too. An entry that isn't one is
/// left out, and shows to readers as a gap.
pub(super) fn page(value: Value) -> Page {
    let Value::Array(stream) = value else {
        return Page::default();
    };
    let (mut last, mut len, mut bytes) = (None, 0, 0);
    let mut entries = Vec::with_capacity(stream.len());
    for entry in stream {
        let Some((id, fields)) = parts(entry) else { continue };
        len += 1;
        last = std::str::from_utf8(&id).ok().and_then(|id| id.parse().ok());
        let event = last.and_then(|id| event(id, fields));
        bytes += FRAME + event.as_ref().map_or(0, |event| event.data.len());
        entries.extend(event);
    }
    Page { entries, last, len, bytes }
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
    let pairs: Vec<_> =
        pairs(fields).filter_map(|(field, value)| Some((bytes(field)?, bytes(value)?))).collect();
    let mut fields = EventFields::default();
    pairs.iter().for_each(|(field, value)| fields.take(field, value));
    fields.event(id, Bytes::copy_from_slice)
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
