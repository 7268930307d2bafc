//! Where answers come from: any server that speaks OpenAI's chat completions.
//!
//! [`ChatModel`] is the one seam: an attempt asks it for a stream of
//! [`Delta`]s and knows nothing of HTTP. A call is made once; trying again is
//! the worker's business, guided by [`ModelError`].

pub mod catalog;
pub mod openai;
pub mod simulator;
#[cfg(test)]
mod testing;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::domain::event::{ToolCallDelta, Usage};
use crate::domain::message::{Parameters, Turn};
use crate::domain::opaque::OpaqueData;

/// One call of a model.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    /// The model's name at its server.
    pub model: String,
    /// The conversation so far, oldest first.
    pub turns: Vec<Turn>,
    /// Further parameters, passed on unchanged.
    pub parameters: Parameters,
}

/// A piece of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// Text to append (a refusal's text too).
    Text(String),
    /// Reasoning to append.
    Reasoning(String),
    /// A piece of a tool call.
    ToolCall(ToolCallDelta),
    /// Data that the server wants back with the answer.
    Opaque(OpaqueData),
    /// The model has finished, and why. Usage may follow; where more of the answer
    /// does, only an end without an error makes it whole.
    Finish(String),
    /// Tokens counted.
    Usage(Usage),
    /// The server lives, and says nothing.
    Alive,
}

/// Why a call failed, and whether repeating it may help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ModelError {
    /// One of [`crate::domain::task::code`].
    pub code: &'static str,
    /// For operators; names no secret.
    pub message: String,
    /// For users, where that is something else.
    pub told: Option<String>,
    /// Repeating the call may help.
    pub retryable: bool,
    /// The server's `Retry-After`.
    pub retry_after: Option<Duration>,
}

/// The answer, piece by piece. Ends after an error. An end without
/// [`Delta::Finish`] is an incomplete answer.
pub type DeltaStream = BoxStream<'static, Result<Delta, ModelError>>;

/// A model that answers in a stream.
pub trait ChatModel: Send + Sync + 'static {
    /// Makes the call, once.
    fn answer(&self, request: Arc<ChatRequest>) -> BoxFuture<'_, Result<DeltaStream, ModelError>>;
}

/// PostgreSQL's text can't hold U+0000: what a model says goes through here.
pub fn without_nul(text: String) -> String {
    if text.as_bytes().contains(&0) { text.replace('\0', "\u{fffd}") } else { text }
}
