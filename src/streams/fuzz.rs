//! Redis' replies and stored streams from arbitrary bytes. See `crate::fuzz`.

use redis::Value;

use super::entry::{Entry, Page, page, raw_entries, streams};
use super::history::History;
use super::queue::Delivery;
use crate::domain::{Answer, Class, Event, EventId, EventName, StoredName};
use crate::fuzz::Input;

/// A reply of any form: some like those of `XREAD`, some not.
fn value(input: &mut Input<'_>, depth: usize) -> Value {
    let kind = input.byte();
    let length = usize::from(kind >> 4);
    let values = |input: &mut Input<'_>, of: usize| -> Vec<Value> {
        (0..of).map_while(|_| (!input.is_empty()).then(|| value(input, depth + 1))).collect()
    };
    match kind & 15 {
        0 => Value::Nil,
        1 => Value::Int(i64::from(input.byte())),
        2 => Value::SimpleString(String::from_utf8_lossy(input.bytes(length)).into_owned()),
        3 => Value::Okay,
        4 => Value::Boolean(length > 0),
        5 => Value::Double(f64::from(input.byte())),
        6..=8 if depth < 6 => Value::Array(values(input, length)),
        9 | 10 if depth < 6 => {
            let pairs = values(input, 2 * length);
            let pairs = pairs.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
            Value::Map(pairs.collect())
        }
        11 if depth < 6 => Value::Set(values(input, length)),
        // An entry as it should be, with an ID and a name of the input's.
        12 => {
            let text = |text: String| Value::BulkString(text.into());
            let id = text(format!("{}-{}", input.byte(), input.byte()));
            let name = name(input).as_str().to_owned();
            let data = Value::BulkString(input.bytes(length).to_vec());
            let fields = vec![text("e".into()), text(name), text("d".into()), data];
            Value::Array(vec![id, Value::Array(fields)])
        }
        13 => Value::BulkString(b"task".to_vec()),
        14 => Value::BulkString(b"1-1".to_vec()),
        _ => Value::BulkString(input.bytes(length * 3).to_vec()),
    }
}

/// A name of ours, or of another version's.
fn name(input: &mut Input<'_>) -> StoredName {
    const OTHERS: [&str; 4] = ["status", "content.newer", "internal.newer", "content"];
    let n = usize::from(input.byte()) % (EventName::ALL.len() + OTHERS.len());
    match EventName::ALL.get(n) {
        Some(known) => StoredName::Known(*known),
        None => StoredName::Other(OTHERS[n - EventName::ALL.len()].into()),
    }
}

/// Whatever Redis answers, entries and jobs are taken from it or left out.
pub(crate) fn entries(input: &[u8]) {
    let value = value(&mut Input(input), 0);
    let Page { entries, last, len, bytes: _ } = page(value.clone());
    assert!(entries.len() <= len);
    assert!(len <= input.len());
    assert!(last.is_some() || entries.last().is_none_or(|_| len > entries.len()));
    for (_, stream) in streams(value.clone()) {
        page(stream);
    }
    for raw in raw_entries(value) {
        let field = raw.field("task").cloned();
        let delivery = Delivery::from(raw);
        if let Some(task) = delivery.task {
            let field = field.expect("a field");
            let text = std::str::from_utf8(&field).expect("text");
            assert_eq!(text.parse(), Ok(task));
        }
    }
}

/// Entries in order: a step in IDs, a name, a length and data.
pub(crate) fn history(input: &[u8]) {
    let mut input = Input(input);
    let mut stored: Vec<Entry> = Vec::new();
    let mut id = EventId::START;
    while !input.is_empty() {
        id = match input.byte() {
            // The next attempt.
            0 => EventId::new(id.attempt.saturating_add(1), 0),
            255 => EventId::new(id.attempt, u64::MAX),
            step => EventId::new(id.attempt, id.seq.saturating_add(u64::from(step))),
        };
        if stored.last().is_some_and(|last| id <= last.id) {
            break;
        }
        let name = name(&mut input);
        let length = usize::from(input.byte());
        stored.push(Entry::new(id, name, input.bytes(length).to_vec()));
    }
    let history = History::fold(&stored);
    let (answer, complete, says_more) = folded(&stored);
    assert_eq!(history.answer, answer);
    assert_eq!((history.completion.is_some(), history.says_more), (complete, says_more));
    assert!(stored.last().is_none_or(|last| last.id.attempt == history.attempt));
}

/// The same, in other words: every run without a gap that begins with a reset, up
/// to content that only a newer version understands.
fn folded(stored: &[Entry]) -> (Answer, bool, bool) {
    let newest = stored.last().map(|entry| entry.id.attempt);
    let newest: Vec<_> = stored.iter().filter(|entry| Some(entry.id.attempt) == newest).collect();
    let (mut answer, mut complete, mut whole) = (Answer::default(), false, None::<EventId>);
    let mut says_more = false;
    for entry in newest {
        let class = entry.name.class();
        let follows = whole.is_some_and(|last| last.seq.checked_add(1) == Some(entry.id.seq));
        whole = (follows || class == Class::Reset).then_some(entry.id);
        says_more &= class != Class::Reset;
        if whole.is_none() {
            continue;
        }
        let Some(name) = entry.name.known() else {
            says_more |= class == Class::Content;
            continue;
        };
        match Event::decode(name, &entry.data) {
            Ok(_) if name == EventName::Retrying => says_more = false,
            Ok(_) if says_more => {}
            Ok(event) => {
                answer.apply(&event);
                says_more = event.leaves_content_out(&entry.data);
                complete |= name == EventName::Complete;
            }
            Err(_) => whole = None,
        }
    }
    (answer, complete, says_more)
}
