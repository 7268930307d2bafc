//! The answer as it grows: what a reader has after applying events.

use serde::{Deserialize, Serialize};

use super::event::{Event, ToolCallDelta, Usage};
use super::opaque::OpaqueData;

/// A call of a tool that the model asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ToolCall {
    /// Its place among the answer's calls.
    pub index: u32,
    /// The ID to answer it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The function's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The arguments, as the JSON text that the model wrote (it may be invalid).
    #[serde(default)]
    pub arguments: String,
}

/// Text, reasoning and tool calls so far. Its JSON is a `snapshot`'s data.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Answer {
    /// The answer's text.
    #[serde(default)]
    pub text: String,
    /// The reasoning, where the model shows it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    /// Tool calls, by index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Data that the model's server wants back, in the order in which it came. Beside
    /// the JSON, which readers are sent.
    #[serde(skip)]
    pub opaque: Vec<OpaqueData>,
}

impl Answer {
    /// Bytes of text, reasoning and tool calls together; what the answer cap limits.
    pub fn len(&self) -> usize {
        /// What a call takes beside its texts, about.
        const CALL: usize = 64;
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let calls: usize = self
            .tool_calls
            .iter()
            .map(|call| CALL + text(&call.id) + text(&call.name) + call.arguments.len())
            .sum();
        self.text.len() + self.reasoning.len() + calls
    }

    /// Nothing was said yet.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.reasoning.is_empty() && self.tool_calls.is_empty()
    }

    /// Does to the answer what a reader does on receiving `event`.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Started { .. } => *self = Self::default(),
            Event::Snapshot(answer) => *self = answer.clone(),
            Event::Delta { text } => self.text.push_str(text),
            Event::Reasoning { text } => self.reasoning.push_str(text),
            Event::ToolCall(delta) => self.apply_tool_call(delta),
            Event::Opaque { data } => self.opaque.clone_from(data),
            Event::Retrying { .. }
            | Event::Done { .. }
            | Event::Failed { .. }
            | Event::Cancelled { .. }
            | Event::Complete { .. } => {}
        }
    }

    /// Adds a piece of a tool call.
    pub fn apply_tool_call(&mut self, delta: &ToolCallDelta) {
        let at = match self.tool_calls.binary_search_by_key(&delta.index, |call| call.index) {
            Ok(at) => at,
            Err(at) => {
                self.tool_calls.insert(at, ToolCall { index: delta.index, ..ToolCall::default() });
                at
            }
        };
        let call = &mut self.tool_calls[at];
        if delta.id.is_some() {
            call.id.clone_from(&delta.id);
        }
        if delta.name.is_some() {
            call.name.clone_from(&delta.name);
        }
        call.arguments.push_str(&delta.arguments);
    }
}

/// Why and at what cost the model finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// `stop`, `length`, `tool_calls`, `content_filter`, `refusal`, …
    pub finish_reason: String,
    /// Tokens counted, where the model said.
    pub usage: Option<Usage>,
}
