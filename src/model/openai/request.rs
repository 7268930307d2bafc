//! A call as OpenAI's JSON, as its server's [`Profile`] wants it.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::learned::Learned;
use super::profile::{MaxTokens, Profile, SendBack, StreamOptions, SystemRole, ToolCallIds, Turns};
use crate::domain::RawObject;
use crate::domain::answer::ToolCall;
use crate::domain::message::{AssistantTurn, Content, Part, Turn};
use crate::domain::prompt;
use crate::model::ChatRequest;

/// The body of a streaming call. Parameters go in as they were written, but can't
/// change what is asked of which model, nor how the answer comes.
pub(super) fn body(request: &ChatRequest, profile: &Profile, learned: &Learned) -> RawObject {
    let ChatRequest { model, turns, parameters } = request;
    let mut body = parameters.filtered(|name, _| !profile.drop.contains(name));
    match learned.max_tokens.unwrap_or(profile.max_tokens) {
        MaxTokens::AsIs => {}
        MaxTokens::MaxTokens => body.rename("max_completion_tokens", "max_tokens"),
        MaxTokens::MaxCompletionTokens => body.rename("max_tokens", "max_completion_tokens"),
    }
    body.set("model", model);
    body.set("messages", &messages(turns.clone(), profile, learned));
    body.set("stream", &true);
    if profile.stream_options == StreamOptions::On && !learned.no_stream_options {
        body.set("stream_options", &json!({ "include_usage": true }));
    }
    body
}

fn messages(turns: Vec<Turn>, profile: &Profile, learned: &Learned) -> Vec<RawObject> {
    let mut turns = match profile.turns {
        Turns::Alternate => prompt::alternate(turns),
        Turns::AsWritten => turns,
    };
    let role = learned.system_role.unwrap_or(profile.system_role);
    if role == SystemRole::User {
        turns = instructions_as_user(turns);
    }
    turns.into_iter().map(|turn| message(turn, role, profile, learned)).collect()
}

/// Instructions before what the user says first, for servers without a role for them.
fn instructions_as_user(turns: Vec<Turn>) -> Vec<Turn> {
    let mut turns: Vec<Turn> = turns
        .into_iter()
        .map(|turn| match turn {
            Turn::System(text) => Turn::User(Content::Text(text)),
            turn => turn,
        })
        .collect();
    if let [Turn::User(_), Turn::User(_), ..] = turns[..] {
        let rest = turns.split_off(2);
        turns = prompt::alternate(turns);
        turns.extend(rest);
    }
    turns
}

fn message(turn: Turn, system: SystemRole, profile: &Profile, learned: &Learned) -> RawObject {
    let fields = |value: Value| {
        let mut object = RawObject::default();
        for (name, value) in value.as_object().into_iter().flatten() {
            object.set(name, value);
        }
        object
    };
    let id = |id: &str| match profile.tool_call_ids {
        ToolCallIds::AsIs => id.to_owned(),
        ToolCallIds::Nine => nine(id),
    };
    match turn {
        Turn::System(text) => {
            let role = if system == SystemRole::Developer { "developer" } else { "system" };
            fields(json!({ "role": role, "content": text }))
        }
        Turn::User(Content::Text(text)) => fields(json!({ "role": "user", "content": text })),
        Turn::User(Content::Parts(parts)) => {
            fields(json!({ "role": "user", "content": plain(parts) }))
        }
        Turn::Tool(result) => fields(json!({
            "role": "tool",
            "tool_call_id": id(&result.tool_call_id),
            "content": result.content,
        })),
        Turn::Assistant(turn) => {
            let AssistantTurn { text, tool_calls, reasoning, opaque, model: _ } = turn;
            let blank = text.trim().is_empty() && !tool_calls.is_empty();
            let content = if blank { Value::Null } else { text.into() };
            let mut message = fields(json!({ "role": "assistant", "content": content }));
            let allowed =
                |name: &str| profile.send_back != SendBack::Off && !learned.withheld.contains(name);
            for data in opaque.iter().filter(|data| data.call.is_none() && allowed(&data.name)) {
                // Null: the field has the message's reasoning.
                match serde_json::from_str::<&RawValue>(&data.json) {
                    Ok(json) if json.get() != "null" => message.set(&data.name, &json),
                    Ok(_) if profile.send_back == SendBack::On && !reasoning.is_empty() => {
                        message.set(&data.name, &reasoning);
                    }
                    _ => {}
                }
            }
            if tool_calls.is_empty() {
                return message;
            }
            if let Some(name) = learned.wanted {
                message.set(name, &reasoning);
            }
            let calls = tool_calls.into_iter().map(|call| {
                let mut object = self::call(&call, id(call.id.as_deref().unwrap_or_default()));
                let own = opaque.iter().filter(|data| data.call == Some(call.index));
                for data in own.filter(|data| allowed(&data.name)) {
                    if let Ok(json) = serde_json::from_str::<&RawValue>(&data.json) {
                        object.set(&data.name, &json);
                    }
                }
                object
            });
            message.set("tool_calls", &calls.collect::<Vec<_>>());
            message
        }
    }
}

fn call(call: &ToolCall, id: String) -> RawObject {
    let mut object = RawObject::default();
    let function = json!({ "name": call.name, "arguments": call.arguments });
    object.set("id", &id);
    object.set("type", &"function");
    object.set("function", &function);
    object
}

/// Parts of text alone as they are; one of them as a string, which every server takes.
fn plain(mut parts: Vec<Part>) -> Value {
    match (parts.len(), parts.pop()) {
        (1, Some(Part::Text { text })) => text.into(),
        (_, last) => {
            parts.extend(last);
            json!(parts)
        }
    }
}

/// Nine letters and digits, the same for the same ID.
fn nine(id: &str) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    if id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return id.to_owned();
    }
    use sha2::Digest;
    let hash = sha2::Sha256::digest(id.as_bytes());
    hash.iter().take(9).map(|byte| char::from(DIGITS[usize::from(*byte) % 62])).collect()
}

#[cfg(test)]
mod tests;
