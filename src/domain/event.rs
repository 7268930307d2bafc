//! What a task's stream says, and how it is written down.
//!
//! An event is stored as two fields: its name and one line of JSON. The line
//! is exactly what SSE sends as `data:`, so serving it is forwarding bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::answer::Answer;
use super::ids::MessageId;

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

/// The names that events have on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventName {
    /// An attempt begins; a reset.
    Started,
    /// Text to append.
    Delta,
    /// Reasoning to append.
    Reasoning,
    /// A piece of a tool call.
    ToolCall,
    /// This attempt failed, another follows.
    Retrying,
    /// The whole answer so far; a reset.
    Snapshot,
    /// The answer is complete; terminal.
    Done,
    /// No answer will follow; terminal.
    Failed,
    /// The caller stopped it; terminal.
    Cancelled,
    /// The model has finished; stored, never forwarded.
    Complete,
}

impl EventName {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Started,
        Self::Delta,
        Self::Reasoning,
        Self::ToolCall,
        Self::Retrying,
        Self::Snapshot,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
        Self::Complete,
    ];

    /// As written in Redis and in `event:`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Delta => "delta",
            Self::Reasoning => "reasoning",
            Self::ToolCall => "tool_call",
            Self::Retrying => "retrying",
            Self::Snapshot => "snapshot",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Complete => "complete",
        }
    }

    /// The stream ends with this event.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }

    /// The reader drops what it has: everything follows from here.
    pub const fn is_reset(self) -> bool {
        matches!(self, Self::Started | Self::Snapshot)
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that this version doesn't know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown event name {0:?}")]
pub struct UnknownEventName(pub String);

impl FromStr for EventName {
    type Err = UnknownEventName;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|name| name.as_str() == s);
        known.ok_or_else(|| UnknownEventName(s.to_owned()))
    }
}

/// One event of a task's stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An attempt begins: drop what earlier attempts sent.
    Started {
        /// Which attempt.
        attempt: u32,
        /// The model that answers.
        model: String,
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
        usage: Option<Usage>,
    },
    /// Stopped by the caller; partial text is kept.
    Cancelled {
        /// The assistant's message.
        message_id: MessageId,
        /// Tokens counted, where known.
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
}

/// An event as stored: a name and one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Field `e`, and SSE's `event:`.
    pub name: EventName,
    /// Field `d`, and SSE's `data:`; one line of JSON.
    pub data: String,
}

impl Encoded {
    /// [`Event::Delta`], encoded.
    pub fn delta(text: &str) -> Self {
        Self { name: EventName::Delta, data: json(&TextData { text: text.into() }) }
    }

    /// [`Event::Reasoning`], encoded.
    pub fn reasoning(text: &str) -> Self {
        Self { name: EventName::Reasoning, data: json(&TextData { text: text.into() }) }
    }
}

/// JSON in one line.
fn json(value: &impl Serialize) -> String {
    // serde_json fails on maps with keys that aren't strings and on failing
    // `Serialize`s; what is encoded here has neither.
    serde_json::to_string(value).unwrap_or_default()
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

// The JSON forms. Separate from `Event`, because the name travels beside the
// data and not inside it.
#[derive(Serialize, Deserialize)]
struct StartedData<'a> {
    attempt: u32,
    #[serde(borrow)]
    model: std::borrow::Cow<'a, str>,
}
#[derive(Serialize, Deserialize)]
struct TextData<'a> {
    #[serde(borrow)]
    text: std::borrow::Cow<'a, str>,
}
#[derive(Serialize, Deserialize)]
struct RetryingData {
    attempt: u32,
    code: String,
    retry_in_ms: u64,
}
#[derive(Serialize, Deserialize)]
struct DoneData {
    message_id: MessageId,
    finish_reason: String,
    usage: Option<Usage>,
}
#[derive(Serialize, Deserialize)]
struct FailedData {
    message_id: MessageId,
    code: String,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}
#[derive(Serialize, Deserialize)]
struct CancelledData {
    message_id: MessageId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}
#[derive(Serialize, Deserialize)]
struct CompleteData {
    finish_reason: String,
    usage: Option<Usage>,
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
        }
    }

    /// The form that is stored and sent. The data has no raw line break or
    /// other control character: JSON escapes them.
    pub fn encode(&self) -> Encoded {
        let data = match self {
            Self::Started { attempt, model } => {
                json(&StartedData { attempt: *attempt, model: model.into() })
            }
            Self::Delta { text } => return Encoded::delta(text),
            Self::Reasoning { text } => return Encoded::reasoning(text),
            Self::ToolCall(delta) => json(delta),
            Self::Retrying { attempt, code, retry_in_ms } => json(&RetryingData {
                attempt: *attempt,
                code: code.clone(),
                retry_in_ms: *retry_in_ms,
            }),
            Self::Snapshot(answer) => json(answer),
            Self::Done { message_id, finish_reason, usage } => json(&DoneData {
                message_id: *message_id,
                finish_reason: finish_reason.clone(),
                usage: *usage,
            }),
            Self::Failed { message_id, code, message, usage } => json(&FailedData {
                message_id: *message_id,
                code: code.clone(),
                message: message.clone(),
                usage: *usage,
            }),
            Self::Cancelled { message_id, usage } => {
                json(&CancelledData { message_id: *message_id, usage: *usage })
            }
            Self::Complete { finish_reason, usage } => {
                json(&CompleteData { finish_reason: finish_reason.clone(), usage: *usage })
            }
        };
        Encoded { name: self.name(), data }
    }

    /// Reads back what [`Event::encode`] wrote.
    ///
    /// # Errors
    /// When `data` is not the JSON that an event of this name has.
    pub fn decode(name: EventName, data: &[u8]) -> Result<Self, DecodeError> {
        fn json<'a, T: Deserialize<'a>>(name: EventName, data: &'a [u8]) -> Result<T, DecodeError> {
            serde_json::from_slice(data).map_err(|source| DecodeError { name, source })
        }
        Ok(match name {
            EventName::Started => {
                let StartedData { attempt, model } = json(name, data)?;
                Self::Started { attempt, model: model.into_owned() }
            }
            EventName::Delta => {
                Self::Delta { text: json::<TextData<'_>>(name, data)?.text.into_owned() }
            }
            EventName::Reasoning => {
                Self::Reasoning { text: json::<TextData<'_>>(name, data)?.text.into_owned() }
            }
            EventName::ToolCall => Self::ToolCall(json(name, data)?),
            EventName::Retrying => {
                let RetryingData { attempt, code, retry_in_ms } = json(name, data)?;
                Self::Retrying { attempt, code, retry_in_ms }
            }
            EventName::Snapshot => Self::Snapshot(json(name, data)?),
            EventName::Done => {
                let DoneData { message_id, finish_reason, usage } = json(name, data)?;
                Self::Done { message_id, finish_reason, usage }
            }
            EventName::Failed => {
                let FailedData { message_id, code, message, usage } = json(name, data)?;
                Self::Failed { message_id, code, message, usage }
            }
            EventName::Cancelled => {
                let CancelledData { message_id, usage } = json(name, data)?;
                Self::Cancelled { message_id, usage }
            }
            EventName::Complete => {
                let CompleteData { finish_reason, usage } = json(name, data)?;
                Self::Complete { finish_reason, usage }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_survives_as_one_line(text in any::<String>()) {
            let encoded = Event::Delta { text: text.clone() }.encode();
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
            Event::Started { attempt: 1, model: "m".into() },
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
        ];
        for event in events {
            let encoded = event.encode();
            assert_eq!(encoded.name.as_str().parse(), Ok(encoded.name));
            let decoded = Event::decode(encoded.name, encoded.data.as_bytes()).expect("decodes");
            assert_eq!(decoded, event);
        }
    }
}
