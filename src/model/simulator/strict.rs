//! Requests that the strictest of the real servers would refuse, each for a
//! reason that some of them have.
//!
//! Chat templates raise on roles that don't alternate, validators on unknown
//! fields, gateways on calls without results. A conversation that passes here
//! can be sent anywhere.

use std::collections::HashSet;

use serde_json::{Map, Value};

/// Fields of every message.
const COMMON: [&str; 3] = ["role", "content", "name"];

/// Further fields of an assistant's message: its calls, and data that some
/// servers want back.
const ASSISTANT: [&str; 7] = [
    "tool_calls",
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "extra_content",
    "thinking_blocks",
    "provider_specific_fields",
];

const CALL: [&str; 6] =
    ["id", "type", "function", "extra_content", "provider_specific_fields", "thought_signature"];

const FUNCTION: [&str; 2] = ["name", "arguments"];

/// Characters of a call's ID, at most.
const LONGEST_ID: usize = 40;

/// Characters of a function's name, at most.
const LONGEST_NAME: usize = 64;

/// What the strictest server would say against `body`, and of which message:
/// `messages[3]: …`.
pub(crate) fn check(body: &Value) -> Result<(), String> {
    let given = |name: &str| body.get(name).is_some_and(|value| !value.is_null());
    if given("stream_options") && body["stream"] != true {
        return Err("stream_options: only with \"stream\": true".into());
    }
    if given("max_tokens") && given("max_completion_tokens") {
        return Err("max_tokens: not beside max_completion_tokens".into());
    }
    let messages = body["messages"].as_array().filter(|messages| !messages.is_empty());
    let messages = messages.ok_or("messages: expected an array of at least one")?;
    let mut conversation = Conversation::default();
    for (at, message) in messages.iter().enumerate() {
        let last = at + 1 == messages.len();
        conversation.message(message, last).map_err(|why| format!("messages[{at}]: {why}"))?;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    System,
    User,
    Assistant,
    Tool,
}

/// The messages so far.
#[derive(Default)]
struct Conversation<'a> {
    previous: Option<Role>,
    /// IDs of all calls.
    ids: HashSet<&'a str>,
    /// IDs of the calls that have no result yet.
    unanswered: Vec<&'a str>,
}

impl<'a> Conversation<'a> {
    fn message(&mut self, message: &'a Value, last: bool) -> Result<(), String> {
        let message = message.as_object().ok_or("expected an object")?;
        let (role, own): (Role, &[&str]) = match message.get("role").and_then(Value::as_str) {
            Some("system" | "developer") => (Role::System, &[]),
            Some("user") => (Role::User, &[]),
            Some("assistant") => (Role::Assistant, &ASSISTANT),
            Some("tool") => (Role::Tool, &["tool_call_id"]),
            _ => return Err("unknown role".into()),
        };
        only(message, &[&COMMON, own])?;
        self.order(role)?;
        let content = message.get("content").unwrap_or(&Value::Null);
        match role {
            Role::System => user_content(content, false, false)?,
            Role::User => user_content(content, true, last)?,
            Role::Assistant => self.assistant(message, content)?,
            Role::Tool => self.result(message, content)?,
        }
        self.previous = Some(role);
        match role {
            _ if !last => Ok(()),
            _ if !self.unanswered.is_empty() => Err(self.missing("the conversation's end")),
            Role::User | Role::Tool => Ok(()),
            _ => Err("the last message must be a user's or a tool's".into()),
        }
    }

    /// Whether a message of `role` may stand here.
    fn order(&self, role: Role) -> Result<(), String> {
        if role != Role::Tool && !self.unanswered.is_empty() {
            return Err(self.missing("this message"));
        }
        let why = match (role, self.previous) {
            (Role::System, None)
            | (Role::User, None | Some(Role::System | Role::Assistant))
            | (Role::Assistant, Some(Role::User | Role::Tool))
            | (Role::Tool, _) => return Ok(()),
            (Role::System, Some(_)) => "a system message must be the first, and the only one",
            (Role::User, Some(Role::Tool)) => "a user message directly behind a tool's result",
            (Role::User, Some(Role::User)) => "two user messages in a row",
            (Role::Assistant, Some(Role::Assistant)) => "two assistant messages in a row",
            (Role::Assistant, None | Some(Role::System)) => "the first must be the user's",
        };
        Err(why.into())
    }

    fn missing(&self, before: &str) -> String {
        format!("no result of tool call {:?} before {before}", self.unanswered.join(", "))
    }

    fn assistant(&mut self, message: &'a Map<String, Value>, text: &Value) -> Result<(), String> {
        let calls = match message.get("tool_calls") {
            None => &[],
            Some(Value::Array(calls)) if !calls.is_empty() => calls.as_slice(),
            Some(_) => return Err("tool_calls: expected an array of at least one".into()),
        };
        match text {
            Value::String(text) if !text.trim().is_empty() => {}
            Value::Null if !calls.is_empty() => {}
            Value::String(_) => return Err("blank content".into()),
            Value::Null => return Err("neither content nor tool calls".into()),
            _ => return Err("content: expected a string".into()),
        }
        for (at, call) in calls.iter().enumerate() {
            self.call(call).map_err(|why| format!("tool call {at}: {why}"))?;
        }
        Ok(())
    }

    fn call(&mut self, call: &'a Value) -> Result<(), String> {
        let call = call.as_object().ok_or("expected an object")?;
        only(call, &[&CALL])?;
        if call.get("type").and_then(Value::as_str) != Some("function") {
            return Err("type: expected \"function\"".into());
        }
        let id = word(call, "id", LONGEST_ID)?;
        if !self.ids.insert(id) {
            return Err(format!("id {id:?} was used before"));
        }
        self.unanswered.push(id);
        let function = call.get("function").and_then(Value::as_object);
        let function = function.ok_or("function: expected an object")?;
        only(function, &[&FUNCTION])?;
        word(function, "name", LONGEST_NAME)?;
        let arguments = function.get("arguments").and_then(Value::as_str);
        let arguments = arguments.ok_or("arguments: expected a string")?;
        match serde_json::from_str::<Map<String, Value>>(arguments) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("arguments: not a JSON object: {error}")),
        }
    }

    fn result(&mut self, message: &Map<String, Value>, content: &Value) -> Result<(), String> {
        let id = message.get("tool_call_id").and_then(Value::as_str);
        let id = id.ok_or("tool_call_id: expected a string")?;
        let Some(at) = self.unanswered.iter().position(|unanswered| *unanswered == id) else {
            return Err(format!("tool_call_id: no call {id:?} right before waits for a result"));
        };
        self.unanswered.swap_remove(at);
        if content.is_string() { Ok(()) } else { Err("content: expected a string".into()) }
    }
}

/// Refuses fields that aren't in one of `known`.
fn only(object: &Map<String, Value>, known: &[&[&str]]) -> Result<(), String> {
    match object.keys().find(|name| !known.iter().any(|known| known.contains(&name.as_str()))) {
        Some(unknown) => Err(format!("extra field {unknown:?} is not permitted")),
        None => Ok(()),
    }
}

/// The field `name`: 1 to `longest` of the characters that all servers take.
fn word<'a>(object: &'a Map<String, Value>, name: &str, longest: usize) -> Result<&'a str, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let value = object.get(name).and_then(Value::as_str);
    let value = value.filter(|value| (1..=longest).contains(&value.len()));
    value
        .filter(|value| value.bytes().all(fits))
        .ok_or_else(|| format!("{name}: expected 1 to {longest} of A-Z, a-z, 0-9, _ and -"))
}

/// Text that isn't blank (or may be), or parts.
fn user_content(content: &Value, images: bool, blank: bool) -> Result<(), String> {
    let said = |text: &str| blank || !text.trim().is_empty();
    match content {
        Value::String(text) if said(text) => Ok(()),
        Value::String(_) => Err("blank content".into()),
        Value::Array(parts) if !parts.is_empty() => {
            for (at, part) in parts.iter().enumerate() {
                let fits = match part["type"].as_str() {
                    Some("text") => part["text"].as_str().is_some_and(said),
                    Some("image_url") if images => {
                        part["image_url"]["url"].as_str().is_some_and(|url| !url.is_empty())
                    }
                    _ => false,
                };
                if !fits {
                    return Err(format!("content part {at}: expected text or an image's URL"));
                }
            }
            Ok(())
        }
        _ => Err("content: expected a string or an array of at least one part".into()),
    }
}

#[cfg(test)]
mod tests;
