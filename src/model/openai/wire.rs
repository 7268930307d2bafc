//! OpenAI's JSON: requests out, chunks in.
//!
//! Chunks are read into just the fields that are used; everything else is
//! skipped without being built.

use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::error;
use crate::domain::RawObject;
use crate::domain::event::{ToolCallDelta, Usage};
use crate::domain::message::Turn;
use crate::domain::opaque::OpaqueData;
use crate::model::{ChatRequest, Delta, ModelError, without_nul};

/// The body of a streaming call. Parameters go in as they are, but can't
/// change what is asked of which model, nor how the answer comes.
pub(super) fn request(request: ChatRequest) -> RawObject {
    let ChatRequest { model, turns, parameters } = request;
    let mut body = parameters;
    let options = body.get("stream_options").map(RawValue::get);
    let mut options: RawObject =
        options.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    options.set("include_usage", &true);
    body.set("model", &model);
    body.set("messages", &turns.into_iter().map(message).collect::<Vec<_>>());
    body.set("stream", &true);
    body.set("stream_options", &options);
    body
}

fn message(turn: Turn) -> Value {
    match turn {
        Turn::System(text) => json!({ "role": "system", "content": text }),
        Turn::User(content) => json!({ "role": "user", "content": content }),
        Turn::Tool(result) => {
            json!({ "role": "tool", "tool_call_id": result.tool_call_id, "content": result.content })
        }
        Turn::Assistant { text, tool_calls } if tool_calls.is_empty() => {
            json!({ "role": "assistant", "content": text })
        }
        Turn::Assistant { text, tool_calls } => {
            let content = if text.is_empty() { Value::Null } else { text.into() };
            let calls: Vec<Value> = tool_calls
                .into_iter()
                .map(|call| {
                    let id = call.id.unwrap_or_else(|| format!("call_{}", call.index));
                    let name = call.name.unwrap_or_default();
                    let function = json!({ "name": name, "arguments": call.arguments });
                    json!({ "id": id, "type": "function", "function": function })
                })
                .collect();
            json!({ "role": "assistant", "content": content, "tool_calls": calls })
        }
    }
}

/// One chunk. Any field may be missing or null, whatever the server.
#[derive(Debug, Deserialize)]
pub(super) struct Chunk {
    choices: Option<Vec<Choice>>,
    usage: Option<ChunkUsage>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    index: Option<u32>,
    delta: Option<ChoiceDelta>,
    finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ChoiceDelta {
    content: Option<String>,
    refusal: Option<String>,
    /// DeepSeek's name for it, and most others'.
    reasoning_content: Option<String>,
    /// OpenRouter's name for it, and newer vLLM's.
    reasoning: Option<String>,
    /// OpenRouter's blocks of reasoning, signed or encrypted.
    reasoning_details: Option<Box<RawValue>>,
    tool_calls: Option<Vec<ToolCall>>,
}

#[derive(Debug, Deserialize)]
struct ToolCall {
    index: Option<u32>,
    id: Option<String>,
    function: Option<Function>,
    /// Gemini's signature of the thought behind the call.
    extra_content: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
struct Function {
    name: Option<String>,
    arguments: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ChunkUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    total_tokens: Option<u64>,
}

/// Turns chunks into deltas.
#[derive(Debug, Default)]
pub(super) struct Translator {
    /// The model has refused, in words.
    refused: bool,
}

impl Translator {
    /// Puts what `chunk` says at the end of `deltas`.
    ///
    /// # Errors
    /// When the chunk reports one.
    pub(super) fn translate(
        &mut self,
        chunk: Chunk,
        deltas: &mut VecDeque<Delta>,
    ) -> Result<(), ModelError> {
        if let Some(error) = chunk.error {
            return Err(error::inside_stream(&error));
        }
        // Several answers at once (`n`) would be mixed up: the first counts.
        let choices = chunk.choices.into_iter().flatten();
        for choice in choices.filter(|choice| choice.index.unwrap_or(0) == 0) {
            if let Some(delta) = choice.delta {
                self.translate_delta(delta, deltas);
            }
            if let Some(reason) = said(choice.finish_reason) {
                let refused = self.refused && reason == "stop";
                deltas.push_back(Delta::Finish(if refused { "refusal".into() } else { reason }));
            }
        }
        if let Some(usage) = chunk.usage {
            let prompt_tokens = usage.prompt_tokens.unwrap_or_default();
            let completion_tokens = usage.completion_tokens.unwrap_or_default();
            let total_tokens =
                usage.total_tokens.unwrap_or(prompt_tokens.saturating_add(completion_tokens));
            let usage = Usage { prompt_tokens, completion_tokens, total_tokens };
            deltas.push_back(Delta::Usage(usage));
        }
        Ok(())
    }

    fn translate_delta(&mut self, delta: ChoiceDelta, deltas: &mut VecDeque<Delta>) {
        // Servers that send both names send the same text under both.
        if let Some(text) = said(delta.reasoning_content).or_else(|| said(delta.reasoning)) {
            deltas.push_back(Delta::Reasoning(text));
        }
        if let Some(value) = delta.reasoning_details {
            deltas.extend(opaque(None, "reasoning_details", value));
        }
        if let Some(text) = said(delta.content) {
            deltas.push_back(Delta::Text(text));
        }
        if let Some(text) = said(delta.refusal) {
            self.refused = true;
            deltas.push_back(Delta::Text(text));
        }
        if let Some(calls) = delta.tool_calls {
            tool_calls(calls, deltas);
        }
    }
}

fn tool_calls(calls: Vec<ToolCall>, deltas: &mut VecDeque<Delta>) {
    for (place, call) in (0..).zip(calls) {
        let (name, arguments) =
            call.function.map_or((None, None), |function| (function.name, function.arguments));
        let index = call.index.unwrap_or(place);
        deltas.push_back(Delta::ToolCall(ToolCallDelta {
            index,
            id: said(call.id),
            name: said(name),
            arguments: said(arguments).unwrap_or_default(),
        }));
        if let Some(value) = call.extra_content {
            deltas.extend(opaque(Some(index), "extra_content", value));
        }
    }
}

/// Data that a server wants back, if it sent something.
fn opaque(call: Option<u32>, name: &str, value: Box<RawValue>) -> Option<Delta> {
    let json: Box<str> = value.into();
    let says_something = !matches!(&*json, "[]" | "{}");
    let data = OpaqueData { call, name: name.to_owned(), json: json.into() };
    says_something.then_some(Delta::Opaque(data))
}

/// Text that is there and not empty, fit for the database.
fn said(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(without_nul)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::answer;
    use crate::domain::message::{Content, ImageUrl, Part, ToolResult};

    fn translate(chunks: &[Value]) -> Vec<Delta> {
        let mut translator = Translator::default();
        let mut deltas = VecDeque::new();
        for chunk in chunks {
            let chunk = serde_json::from_str(&chunk.to_string()).expect("a chunk");
            translator.translate(chunk, &mut deltas).expect("no error");
        }
        deltas.into()
    }

    fn delta(delta: Value) -> Value {
        json!({ "id": "x", "choices": [{ "index": 0, "delta": delta, "logprobs": null }] })
    }

    #[test]
    fn text_and_reasoning_under_either_name() {
        let deltas = translate(&[
            delta(json!({ "role": "assistant", "content": "" })),
            delta(json!({ "reasoning_content": "a" })),
            delta(json!({ "reasoning": "b", "content": null })),
            delta(json!({ "reasoning": "c", "reasoning_content": "c" })),
            delta(json!({ "content": "x\u{0}y" })),
            json!({ "choices": [{ "index": 1, "delta": { "content": "another answer" } }] }),
            json!({ "choices": [{ "delta": {}, "finish_reason": "length" }], "usage": null }),
            json!({ "choices": [], "usage": { "prompt_tokens": 2, "completion_tokens": 3 } }),
            json!({ "object": "keepalive", "choices": null }),
        ]);
        let usage = Usage { prompt_tokens: 2, completion_tokens: 3, total_tokens: 5 };
        assert_eq!(
            deltas,
            [
                Delta::Reasoning("a".into()),
                Delta::Reasoning("b".into()),
                Delta::Reasoning("c".into()),
                Delta::Text("x\u{fffd}y".into()),
                Delta::Finish("length".into()),
                Delta::Usage(usage),
            ]
        );
    }

    #[test]
    fn a_refusal_is_text_and_a_finish_reason() {
        let stop = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
        let deltas = translate(&[delta(json!({ "refusal": "I won't." })), stop.clone()]);
        assert_eq!(deltas, [Delta::Text("I won't.".into()), Delta::Finish("refusal".into())]);
        assert_eq!(translate(&[stop]), [Delta::Finish("stop".into())]);
    }

    #[test]
    fn tool_calls_come_in_pieces() {
        let deltas = translate(&[
            delta(json!({ "tool_calls": [
                { "index": 1, "id": "c", "type": "function", "function": { "name": "f", "arguments": "" } }
            ] })),
            delta(json!({ "tool_calls": [{ "index": 1, "function": { "arguments": "{}" } }] })),
            delta(json!({ "tool_calls": [{ "id": "d" }, { "function": { "name": "" } }] })),
        ]);
        let call = |index, id: Option<&str>, name: Option<&str>, arguments: &str| {
            Delta::ToolCall(ToolCallDelta {
                index,
                id: id.map(Into::into),
                name: name.map(Into::into),
                arguments: arguments.into(),
            })
        };
        assert_eq!(
            deltas,
            [
                call(1, Some("c"), Some("f"), ""),
                call(1, None, None, "{}"),
                call(0, Some("d"), None, ""),
                call(1, None, None, ""),
            ]
        );
    }

    #[test]
    fn an_error_ends_the_translation() {
        let chunk = json!({ "error": { "message": "overloaded" }, "choices": null });
        let chunk = serde_json::from_value(chunk).expect("a chunk");
        let error = Translator::default().translate(chunk, &mut VecDeque::new());
        assert_eq!(error.expect_err("an error").message, "overloaded");
    }

    #[test]
    fn turns_and_parameters_become_a_request() {
        let image = ImageUrl { url: "https://example.org/a.png".into(), detail: None };
        let parts = vec![Part::Text { text: "what?".into() }, Part::ImageUrl { image_url: image }];
        let call = answer::ToolCall {
            index: 0,
            id: Some("c".into()),
            name: Some("f".into()),
            arguments: "{}".into(),
        };
        let turns = vec![
            Turn::System("be brief".into()),
            Turn::User(Content::Parts(parts)),
            Turn::Assistant { text: String::new(), tool_calls: vec![call] },
            Turn::Tool(ToolResult { tool_call_id: "c".into(), content: "42".into() }),
            Turn::Assistant { text: "42".into(), tool_calls: vec![] },
            Turn::User(Content::Text("sure?".into())),
        ];
        let parameters = json!({
            "temperature": 0.5,
            "model": "other",
            "stream": false,
            "messages": [],
            "stream_options": { "include_usage": false, "include_obfuscation": false },
        });
        let parameters = serde_json::from_value(parameters).expect("an object");
        let body = request(ChatRequest { model: "m".into(), turns, parameters });
        let expected = json!({
            "model": "m",
            "stream": true,
            "stream_options": { "include_usage": true, "include_obfuscation": false },
            "temperature": 0.5,
            "messages": [
                { "role": "system", "content": "be brief" },
                { "role": "user", "content": [
                    { "type": "text", "text": "what?" },
                    { "type": "image_url", "image_url": { "url": "https://example.org/a.png" } },
                ] },
                { "role": "assistant", "content": null, "tool_calls": [
                    { "id": "c", "type": "function", "function": { "name": "f", "arguments": "{}" } },
                ] },
                { "role": "tool", "tool_call_id": "c", "content": "42" },
                { "role": "assistant", "content": "42" },
                { "role": "user", "content": "sure?" },
            ],
        });
        assert_eq!(serde_json::to_value(&body).expect("JSON"), expected);
    }

    #[test]
    fn parameters_are_passed_on_as_they_were_written() {
        let schema = r#"{"properties": {"zeta":{}, "alpha":{"minimum":1.0,"maximum":12345678901234567890123}}}"#;
        let text = format!(r#"{{"seed":1,"response_format":{schema},"top_p":0.10}}"#);
        let parameters = serde_json::from_str(&text).expect("an object");
        let body = request(ChatRequest { model: "m".into(), turns: vec![], parameters });
        let body = serde_json::to_string(&body).expect("JSON");
        assert!(body.starts_with(text.trim_end_matches('}')), "{body}");
    }

    #[test]
    fn what_a_server_wants_back_is_kept_byte_for_byte() {
        let chunks = [
            r#"{"choices":[{"delta":{"reasoning_details":[{"type":"x",  "data":1.50}]}}]}"#,
            r#"{"choices":[{"delta":{"reasoning_details":[],"tool_calls":[{"index":2,"id":"c",
                "extra_content":{"google":{"thought_signature":"s"}}}]}}]}"#,
        ];
        let mut deltas = VecDeque::new();
        for chunk in chunks {
            let chunk = serde_json::from_str(chunk).expect("a chunk");
            Translator::default().translate(chunk, &mut deltas).expect("no error");
        }
        let opaque: Vec<_> =
            deltas.into_iter().filter(|delta| matches!(delta, Delta::Opaque(_))).collect();
        let data = |call, name: &str, json: &str| {
            Delta::Opaque(OpaqueData { call, name: name.into(), json: json.into() })
        };
        assert_eq!(
            opaque,
            [
                data(None, "reasoning_details", r#"[{"type":"x",  "data":1.50}]"#),
                data(Some(2), "extra_content", r#"{"google":{"thought_signature":"s"}}"#),
            ]
        );
    }
}
