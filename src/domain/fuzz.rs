//! Event IDs and events from arbitrary bytes. See `crate::fuzz`.

use super::event::{Event, EventName};
use super::event_id::EventId;
use crate::fuzz::Input;

/// An ID is accepted exactly as it is written, or refused.
pub(crate) fn event_id(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(id) = text.parse::<EventId>() {
        assert_eq!(id.to_string(), text);
        assert!(id == EventId::START || id.before() < id);
    }
}

/// An event's name, a line break, its data.
pub(crate) fn event(input: &[u8]) {
    let mut input = Input(input);
    let end = input.0.iter().position(|&byte| byte == b'\n').unwrap_or(input.0.len());
    let name = input.bytes(end);
    input.byte();
    let Some(name) = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()) else {
        return;
    };
    match Event::decode(name, input.0) {
        Err(error) => assert!(error.to_string().len() < 256 + input.0.len(), "{error}"),
        Ok(event) => {
            let encoded = event.encode();
            assert_eq!(encoded.name, name);
            assert!(!encoded.data.bytes().any(|byte| byte < b' '), "one line: {encoded:?}");
            let again = Event::decode(name, encoded.data.as_bytes()).expect("our own");
            assert_eq!(again, event);
            assert_eq!(again.encode(), encoded);
            // `Answer::apply` takes whatever decodes.
            let mut answer = super::Answer::default();
            answer.apply(&event);
            let kept =
                matches!(name, EventName::Started | EventName::Complete) || answer.is_empty();
            assert!(kept || !encoded.data.is_empty());
        }
    }
}
