//! One chunk of an answer, in the form that nearly all servers send.
//!
//! [`Chunk::read`] is quick where every field has its usual type; else
//! [`super::lenient`] reads the same chunk field by field.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

use super::lenient;
use super::usage::Counts;

/// What a chunk says, whatever form it had.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// It has choices, or what stands for them.
    pub(super) has_choices: bool,
    /// Of the first answer: others are passed over.
    pub(super) choice: Option<Choice>,
    pub(super) usage: Option<Counts>,
    /// Something went wrong: the object that says so.
    pub(super) error: Option<Value>,
    /// What it says beside an answer, in words.
    pub(super) remark: Option<String>,
    /// A whole answer, and not a piece of one.
    pub(super) whole: bool,
    /// Its texts have marks of [`super::repair`].
    pub(super) marked: bool,
}

#[derive(Debug, Default)]
pub(super) struct Choice {
    pub(super) delta: Delta,
    pub(super) finish_reason: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Delta {
    pub(super) content: Option<String>,
    pub(super) refusal: Option<String>,
    pub(super) reasoning: Option<Reasoning>,
    pub(super) tool_calls: Vec<CallPiece>,
    /// Fields that the server wants back.
    pub(super) opaque: Vec<(&'static str, Box<RawValue>)>,
    /// It stood in a `message`.
    pub(super) is_message: bool,
}

impl Delta {
    pub(super) fn says_something(&self) -> bool {
        let text = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        text(&self.content)
            || text(&self.refusal)
            || self.reasoning.is_some()
            || !self.tool_calls.is_empty()
            || !self.opaque.is_empty()
    }
}

#[derive(Debug)]
pub(super) struct Reasoning {
    pub(super) text: String,
    /// The field that it came in; nothing: within the content.
    pub(super) field: Option<&'static str>,
}

/// A piece of a tool call.
#[derive(Debug, Default)]
pub(super) struct CallPiece {
    pub(super) index: Option<u32>,
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) arguments: Option<String>,
    pub(super) opaque: Vec<(&'static str, Box<RawValue>)>,
}

/// The data is no JSON object.
#[derive(Debug)]
pub(super) struct NoObject(pub(super) serde_json::Error);

impl Chunk {
    /// # Errors
    /// When the data is no JSON object, even if it is repaired.
    pub(super) fn read(data: &[u8]) -> Result<Self, NoObject> {
        match serde_json::from_slice::<Usual>(data) {
            Ok(usual) if usual.is_all() => Ok(usual.into()),
            _ => lenient::chunk(data),
        }
    }
}

/// One of the fields that may be there, and mean that the chunk isn't usual. (Two of
/// them are an error to serde, and then it isn't, either.)
type Odd = Option<IgnoredAny>;

#[derive(Deserialize)]
struct Usual {
    choices: Option<Vec<UsualChoice>>,
    usage: Option<UsualUsage>,
    #[serde(alias = "error", alias = "errors", alias = "base_resp", alias = "x_groq")]
    odd: Odd,
}

#[derive(Deserialize)]
struct UsualChoice {
    index: Option<u32>,
    delta: Option<UsualDelta>,
    finish_reason: Option<String>,
    #[serde(alias = "message", alias = "text", alias = "error", alias = "usage")]
    odd: Odd,
}

#[derive(Deserialize)]
struct UsualDelta {
    content: Option<String>,
    refusal: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<UsualCall>>,
    #[serde(
        alias = "function_call",
        alias = "reasoning_details",
        alias = "reasoning_text",
        alias = "thinking",
        alias = "thinking_blocks",
        alias = "extra_content",
        alias = "provider_specific_fields"
    )]
    odd: Odd,
}

#[derive(Deserialize)]
struct UsualCall {
    index: Option<u32>,
    id: Option<String>,
    function: Option<UsualFunction>,
    #[serde(
        alias = "extra_content",
        alias = "provider_specific_fields",
        alias = "thought_signature",
        alias = "name",
        alias = "arguments"
    )]
    odd: Odd,
}

#[derive(Deserialize)]
struct UsualFunction {
    name: Option<String>,
    arguments: Option<String>,
}

#[derive(Deserialize)]
struct UsualUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    total_tokens: Option<u64>,
}

impl Usual {
    /// Nothing is left to be read.
    fn is_all(&self) -> bool {
        let Some(choices) = &self.choices else { return false };
        let whole =
            |usage: &UsualUsage| usage.prompt_tokens.is_some() && usage.completion_tokens.is_some();
        // Without choices or usage, there must be something else in it.
        (!choices.is_empty() || self.usage.is_some())
            && self.odd.is_none()
            && self.usage.as_ref().is_none_or(whole)
            && !choices.iter().any(UsualChoice::is_odd)
    }
}

impl UsualChoice {
    fn is_odd(&self) -> bool {
        let delta = |delta: &UsualDelta| {
            let mut calls = delta.tool_calls.iter().flatten();
            delta.odd.is_some() || calls.any(|call| call.odd.is_some())
        };
        self.odd.is_some() || self.delta.as_ref().is_some_and(delta)
    }
}

impl From<Usual> for Chunk {
    fn from(usual: Usual) -> Self {
        let mut choices = usual.choices.unwrap_or_default();
        let first = match choices.first() {
            Some(UsualChoice { index: None | Some(0), .. }) => Some(0),
            _ => choices.iter().position(|choice| choice.index == Some(0)),
        };
        Self {
            has_choices: true,
            choice: first.map(|at| choices.swap_remove(at).into()),
            usage: usual.usage.map(|usage| Counts {
                prompt: usage.prompt_tokens,
                completion: usage.completion_tokens,
                total: usage.total_tokens,
            }),
            ..Self::default()
        }
    }
}

impl From<UsualChoice> for Choice {
    fn from(usual: UsualChoice) -> Self {
        let finish_reason = usual.finish_reason;
        Self { delta: usual.delta.map(Delta::from).unwrap_or_default(), finish_reason }
    }
}

impl From<UsualDelta> for Delta {
    fn from(usual: UsualDelta) -> Self {
        // Servers that send both names send the same text under both.
        let reasoning = said(usual.reasoning_content, "reasoning_content")
            .or_else(|| said(usual.reasoning, "reasoning"));
        let tool_calls = match usual.tool_calls {
            Some(calls) => calls.into_iter().map(CallPiece::from).collect(),
            None => Vec::new(),
        };
        Self {
            content: usual.content,
            refusal: usual.refusal,
            reasoning,
            tool_calls,
            ..Self::default()
        }
    }
}

fn said(text: Option<String>, field: &'static str) -> Option<Reasoning> {
    let text = text.filter(|text| !text.is_empty())?;
    Some(Reasoning { text, field: Some(field) })
}

impl From<UsualCall> for CallPiece {
    fn from(usual: UsualCall) -> Self {
        let (name, arguments) =
            usual.function.map_or((None, None), |function| (function.name, function.arguments));
        Self { index: usual.index, id: usual.id, name, arguments, opaque: Vec::new() }
    }
}
