//! What is said to a model: messages, and the parameters of a request.

use serde::{Deserialize, Serialize};

use super::answer::ToolCall;
use super::opaque::OpaqueData;
use super::raw_object::RawObject;

/// Who said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The caller.
    User,
    /// The model.
    Assistant,
    /// Results of the tools that the model called.
    Tool,
}

impl Role {
    /// As stored and as sent.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// A user's message: plain text, or parts. The JSON is OpenAI's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Text and images in order.
    Parts(Vec<Part>),
}

/// One part of a user's message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// An image.
    ImageUrl {
        /// Where it is.
        image_url: ImageUrl,
    },
}

/// Where an image is, and how closely to look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUrl {
    /// An `https:` or `data:` URL.
    pub url: String,
    /// `auto`, `low` or `high`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What a tool that the model called has answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolResult {
    /// Which call it answers.
    pub tool_call_id: String,
    /// The result, as text.
    pub content: String,
}

/// Parameters of one request, passed on to the model as they were written:
/// OpenAI's names and JSON (`temperature`, `max_tokens`, `tools`, …).
pub type Parameters = RawObject;

/// One message of the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Standing instructions of the conversation.
    System(String),
    /// What the caller said.
    User(Content),
    /// What a model answered.
    Assistant(AssistantTurn),
    /// What one tool answered.
    Tool(ToolResult),
}

/// What a model answered, and what its server wants to be told of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AssistantTurn {
    /// Its text.
    pub text: String,
    /// The tools it called.
    pub tool_calls: Vec<ToolCall>,
    /// Its reasoning, of answers with tool calls.
    pub reasoning: String,
    /// Data that the model's server wants back.
    pub opaque: Vec<OpaqueData>,
    /// The model's public name, of answers with tool calls or data.
    pub model: Option<String>,
}

impl From<String> for AssistantTurn {
    fn from(text: String) -> Self {
        Self { text, ..Self::default() }
    }
}

impl From<&str> for AssistantTurn {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}
