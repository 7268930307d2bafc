//! What may be said to a model: a prompt that the strictest server takes, whatever
//! happened in the conversation before.
//!
//! Servers refuse a call without its result, a result without its call, an ID that
//! comes twice, arguments that are no JSON object, an answer of nothing, and, where
//! their templates are strict, roles that don't alternate. A conversation has all
//! of that: callers go on without answering, answers fail or are cancelled, models
//! write odd calls, the oldest end is cut. It must not make the conversation
//! unusable.
//!
//! [`tidy`] mends what every server refuses, [`alternate`] what strict ones do.

use std::collections::{HashMap, HashSet};

use serde_json::value::RawValue;

use super::answer::ToolCall;
use super::message::{AssistantTurn, Content, Part, ToolResult, Turn};

/// Said in the place of an answer to tools' results that failed or was cancelled.
const NO_ANSWER: &str = "(This answer was interrupted.)";

/// Said in the place of a question that is blank, and was answered.
const NO_QUESTION: &str = "…";

/// Characters of a tool call's ID that every server takes.
const LONGEST_ID: usize = 40;

/// Characters of a function's name.
const LONGEST_NAME: usize = 64;

/// Keeps an answer's tool calls only where the results right behind it answer
/// all of them, and results only where they answer a call that is kept, once.
/// An answer that said nothing but calls that are not kept goes too. Calls that are
/// kept have arguments, names and IDs that every server takes.
///
/// `is_own`: a model's server is the one that is asked. What another's wanted back is
/// left out.
pub fn tidy(turns: Vec<Turn>, is_own: impl Fn(&str) -> bool) -> Vec<Turn> {
    let mut tidied = Vec::with_capacity(turns.len());
    let mut turns = turns.into_iter().peekable();
    let mut ids = HashSet::new();
    while let Some(turn) = turns.next() {
        match turn {
            Turn::Assistant(mut turn) => {
                let mut results = Vec::new();
                while let Some(Turn::Tool(result)) =
                    turns.next_if(|next| matches!(next, Turn::Tool(_)))
                {
                    results.push(result);
                }
                let own = turn.model.take().is_some_and(|model| is_own(&model));
                if !own {
                    turn.opaque.clear();
                    turn.reasoning.clear();
                }
                if pair(&turn.tool_calls, &mut results) {
                    mend_calls(&mut turn.tool_calls, &mut results, own, &mut ids);
                } else {
                    if !turn.tool_calls.is_empty() {
                        // Part of it is worth nothing.
                        turn.opaque.clear();
                    }
                    turn.tool_calls.clear();
                    turn.reasoning.clear();
                    results.clear();
                }
                if !turn.tool_calls.is_empty() || !is_blank(&turn.text) {
                    tidied.push(Turn::Assistant(turn));
                    tidied.extend(results.into_iter().map(Turn::Tool));
                }
            }
            Turn::Tool(_) => {}
            Turn::System(_) | Turn::User(_) => tidied.push(turn),
        }
    }
    tidied
}

/// All calls are answered; what answers none is taken out of `results`.
fn pair(calls: &[ToolCall], results: &mut Vec<ToolResult>) -> bool {
    let mut open: HashSet<&str> = HashSet::new();
    let distinct = calls.iter().all(|call| id(call).is_some_and(|id| open.insert(id)));
    results.retain(|result| open.remove(result.tool_call_id.as_str()));
    distinct && open.is_empty() && !calls.is_empty()
}

/// A call can be answered, and told to a model again, only with an ID and a name.
fn id(call: &ToolCall) -> Option<&str> {
    call.name.as_ref().and(call.id.as_deref()).filter(|id| !id.is_empty())
}

fn mend_calls(
    calls: &mut [ToolCall],
    results: &mut [ToolResult],
    own: bool,
    ids: &mut HashSet<String>,
) {
    let mut renamed = HashMap::new();
    for call in calls {
        let id = call.id.take().unwrap_or_default();
        let fits = own || fits(&id, LONGEST_ID);
        let other = (fits && ids.insert(id.clone())).then(|| id.clone());
        let other = other.unwrap_or_else(|| {
            let mut other = (1..).map(|n: u64| format!("call_{n}"));
            other.find(|other| ids.insert(other.clone())).unwrap_or_default()
        });
        renamed.insert(id, other.clone());
        call.id = Some(other);
        call.name = Some(name(call.name.as_deref().unwrap_or_default()));
        call.arguments = arguments(std::mem::take(&mut call.arguments));
    }
    for result in results {
        if let Some(other) = renamed.remove(&result.tool_call_id) {
            result.tool_call_id = other;
        }
    }
}

fn fits(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn name(name: &str) -> String {
    if fits(name, LONGEST_NAME) {
        return name.to_owned();
    }
    let plain = |char: char| if char.is_ascii_alphanumeric() || char == '-' { char } else { '_' };
    let name: String = name.chars().take(LONGEST_NAME).map(plain).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

/// A JSON object: what the model wrote, if that is one.
fn arguments(text: String) -> String {
    let json = text.trim();
    if json.is_empty() || json == "null" {
        return "{}".to_owned();
    }
    let is_object =
        |json: &str| json.starts_with('{') && serde_json::from_str::<&RawValue>(json).is_ok();
    if is_object(json) {
        return text;
    }
    // Some write JSON into a string.
    match serde_json::from_str::<String>(json) {
        Ok(inner) if is_object(inner.trim()) => inner,
        _ => serde_json::json!({ "arguments": text }).to_string(),
    }
}

/// Makes roles alternate: neighbouring messages of one role are joined, a user's
/// message behind tools' results has an answer before it, and a user begins.
/// Messages that say nothing go, unless there is nothing else.
pub fn alternate(turns: Vec<Turn>) -> Vec<Turn> {
    let mut out: Vec<Turn> = Vec::with_capacity(turns.len());
    let last = turns.len().saturating_sub(1);
    let (mut begun, mut silent) = (false, false);
    for (place, turn) in turns.into_iter().enumerate() {
        match turn {
            Turn::System(text) if is_blank(&text) => {}
            Turn::System(_) => out.push(turn),
            Turn::User(content) => {
                let content = without_blanks(content);
                let blank = says_nothing(&content);
                begun |= !blank;
                match out.last_mut() {
                    Some(Turn::User(before)) if !blank => join(before, content),
                    Some(Turn::User(_)) => {}
                    _ if blank && place != last => silent = true,
                    Some(Turn::Tool(_)) => {
                        out.push(Turn::Assistant(NO_ANSWER.into()));
                        out.push(Turn::User(content));
                    }
                    _ => out.push(Turn::User(content)),
                }
            }
            // The question was cut off.
            Turn::Assistant(_) | Turn::Tool(_) if !begun && !silent => {}
            Turn::Assistant(turn) if !begun => {
                begun = true;
                out.push(Turn::User(Content::Text(NO_QUESTION.to_owned())));
                out.push(Turn::Assistant(turn));
            }
            Turn::Assistant(turn) => match out.last_mut() {
                Some(Turn::Assistant(before)) => {
                    before.text = joined(&before.text, &turn.text);
                    let AssistantTurn { tool_calls, reasoning, opaque, model, text: _ } = turn;
                    (before.tool_calls, before.reasoning) = (tool_calls, reasoning);
                    (before.opaque, before.model) = (opaque, model);
                }
                _ => out.push(Turn::Assistant(turn)),
            },
            Turn::Tool(_) => out.push(turn),
        }
    }
    out
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

fn says_nothing(content: &Content) -> bool {
    match content {
        Content::Text(text) => is_blank(text),
        Content::Parts(parts) => {
            parts.iter().all(|part| matches!(part, Part::Text { text } if is_blank(text)))
        }
    }
}

fn without_blanks(content: Content) -> Content {
    match content {
        Content::Parts(mut parts) if !says_nothing(&Content::Parts(parts.clone())) => {
            parts.retain(|part| !matches!(part, Part::Text { text } if is_blank(text)));
            Content::Parts(parts)
        }
        other => other,
    }
}

fn join(before: &mut Content, more: Content) {
    if let (Content::Text(before), Content::Text(more)) = (&mut *before, &more) {
        *before = joined(before, more);
        return;
    }
    let parts = |content| match content {
        Content::Text(text) if is_blank(&text) => Vec::new(),
        Content::Text(text) => vec![Part::Text { text }],
        Content::Parts(parts) => parts,
    };
    let mut all = parts(std::mem::replace(before, Content::Parts(Vec::new())));
    all.extend(parts(more));
    *before = Content::Parts(all);
}

fn joined(before: &str, more: &str) -> String {
    let said = [before, more].into_iter().filter(|text| !is_blank(text));
    said.collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests;
