//! A message to send, and everything about it that can be judged without the
//! database.

use std::collections::HashSet;

use poem_openapi::Object;
use poem_openapi::types::MaybeUndefined;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::body::JsonBody;
use super::content::{self, Content, ToolResult};
use super::extract::{RawHeader, once};
use super::field_error::{FieldError, FieldErrors};
use super::image_url::ImageUrls;
use super::parameters::{self, NamedToolChoice, ResponseFormat, Tool};
use super::problem::{Code, Problem};
use super::union::TextOr;
use crate::domain::message::Role;
use crate::domain::{MessageId, quoted};
use crate::store::Parent;

/// A message to send: either `content`, or `tool_results` that answer every
/// tool call of the last answer. Everything else is optional, and passed on to
/// the model.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(example, skip_serializing_if_is_none)]
pub(super) struct NewMessage {
    /// What the user says: text, or parts. Excludes `tool_results`.
    pub(super) content: Option<Content>,
    /// What the tools answered: one result for each tool call of the last
    /// answer. Excludes `content`.
    #[oai(validator(min_items = 1))]
    pub(super) tool_results: Option<Vec<ToolResult>>,
    /// The answer that it follows: its `message_id`. Where it isn't given, the
    /// conversation's newest; null begins the conversation anew. What the model is
    /// told is the path from here back to the beginning.
    #[serde(default)]
    #[oai(nullable)]
    pub(super) parent_id: MaybeUndefined<MessageId>,
    /// One of the models that `GET /v1/models` lists; the default one if it
    /// isn't given.
    pub(super) model: Option<String>,
    /// How much chance there is in the choice of tokens.
    #[oai(validator(minimum(value = "0"), maximum(value = "2")))]
    pub(super) temperature: Option<f64>,
    /// The share of likely tokens to choose from.
    #[oai(validator(minimum(value = "0"), maximum(value = "1")))]
    pub(super) top_p: Option<f64>,
    /// Tokens of the answer at most. Newer models want `max_completion_tokens`.
    #[oai(validator(minimum(value = "1")))]
    pub(super) max_tokens: Option<u32>,
    /// Tokens of the answer at most, reasoning included.
    #[oai(validator(minimum(value = "1")))]
    pub(super) max_completion_tokens: Option<u32>,
    /// Where the model stops: one sequence, or up to four.
    pub(super) stop: Option<TextOr<Vec<String>>>,
    /// Makes answers repeatable, as far as the model can.
    pub(super) seed: Option<i64>,
    /// Above zero: makes new topics more likely.
    #[oai(validator(minimum(value = "-2"), maximum(value = "2")))]
    pub(super) presence_penalty: Option<f64>,
    /// Above zero: makes repetition less likely.
    #[oai(validator(minimum(value = "-2"), maximum(value = "2")))]
    pub(super) frequency_penalty: Option<f64>,
    /// Tools that the model may call.
    #[oai(validator(min_items = 1, max_items = 128))]
    pub(super) tools: Option<Vec<Tool>>,
    /// `none`, `auto`, `required`, or one tool that has to be called.
    pub(super) tool_choice: Option<TextOr<NamedToolChoice>>,
    /// Whether the model may call several tools at once.
    pub(super) parallel_tool_calls: Option<bool>,
    /// The form of the answer.
    pub(super) response_format: Option<ResponseFormat>,
    /// How much to reason: `low`, `medium`, `high`, or what the model knows.
    pub(super) reasoning_effort: Option<String>,
}

impl poem_openapi::types::Example for NewMessage {
    fn example() -> Self {
        Self {
            content: Some(TextOr::Text("Why is the sky blue?".to_owned())),
            tool_results: None,
            parent_id: MaybeUndefined::Undefined,
            model: None,
            temperature: Some(0.7),
            top_p: None,
            max_tokens: None,
            max_completion_tokens: None,
            stop: None,
            seed: None,
            presence_penalty: None,
            frequency_penalty: None,
            tools: None,
            tool_choice: None,
            parallel_tool_calls: None,
            response_format: None,
            reasoning_effort: None,
        }
    }
}

/// What a message is made of, when nothing is wrong with it.
pub(super) struct Said {
    pub(super) role: Role,
    pub(super) parent: Parent,
    /// JSON, as it came.
    pub(super) content: String,
    /// The calls that it answers.
    pub(super) answers: Vec<String>,
}

/// Everything about a message that can be judged without the database.
pub(super) fn judge(body: &JsonBody<NewMessage>, images: ImageUrls) -> Result<Said, Problem> {
    let field = |name: &str| body.raw.get(name).map_or("null", RawValue::get).to_owned();
    let message = &body.value;
    let parent = match message.parent_id {
        MaybeUndefined::Undefined => Parent::Newest,
        MaybeUndefined::Null => Parent::Root,
        MaybeUndefined::Value(id) => Parent::Message(id),
    };
    let mut errors = parameters::invalid(message);
    let said = match (&message.content, &message.tool_results) {
        (Some(content), None) => {
            let empty = content::empty(content);
            if !empty.is_empty() {
                return Err(Problem::body(Code::EmptyContent, empty));
            }
            errors.append(content::invalid(content, images));
            Said { role: Role::User, parent, content: field("content"), answers: Vec::new() }
        }
        (None, Some(results)) => {
            let answers: Vec<_> =
                results.iter().map(|result| result.tool_call_id.clone()).collect();
            if answers.is_empty() {
                let detail = "there are no results; send one for each tool call";
                errors.push(FieldError::new("/tool_results", detail));
            }
            if answers.iter().collect::<HashSet<_>>().len() < answers.len() {
                let detail = "two results answer the same call; send one for each";
                errors.push(FieldError::new("/tool_results", detail));
            }
            Said { role: Role::Tool, parent, content: field("tool_results"), answers }
        }
        _ => {
            let detail = "it has either content or tool_results";
            return Err(Problem::body(Code::InvalidBody, FieldError::new("", detail)));
        }
    };
    if errors.is_empty() { Ok(said) } else { Err(Problem::body(Code::InvalidBody, errors)) }
}

/// Calls without a result that are named.
const NAMED: usize = 10;

/// Results have to answer all of the last answer's calls and nothing else:
/// models refuse anything in between.
pub(super) fn match_calls(answers: &[String], calls: &HashSet<String>) -> Result<(), Problem> {
    let mut unknown = FieldErrors::default();
    for (n, id) in answers.iter().enumerate().filter(|(_, id)| !calls.contains(*id)) {
        unknown.add(|| {
            let detail = format!("the last answer has no open tool call {}", quoted(id));
            FieldError::new(format!("/tool_results/{n}/tool_call_id"), detail)
        });
    }
    if !unknown.is_empty() {
        return Err(Problem::body(Code::UnknownToolCall, unknown));
    }
    let answers: HashSet<_> = answers.iter().collect();
    let mut missing: Vec<_> = calls.iter().filter(|call| !answers.contains(call)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    missing.sort();
    let named: Vec<_> = missing.iter().take(NAMED).map(|call| quoted(call)).collect();
    let more = match missing.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let detail =
        format!("there is no result for {}{more}; send all results at once", named.join(", "));
    Err(Problem::body(Code::MissingToolResults, FieldError::new("/tool_results", detail)))
}

/// The key that makes repeating a request safe: 1 to 255 visible ASCII characters.
pub(super) fn idempotency_key(header: RawHeader) -> Result<Option<String>, Problem> {
    let Some(bytes) = header.0 else { return Ok(None) };
    // A key may have a comma, and no space.
    let key = std::str::from_utf8(&bytes).ok().and_then(|keys| once(keys, ", ")).unwrap_or("");
    let sound = (1..=255).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    match sound {
        true => Ok(Some(key.to_owned())),
        false => Err(Problem::new(
            Code::InvalidParameter,
            "Idempotency-Key: one key of 1 to 255 visible ASCII characters, such as a UUID.",
        )),
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn judged(json: Value) -> Result<Said, Problem> {
        judge(&JsonBody::parse(json.to_string().as_bytes()).expect("a message"), ImageUrls::Public)
    }

    fn code(json: Value) -> Code {
        judged(json).err().expect("a refusal").code()
    }

    #[test]
    fn a_message_has_either_content_or_results() {
        assert_eq!(judged(json!({"content": "hi"})).expect("sound").role, Role::User);
        let results = json!([{"tool_call_id": "a", "content": ""}]);
        assert_eq!(judged(json!({"tool_results": results})).expect("sound").answers, ["a"]);
        assert_eq!(code(json!({"content": "hi", "tool_results": results})), Code::InvalidBody);
        assert_eq!(code(json!({})), Code::InvalidBody);
        assert_eq!(code(json!({"content": ""})), Code::EmptyContent);
        assert_eq!(code(json!({"tool_results": []})), Code::InvalidBody);
        assert_eq!(code(json!({"tool_results": [results[0], results[0]]})), Code::InvalidBody);
        assert_eq!(code(json!({"content": "hi", "temperature": 9})), Code::InvalidBody);
    }

    #[test]
    fn a_message_follows_the_newest_answer_unless_it_names_its_parent() {
        let parent = |json: Value| judged(json).expect("sound").parent;
        assert_eq!(parent(json!({"content": "hi"})), Parent::Newest);
        assert_eq!(parent(json!({"content": "hi", "parent_id": null})), Parent::Root);
        let id = MessageId::generate();
        assert_eq!(parent(json!({"content": "hi", "parent_id": id})), Parent::Message(id));
    }

    #[test]
    fn results_answer_all_of_the_last_calls_and_nothing_else() {
        let calls: HashSet<_> = ["a".to_owned(), "b".to_owned()].into();
        let answer = |ids: &[&str]| {
            let ids: Vec<_> = ids.iter().map(|&id| id.to_owned()).collect();
            match_calls(&ids, &calls).map_err(|problem| problem.code())
        };
        assert_eq!(answer(&["b", "a"]), Ok(()));
        assert_eq!(answer(&["a"]), Err(Code::MissingToolResults));
        assert_eq!(answer(&["a", "b", "c"]), Err(Code::UnknownToolCall));
    }

    #[test]
    fn a_key_is_visible_ascii() {
        let key = |bytes: &[u8]| idempotency_key(RawHeader(Some(bytes.to_vec()))).ok();
        assert_eq!(key(b"a-1"), Some(Some("a-1".to_owned())));
        assert_eq!(key(&[b'k'; 255]).flatten().map(|key| key.len()), Some(255));
        for odd in [&b""[..], b"a b", b"\xc3\xa9", b"a, b", &[b'k'; 256]] {
            assert_eq!(key(odd), None, "{odd:?}");
        }
        assert_eq!(idempotency_key(RawHeader(None)).ok(), Some(None));
        assert_eq!(key(b"a-1, a-1"), Some(Some("a-1".to_owned())));
        assert_eq!(key(b"a,a"), Some(Some("a,a".to_owned())));
    }
}
