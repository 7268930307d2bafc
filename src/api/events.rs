//! What a stream's events say, for the document. The server itself forwards
//! what is stored; a test holds the two together.

use std::borrow::Cow;

use poem_openapi::Object;
use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::Type;
use serde::{Deserialize, Serialize};

use super::messages::ToolCall;
use super::tasks::Usage;
use crate::domain::MessageId;

/// `started`, a reset: an attempt begins; drop what earlier ones sent.
#[derive(Debug, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct StartedEvent {
    /// Which attempt, from 1.
    attempt: u32,
    /// The model that answers.
    model: String,
}

/// `delta`: append to the answer. `reasoning`: append to the reasoning.
#[derive(Debug, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct TextEvent {
    /// The text; any piece of it, perhaps empty.
    text: String,
}

/// `tool_call`: append to the arguments of the call with this index; `id` and
/// `name` come with its first piece.
#[derive(Debug, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct ToolCallEvent {
    /// Which of the answer's calls.
    index: u32,
    /// The ID that a result answers it by.
    id: Option<String>,
    /// The function's name.
    name: Option<String>,
    /// The next piece of the arguments' JSON text.
    arguments: String,
}

/// `retrying`: this attempt failed, another follows.
#[derive(Debug, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct RetryingEvent {
    /// The attempt that failed.
    attempt: u32,
    /// Why; stable.
    code: String,
    /// When the next one may begin, in milliseconds.
    retry_in_ms: u64,
}

/// `snapshot`, a reset: replace everything with this.
#[derive(Debug, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct SnapshotEvent {
    /// The answer so far.
    text: String,
    /// The reasoning so far.
    reasoning: Option<String>,
    /// The tool calls so far.
    tool_calls: Option<Vec<ToolCall>>,
}

/// `done`, terminal: the answer is complete.
#[derive(Debug, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct DoneEvent {
    /// The assistant's message.
    message_id: MessageId,
    /// Why the model stopped: `stop`, `length`, `tool_calls`, `content_filter`, …
    finish_reason: String,
    /// Tokens counted, where the model said.
    #[oai(nullable)]
    usage: Option<Usage>,
}

/// `failed`, terminal: no answer will follow; partial text is kept.
#[derive(Debug, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct FailedEvent {
    /// The assistant's message.
    message_id: MessageId,
    /// Why; stable.
    code: String,
    /// Why, in words.
    message: String,
    /// Tokens counted, where known.
    usage: Option<Usage>,
}

/// `cancelled`, terminal: stopped by the caller; partial text is kept.
#[derive(Debug, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct CancelledEvent {
    /// The assistant's message.
    message_id: MessageId,
    /// Tokens counted, where known.
    usage: Option<Usage>,
}

/// The data of any event. The event's name says which of these it is.
#[derive(Debug)]
pub(super) struct TaskEvent;

impl Type for TaskEvent {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "TaskEvent".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Reference("TaskEvent".to_owned())
    }

    fn register(registry: &mut Registry) {
        macro_rules! any_of {
            ($($event:ty),*) => {
                registry.create_schema::<Self, _>("TaskEvent".to_owned(), |registry| {
                    $(<$event>::register(registry);)*
                    MetaSchema {
                        description: Some(
                            "The data of an event. Its name says which of these it is: `started`, \
                             `delta` and `reasoning` (TextEvent), `tool_call`, `retrying`, `snapshot`, \
                             `done`, `failed`, `cancelled`. Events with other names are to be ignored.",
                        ),
                        // Not `oneOf`: {"text": …} alone is a delta and a snapshot.
                        any_of: vec![$(<$event>::schema_ref()),*],
                        ..MetaSchema::ANY
                    }
                })
            };
        }
        any_of!(
            StartedEvent,
            TextEvent,
            ToolCallEvent,
            RetryingEvent,
            SnapshotEvent,
            DoneEvent,
            FailedEvent,
            CancelledEvent
        );
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::answer;
    use crate::domain::event::{self, Event};
    use crate::domain::{Answer, EventName};

    /// The document's type reads what is stored and writes it again, but for
    /// fields that are left away when they are null.
    fn fits(event: &Event) {
        fn same<T: Serialize + serde::de::DeserializeOwned>(data: &str) {
            let read: T =
                serde_json::from_str(data).unwrap_or_else(|error| panic!("{data}: {error}"));
            let mut written = serde_json::to_value(read).expect("JSON");
            let mut stored: serde_json::Value = serde_json::from_str(data).expect("JSON");
            for json in [&mut written, &mut stored] {
                json.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
            }
            assert_eq!(written, stored);
        }
        let encoded = event.encode();
        match encoded.name {
            EventName::Started => same::<StartedEvent>(&encoded.data),
            EventName::Delta | EventName::Reasoning => same::<TextEvent>(&encoded.data),
            EventName::ToolCall => same::<ToolCallEvent>(&encoded.data),
            EventName::Retrying => same::<RetryingEvent>(&encoded.data),
            EventName::Snapshot => same::<SnapshotEvent>(&encoded.data),
            EventName::Done => same::<DoneEvent>(&encoded.data),
            EventName::Failed => same::<FailedEvent>(&encoded.data),
            EventName::Cancelled => same::<CancelledEvent>(&encoded.data),
            EventName::Complete => {}
        }
    }

    #[test]
    fn the_document_describes_what_is_stored() {
        let message_id = MessageId::generate();
        let usage = Some(event::Usage { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 });
        let call = answer::ToolCall {
            index: 0,
            id: Some("a".into()),
            name: Some("clock".into()),
            arguments: "{}".into(),
        };
        fits(&Event::Started { attempt: 1, model: "m".into() });
        fits(&Event::Delta { text: "a".into() });
        fits(&Event::Reasoning { text: "a".into() });
        fits(&Event::ToolCall(event::ToolCallDelta {
            index: 0,
            id: Some("a".into()),
            name: None,
            arguments: "{".into(),
        }));
        fits(&Event::Retrying { attempt: 1, code: "c".into(), retry_in_ms: 5 });
        fits(&Event::Snapshot(Answer {
            text: "a".into(),
            reasoning: "b".into(),
            tool_calls: vec![call],
        }));
        fits(&Event::Snapshot(Answer::default()));
        for usage in [usage, None] {
            fits(&Event::Done { message_id, finish_reason: "stop".into(), usage });
            let (code, message) = ("c".to_owned(), "m".to_owned());
            fits(&Event::Failed { message_id, code, message, usage });
            fits(&Event::Cancelled { message_id, usage });
        }
    }
}
