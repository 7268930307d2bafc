//! What a task's stream says, and how it is written down.
//!
//! An event is stored as fields of a stream's entry: its name and one line of
//! JSON, which is exactly what SSE sends as `data:`, so serving it is forwarding
//! bytes; and fields that are sent to nobody (`streams/entry.rs` lists them).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::Answer;
pub use super::event_name::EventName;
use super::ids::MessageId;
use super::line;
use super::opaque::OpaqueData;

/// Tokens counted by the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Tokens of the answer, reasoning included.
    #[serde(default)]
    pub completion_tokens: u64,
    /// Both together.
    #[serde(default)]
    pub total_tokens: u64,
}

/// A piece of a tool call: appended to the call with the same `index`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCallDelta {
    /// Which of the answer's calls this belongs to.
    pub index: u32,
    /// The call's ID, on its first piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The function's name, on its first piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The next characters of the arguments' JSON text.
    #[serde(default)]
    pub arguments: String,
}

/// One event of a task's stream. Its JSON is the stored data: the name as `type`,
/// first, then its fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// An attempt begins: drop what earlier attempts sent.
    Started {
        /// Which attempt.
        attempt: u32,
        /// The model that answers.
        model: String,
        /// Parameters of the request that its profile leaves out.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        dropped_parameters: Vec<String>,
        /// The oldest message that the model is told, where older ones are left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prompt_begins_with: Option<MessageId>,
    },
    /// Append to the answer.
    Delta {
        /// The text.
        text: String,
    },
    /// Append to the reasoning.
    Reasoning {
        /// The text.
        text: String,
    },
    /// Append to a tool call.
    ToolCall(ToolCallDelta),
    /// This attempt failed; another follows.
    Retrying {
        /// The attempt that failed.
        attempt: u32,
        /// Why, as a stable code.
        code: String,
        /// When the next one may start, in milliseconds.
        retry_in_ms: u64,
    },
    /// Replace everything with this.
    Snapshot(Answer),
    /// The answer is complete.
    Done {
        /// The assistant's message.
        message_id: MessageId,
        /// Why the model stopped (`stop`, `length`, `tool_calls`, …).
        finish_reason: String,
        /// Tokens counted.
        usage: Option<Usage>,
    },
    /// No answer will follow; partial text is kept.
    Failed {
        /// The assistant's message.
        message_id: MessageId,
        /// Why, as a stable code.
        code: String,
        /// Why, for people.
        message: String,
        /// Tokens counted, where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
    },
    /// Stopped by the caller; partial text is kept.
    Cancelled {
        /// The assistant's message.
        message_id: MessageId,
        /// Tokens counted, where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
    },
    /// The model has finished: whoever finds this can commit without calling
    /// the model again.
    Complete {
        /// Why the model stopped.
        finish_reason: String,
        /// Tokens counted, where known.
        usage: Option<Usage>,
    },
    /// All data that the model's server wants back with the answer.
    #[serde(rename = "internal.opaque")]
    Opaque {
        /// In the order in which it came.
        data: Vec<OpaqueData>,
    },
}

/// An event as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Field `e`, and SSE's `event:`.
    pub name: EventName,
    /// Field `d`, and SSE's `data:`; one line of JSON that begins with its `type`.
    pub data: String,
    /// Field `o` of a snapshot, never sent to readers: the answer's
    /// [`OpaqueData`], as a JSON array, for a worker that takes over.
    pub opaque: Option<String>,
}

impl Encoded {
    /// [`Event::Delta`], encoded.
    pub fn delta(text: &str) -> Self {
        Self::text(EventName::Delta, r#"{"type":"delta","text":"#, text)
    }

    /// [`Event::Reasoning`], encoded.
    pub fn reasoning(text: &str) -> Self {
        Self::text(EventName::Reasoning, r#"{"type":"reasoning","text":"#, text)
    }

    /// As [`Event::encode`] does, from text that stays where it is: each token goes
    /// through here.
    fn text(name: EventName, start: &str, text: &str) -> Self {
        let mut data = Vec::with_capacity(start.len() + text.len() + 8);
        data.extend_from_slice(start.as_bytes());
        // A string has JSON, and a `Vec` takes it.
        let _ = line::write_text(&mut data, text);
        data.push(b'}');
        Self { name, data: String::from_utf8(data).unwrap_or_default(), opaque: None }
    }
}

/// JSON in one line.
pub(crate) fn json(value: &impl Serialize) -> String {
    let mut data = Vec::with_capacity(128);
    // serde_json fails on maps with keys that aren't strings and on failing
    // `Serialize`s; what is encoded here has neither.
    match line::write(&mut data, value) {
        Ok(()) => String::from_utf8(data).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

/// Stored data that is not what its name says.
#[derive(Debug, thiserror::Error)]
#[error("the data of a stored {name} event is not what it should be: {source}")]
pub struct DecodeError {
    /// The event's name.
    pub name: EventName,
    /// What was wrong.
    #[source]
    pub source: serde_json::Error,
}

impl Event {
    /// The event's name.
    pub const fn name(&self) -> EventName {
        match self {
            Self::Started { .. } => EventName::Started,
            Self::Delta { .. } => EventName::Delta,
            Self::Reasoning { .. } => EventName::Reasoning,
            Self::ToolCall(_) => EventName::ToolCall,
            Self::Retrying { .. } => EventName::Retrying,
            Self::Snapshot(_) => EventName::Snapshot,
            Self::Done { .. } => EventName::Done,
            Self::Failed { .. } => EventName::Failed,
            Self::Cancelled { .. } => EventName::Cancelled,
            Self::Complete { .. } => EventName::Complete,
            Self::Opaque { .. } => EventName::Opaque,
        }
    }

    /// The form that is stored and sent. The data has no raw line break, of ASCII or
    /// Unicode, and no other control character.
    pub fn encode(&self) -> Encoded {
        let opaque = match self {
            Self::Snapshot(answer) if !answer.opaque.is_empty() => Some(json(&answer.opaque)),
            _ => None,
        };
        Encoded { name: self.name(), data: json(self), opaque }
    }

    /// Reads back the data that [`Event::encode`] wrote. Fields that this version
    /// doesn't know are passed over; see [`Event::leaves_content_out`].
    ///
    /// # Errors
    /// When `data` is not the JSON that an event of this name has.
    pub fn decode(name: EventName, data: &[u8]) -> Result<Self, DecodeError> {
        let failed = |source| DecodeError { name, source };
        let event: Self = serde_json::from_slice(data).map_err(failed)?;
        if event.name() == name {
            return Ok(event);
        }
        let odd = format_args!("it says that it is of type {}", event.name());
        Err(failed(serde::de::Error::custom(odd)))
    }

    /// Stored data says more of the answer than this event, which was read from it:
    /// a newer worker's `snapshot` has content in fields of its own, at any depth.
    /// (Any other event of a known name adds what it always added.)
    pub fn leaves_content_out(&self, data: &[u8]) -> bool {
        let Self::Snapshot(_) = self else { return false };
        let (stored, known) = (serde_json::from_slice(data), serde_json::to_value(self));
        stored.is_ok_and(|stored| known.is_ok_and(|known| has_more(&stored, &known)))
    }
}

/// There are fields in `stored` that aren't in `known`, and say something.
fn has_more(stored: &Value, known: &Value) -> bool {
    match (stored, known) {
        (Value::Object(stored), Value::Object(known)) => {
            stored.iter().any(|(name, value)| match known.get(name) {
                Some(known) => has_more(value, known),
                None => {
                    !matches!(value, Value::Null)
                        && *value != ""
                        && *value != json!([])
                        && *value != json!({})
                }
            })
        }
        (Value::Array(stored), Value::Array(known)) => {
            stored.len() != known.len() || stored.iter().zip(known).any(|(s, k)| has_more(s, k))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_survives_as_one_line(text in any::<String>()) {
            let encoded = Encoded::delta(&text);
            prop_assert_eq!(&encoded, &Event::Delta { text: text.clone() }.encode());
            prop_assert_eq!(Encoded::reasoning(&text), Event::Reasoning { text: text.clone() }.encode());
            prop_assert!(!encoded.data.contains(['\n', '\r']));
            let decoded = Event::decode(encoded.name, encoded.data.as_bytes()).expect("decodes");
            prop_assert_eq!(decoded, Event::Delta { text });
        }
    }

    #[test]
    fn every_event_reads_back_as_written() {
        let message_id = MessageId::generate();
        let usage = Some(Usage { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 });
        let events = [
            Event::Started {
                attempt: 1,
                model: "m".into(),
                dropped_parameters: vec!["seed".into()],
                prompt_begins_with: Some(message_id),
            },
            Event::Reasoning { text: "\u{1f600}\r\n\"".into() },
            Event::ToolCall(ToolCallDelta {
                index: 1,
                id: Some("call".into()),
                name: Some("f".into()),
                arguments: "{\"a\":".into(),
            }),
            Event::Retrying { attempt: 1, code: "upstream".into(), retry_in_ms: 5 },
            Event::Snapshot(Answer { text: "x".into(), ..Answer::default() }),
            Event::Done { message_id, finish_reason: "stop".into(), usage },
            Event::Failed { message_id, code: "c".into(), message: "m".into(), usage: None },
            Event::Cancelled { message_id, usage },
            Event::Complete { finish_reason: "stop".into(), usage },
            Event::Opaque {
                data: vec![OpaqueData { call: Some(1), name: "n".into(), json: "{}".into() }],
            },
        ];
        for event in events {
            let encoded = event.encode();
            assert_eq!(encoded.name.as_str().parse(), Ok(encoded.name));
            let first = format!("{{\"type\":\"{}\",", encoded.name);
            assert!(encoded.data.starts_with(&first), "{}", encoded.data);
            let decoded = Event::decode(encoded.name, encoded.data.as_bytes()).expect("decodes");
            assert_eq!(decoded, event);
        }
    }

    #[test]
    fn fields_of_newer_versions_are_passed_over_and_a_snapshot_s_are_content() {
        let more = |name, data: &str| {
            let event = Event::decode(name, data.as_bytes()).expect("an event");
            event.leaves_content_out(data.as_bytes())
        };
        let call = |rest: &str| {
            format!(
                r#"{{"type":"snapshot","text":"a","tool_calls":[{{"index":0,"arguments":""{rest}}}]}}"#
            )
        };
        assert!(more(EventName::Snapshot, r#"{"type":"snapshot","text":"a","citations":[1]}"#));
        assert!(more(EventName::Snapshot, &call(r#","kind":"custom""#)));
        assert!(!more(EventName::Snapshot, &call(r#","id":"c","kind":null"#)));
        assert!(!more(EventName::Snapshot, r#"{"type":"snapshot","text":"a","reasoning":""}"#));
        let known = Event::Snapshot(Answer { text: "a".into(), ..Answer::default() });
        assert!(!more(EventName::Snapshot, &known.encode().data));
        assert!(!more(EventName::Delta, r#"{"type":"delta","text":"a","logprob":-0.5}"#));
    }

    #[test]
    fn data_of_another_type_than_the_name_is_refused() {
        let delta = Encoded::delta("a").data;
        assert!(Event::decode(EventName::Reasoning, delta.as_bytes()).is_err());
        assert!(Event::decode(EventName::Delta, br#"{"text":"a"}"#).is_err());
    }
}
