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

/// Fields that may be there, and mean that the chunk isn't usual.
type Odd = Option<IgnoredAny>;

#[derive(Deserialize)]
struct Usual {
    choices: Option<Vec<UsualChoice>>,
    usage: Option<UsualUsage>,
    error: Odd,
    x_groq: Odd,
}

#[derive(Deserialize)]
struct UsualChoice {
    index: Option<u32>,
    delta: Option<UsualDelta>,
    finish_reason: Option<String>,
    message: Odd,
    text: Odd,
    error: Odd,
    usage: Odd,
}

#[derive(Deserialize)]
struct UsualDelta {
    content: Option<String>,
    refusal: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<UsualCall>>,
    function_call: Odd,
    reasoning_details: Odd,
    reasoning_text: Odd,
    thinking: Odd,
    thinking_blocks: Odd,
    extra_content: Odd,
    provider_specific_fields: Odd,
}

#[derive(Deserialize)]
struct UsualCall {
    index: Option<u32>,
    id: Option<String>,
    function: Option<UsualFunction>,
    extra_content: Odd,
    provider_specific_fields: Odd,
    thought_signature: Odd,
    name: Odd,
    arguments: Odd,
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
        let odd = |choice: &UsualChoice| {
            choice.message.is_some()
                || choice.text.is_some()
                || choice.error.is_some()
                || choice.usage.is_some()
                || choice.delta.as_ref().is_some_and(UsualDelta::is_odd)
        };
        let usage = self.usage.as_ref();
        self.error.is_none()
            && self.x_groq.is_none()
            && usage.is_none_or(|usage| {
                usage.prompt_tokens.is_some() && usage.completion_tokens.is_some()
            })
            && self.choices.as_ref().is_some_and(|choices| !choices.iter().any(odd))
    }
}

impl UsualDelta {
    fn is_odd(&self) -> bool {
        let odd = |call: &UsualCall| {
            call.extra_content.is_some()
                || call.provider_specific_fields.is_some()
                || call.thought_signature.is_some()
                || call.name.is_some()
                || call.arguments.is_some()
        };
        self.function_call.is_some()
            || self.reasoning_details.is_some()
            || self.reasoning_text.is_some()
            || self.thinking.is_some()
            || self.thinking_blocks.is_some()
            || self.extra_content.is_some()
            || self.provider_specific_fields.is_some()
            || self.tool_calls.as_ref().is_some_and(|calls| calls.iter().any(odd))
    }
}

impl From<Usual> for Chunk {
    fn from(usual: Usual) -> Self {
        let choices = usual.choices.into_iter().flatten();
        let mut first =
            (0..).zip(choices).filter(|(place, choice)| choice.index.unwrap_or(*place) == 0);
        Self {
            has_choices: true,
            choice: first.next().map(|(_, choice)| choice.into()),
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
        let said = |text: Option<String>, field| {
            let text = text.filter(|text| !text.is_empty())?;
            Some(Reasoning { text, field: Some(field) })
        };
        // Servers that send both names send the same text under both.
        let reasoning = said(usual.reasoning_content, "reasoning_content");
        Self {
            content: usual.content,
            refusal: usual.refusal,
            reasoning: reasoning.or_else(|| said(usual.reasoning, "reasoning")),
            tool_calls: usual.tool_calls.into_iter().flatten().map(CallPiece::from).collect(),
            ..Self::default()
        }
    }
}

impl From<UsualCall> for CallPiece {
    fn from(usual: UsualCall) -> Self {
        let (name, arguments) =
            usual.function.map_or((None, None), |function| (function.name, function.arguments));
        Self { index: usual.index, id: usual.id, name, arguments, opaque: Vec::new() }
    }
}
