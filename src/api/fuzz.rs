//! What requests bring, and the frames that answer them, from arbitrary bytes.
//! See `crate::fuzz`.

use poem_openapi::types::ParseFromParameter;
use serde_json::Value;

use super::body::JsonBody;
use super::extract::{Limit, RawHeader, once};
use super::new_message::{NewMessage, idempotency_key, judge};
use super::parameters::passed_on;
use super::request_hash::request_hash;
use super::sse_grammar::{Dispatched, decode};
use super::stream::{cursor, encode_all};
use crate::domain::message::{Content, Role, ToolResult};
use crate::domain::{ConversationId, EventId, RawObject, StoredName};
use crate::fuzz::Input;
use crate::streams::Entry;

/// Cursors, as header and in the URL, a line each; then pages' cursors and
/// sizes, and keys.
pub(crate) fn cursors(input: &[u8]) {
    let mut lines = input.splitn(2, |&byte| byte == b'\n');
    let (header, query) = (lines.next(), lines.next());
    let text = query.and_then(|query| std::str::from_utf8(query).ok());
    for (header, query) in [(header, None), (None, text), (header, text)] {
        let header_says = header.map(|header| once(std::str::from_utf8(header).ok()?, ","));
        let given = match header_says {
            None | Some(Some("")) => Some(query.unwrap_or_default()),
            Some(says) => says,
        };
        match cursor(header, query) {
            Ok(EventId::START) => assert!(matches!(given, Some("" | "0-0"))),
            Ok(id) => assert_eq!(Some(id.to_string().as_str()), given),
            Err(_) => assert_ne!(given, Some("")),
        }
    }
    if let Ok(text) = std::str::from_utf8(input) {
        if let Ok(id) = text.parse::<ConversationId>() {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        if let Ok(limit) = Limit::parse_from_parameter(text) {
            assert!((1..=100).contains(&limit.get()));
        }
    }
    if let Ok(Some(key)) = idempotency_key(RawHeader(Some(input.to_vec()))) {
        assert!(
            input.trim_ascii() == key.as_bytes() || String::from_utf8_lossy(input).contains(", ")
        );
    }
}

/// A message's body: what is accepted can be stored and passed on.
pub(crate) fn message(input: &[u8]) {
    let body = match JsonBody::<NewMessage>::parse(input) {
        Ok(body) => body,
        Err(problem) => {
            assert!(problem.to_string().len() <= 4 * 1024);
            return;
        }
    };
    let Ok(said) = judge(&body, super::image_url::ImageUrls::Any) else { return };
    assert!(body.value.content.is_some() != body.value.tool_results.is_some());
    let passed_on = passed_on(&body.raw);
    assert!(!passed_on.iter().any(|(_, value)| value.get() == "null"));
    for stored in [&said.content, &passed_on.to_json()] {
        let value = serde_json::from_str(stored).expect("JSON");
        assert!(!has_nul(&value), "PostgreSQL can't store {stored}");
    }
    if said.role == Role::User {
        serde_json::from_str::<Content>(&said.content).expect("a prompt can be made of it");
    } else {
        serde_json::from_str::<Vec<ToolResult>>(&said.content).expect("and of results");
    }
    serde_json::from_str::<RawObject>(&passed_on.to_json()).expect("and of parameters");
    // As it is repeated, and as it is kept.
    let text = body.raw.to_json();
    assert_eq!(request_hash(b"", &text), request_hash(b"", &format!(" {text}\n")));
    assert_ne!(request_hash(b"", &text), request_hash(b"x", &text));
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(fields) => {
            fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Frames around any data that has no line break are read back as they were,
/// by the standard's grammar.
pub(crate) fn frames(input: &[u8]) {
    const NAMES: [&[u8]; 4] = [b"delta", b"snapshot", b"done", b"content.newer"];
    let mut input = Input(input);
    let mut entries = Vec::new();
    while !input.is_empty() {
        let attempt = 1 + u32::from(input.byte());
        let name = StoredName::read(NAMES[usize::from(input.byte()) % NAMES.len()]);
        let length = usize::from(input.byte());
        let data = String::from_utf8_lossy(input.bytes(length)).replace(['\n', '\r'], "\u{2028}");
        let id = EventId::new(attempt, entries.len() as u64);
        entries.push(Entry::new(id, name.expect("a name"), data));
    }
    let decoded = decode(&encode_all(&entries)).expect("what we write is in the grammar");
    let expected: Vec<_> = entries
        .iter()
        .map(|entry| Dispatched {
            id: entry.id.to_string(),
            event: entry.name.as_str().to_owned(),
            data: String::from_utf8_lossy(&entry.data).into_owned(),
        })
        .collect();
    assert_eq!(decoded.events, expected);
}
