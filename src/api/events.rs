//! What a stream's events say, for the document. The server itself forwards
//! what is stored; a test holds the two together.

use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};

use super::failure_code::FailureCode;
use super::messages::ToolCall;
use super::tasks::Usage;
use super::union::tagged_union;
use crate::domain::MessageId;

/// An event's schema: a struct whose `type` has one value, the event's name.
macro_rules! event {
    ($(#[$doc:meta])* $event:ident, $kind:ident::$value:ident { $($fields:tt)* }) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Enum)]
        #[oai(rename_all = "snake_case")]
        #[serde(rename_all = "snake_case")]
        pub(super) enum $kind {
            $value,
        }

        $(#[$doc])*
        #[derive(Debug, Serialize, Deserialize, Object)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $event {
            /// The event's name.
            r#type: $kind,
            $($fields)*
        }
    };
}

event!(
    /// `started`, a reset: an attempt begins; drop what earlier ones sent.
    StartedEvent, StartedType::Started {
        /// Which attempt, from 1.
        attempt: u32,
        /// The model that answers.
        model: String,
        /// Parameters of the request that were left out, as the model's server would
        /// refuse them: the deployment's operator has said so. Absent if there are none.
        dropped_parameters: Option<Vec<String>>,
        /// The oldest message that the model is told, where older ones are left out: the
        /// conversation is larger than a prompt may be. Absent if it is told all of it.
        prompt_begins_with: Option<MessageId>,
    }
);

event!(
    /// `delta`: append to the answer.
    DeltaEvent, DeltaType::Delta {
        /// The text; any piece of it, perhaps empty.
        text: String,
    }
);

event!(
    /// `reasoning`: append to the reasoning.
    ReasoningEvent, ReasoningType::Reasoning {
        /// The text; any piece of it, perhaps empty.
        text: String,
    }
);

event!(
    /// `tool_call`: append to the arguments of the call with this index. `id` and
    /// `name` come with its first piece, or later where the model's server gives them
    /// later; the newest counts.
    ToolCallEvent, ToolCallType::ToolCall {
        /// Which of the answer's calls.
        index: u32,
        /// The ID that a result answers it by.
        id: Option<String>,
        /// The function's name.
        name: Option<String>,
        /// The next piece of the arguments' JSON text.
        arguments: String,
    }
);

event!(
    /// `retrying`: this attempt failed, another follows.
    RetryingEvent, RetryingType::Retrying {
        /// The attempt that failed.
        attempt: u32,
        /// Why; stable.
        code: FailureCode,
        /// When the next one may begin, in milliseconds.
        retry_in_ms: u64,
    }
);

event!(
    /// `snapshot`, a reset: replace everything with this.
    SnapshotEvent, SnapshotType::Snapshot {
        /// The answer so far.
        text: String,
        /// The reasoning so far.
        reasoning: Option<String>,
        /// The tool calls so far.
        tool_calls: Option<Vec<ToolCall>>,
    }
);

event!(
    /// `done`, terminal: the answer is complete.
    DoneEvent, DoneType::Done {
        /// The assistant's message.
        message_id: MessageId,
        /// Why the model stopped: `stop`, `length`, `tool_calls`, `content_filter`, …
        finish_reason: String,
        /// Tokens counted, where the model said.
        #[oai(nullable)]
        usage: Option<Usage>,
    }
);

event!(
    /// `failed`, terminal: no answer will follow; partial text is kept.
    FailedEvent, FailedType::Failed {
        /// The assistant's message.
        message_id: MessageId,
        /// Why; stable.
        code: FailureCode,
        /// Why, in words.
        message: String,
        /// Tokens counted, where known.
        usage: Option<Usage>,
    }
);

event!(
    /// `cancelled`, terminal: stopped by the caller; partial text is kept.
    CancelledEvent, CancelledType::Cancelled {
        /// The assistant's message.
        message_id: MessageId,
        /// Tokens counted, where known.
        usage: Option<Usage>,
    }
);

event!(
    /// `ping`, which has no `id`: the connection lives.
    PingEvent, PingType::Ping {
    }
);

/// The data of any event; its `type`, which is the event's name, says which of
/// these it is. Events of other types are to be ignored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum TaskEvent {
    Started(StartedEvent),
    Delta(DeltaEvent),
    Reasoning(ReasoningEvent),
    ToolCall(ToolCallEvent),
    Retrying(RetryingEvent),
    Snapshot(SnapshotEvent),
    Done(DoneEvent),
    Failed(FailedEvent),
    Cancelled(CancelledEvent),
    Ping(PingEvent),
}

tagged_union!(TaskEvent by "type" described
    "The data of any event. Its `type`, which is the event's name, says which of these it is. Events of \
     other types are to be ignored." {
    "started" => StartedEvent,
    "delta" => DeltaEvent,
    "reasoning" => ReasoningEvent,
    "tool_call" => ToolCallEvent,
    "retrying" => RetryingEvent,
    "snapshot" => SnapshotEvent,
    "done" => DoneEvent,
    "failed" => FailedEvent,
    "cancelled" => CancelledEvent,
    "ping" => PingEvent,
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Answer;
    use crate::domain::answer;
    use crate::domain::event::{self, Event};

    /// The document's type reads what is stored and writes it again, but for
    /// fields that are left away when they are null.
    fn fits(event: &Event) {
        let data = &event.encode().data;
        let read: TaskEvent =
            serde_json::from_str(data).unwrap_or_else(|error| panic!("{data}: {error}"));
        let mut written = serde_json::to_value(read).expect("JSON");
        let mut stored: serde_json::Value = serde_json::from_str(data).expect("JSON");
        for json in [&mut written, &mut stored] {
            json.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
        }
        assert_eq!(written, stored);
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
        fits(&Event::Started {
            attempt: 1,
            model: "m".into(),
            dropped_parameters: Vec::new(),
            prompt_begins_with: None,
        });
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
            opaque: vec![crate::domain::opaque::OpaqueData {
                call: None,
                name: "x".into(),
                json: "1".into(),
            }],
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
