//! OpenAI's JSON, out and in.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::Piece;

/// The parts of a request that matter here.
#[derive(Debug, Deserialize)]
pub(super) struct Request {
    #[serde(default = "simulator")]
    pub model: String,
    pub messages: Vec<Message>,
    #[serde(default)]
    pub stream: bool,
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
}

fn simulator() -> String {
    "simulator".to_owned()
}

#[derive(Debug, Deserialize)]
pub(super) struct StreamOptions {
    #[serde(default)]
    pub include_usage: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Message {
    pub role: String,
    #[serde(default)]
    pub content: Value,
}

impl Message {
    /// The message's text, its text parts one after another.
    fn text(&self) -> String {
        match &self.content {
            Value::String(text) => text.clone(),
            Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
            _ => String::new(),
        }
    }
}

impl Request {
    /// The last user message's text.
    pub(super) fn prompt(&self) -> String {
        let last = self.messages.iter().rev().find(|message| message.role == "user");
        last.map(Message::text).unwrap_or_default()
    }

    /// The conversation ends with a tool's result.
    pub(super) fn after_tool(&self) -> bool {
        self.messages.last().is_some_and(|message| message.role == "tool")
    }

    /// Tokens of the prompt, roughly: four characters each.
    pub(super) fn tokens(&self) -> usize {
        self.messages.iter().map(|message| 4 + message.text().chars().count() / 4).sum()
    }

    pub(super) fn include_usage(&self) -> bool {
        self.stream_options.as_ref().is_some_and(|options| options.include_usage)
    }
}

/// Tokens counted.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

impl Usage {
    pub(super) fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        let total_tokens = prompt_tokens + completion_tokens;
        Self { prompt_tokens, completion_tokens, total_tokens }
    }
}

/// A counted token with the time of this very moment.
struct Stamp(usize);

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        write!(f, "{}@{} ", self.0, now.as_micros())
    }
}

/// Writes the chunks of one streamed answer. What all of them share is written
/// once and then copied: thousands of answers run at a time.
pub(super) struct Chunks {
    out: BytesMut,
    /// Everything before a chunk's `delta`.
    before: String,
}

impl Chunks {
    pub(super) fn new(id: &str, created: u64, model: &str) -> Self {
        let model = Value::from(model);
        let before = format!(
            "data: {{\"id\":\"{id}\",\"object\":\"chat.completion.chunk\",\"created\":{created},\
             \"model\":{model},\"choices\":[{{\"index\":0,\"delta\":"
        );
        Self { out: BytesMut::new(), before }
    }

    /// The chunk that opens an answer.
    pub(super) fn role(&mut self) {
        self.chunk(r#"{"role":"assistant","content":"""#, None, "}");
    }

    pub(super) fn piece(&mut self, piece: &Piece) {
        match piece {
            Piece::Text(text) => self.chunk(r#"{"content":"#, Some(text), "}"),
            Piece::Stamp(n) => {
                self.open(r#"{"content":""#);
                // Digits: nothing to escape, and BytesMut grows as needed.
                let _ = write!(self.out, "{}", Stamp(*n));
                self.close("\"}");
            }
            Piece::Reasoning(text) => self.chunk(r#"{"reasoning_content":"#, Some(text), "}"),
            Piece::Arguments(text) => self.chunk(
                r#"{"tool_calls":[{"index":0,"function":{"arguments":"#,
                Some(text),
                "}}]}",
            ),
            Piece::Tool { id, name } => {
                let function = json!({ "name": name, "arguments": "" });
                let call =
                    json!([{ "index": 0, "id": id, "type": "function", "function": function }]);
                self.chunk(
                    &json!({ "role": "assistant", "tool_calls": call }).to_string(),
                    None,
                    "",
                );
            }
        }
    }

    fn chunk(&mut self, open: &str, text: Option<&str>, close: &str) {
        self.open(open);
        if let Some(text) = text {
            put_json(&mut self.out, text);
        }
        self.close(close);
    }

    fn open(&mut self, open: &str) {
        self.out.put_slice(self.before.as_bytes());
        self.out.put_slice(open.as_bytes());
    }

    fn close(&mut self, close: &str) {
        self.out.put_slice(close.as_bytes());
        self.out.put_slice(b",\"finish_reason\":null}]}\n\n");
    }

    /// The last chunks: why it ends, tokens counted if wanted, and the end mark.
    pub(super) fn end(&mut self, finish_reason: &str, usage: Option<Usage>) {
        self.out.put_slice(self.before.as_bytes());
        self.out.put_slice(b"{},\"finish_reason\":");
        put_json(&mut self.out, finish_reason);
        self.out.put_slice(b"}]}\n\n");
        if let Some(usage) = usage {
            let head = self.before.find("\"choices\"").map_or("data: {", |at| &self.before[..at]);
            self.out.put_slice(head.as_bytes());
            self.out.put_slice(b"\"choices\":[],\"usage\":");
            put_json(&mut self.out, &usage);
            self.out.put_slice(b"}\n\n");
        }
        self.out.put_slice(b"data: [DONE]\n\n");
    }

    /// A chunk that no client can read.
    pub(super) fn garbage(&mut self) {
        self.out.put_slice(b"data: {\"choices\":[{\"delta\":{\"conte\n\n");
    }

    /// A finish reason that isn't one: the answer failed.
    pub(super) fn error(&mut self) {
        let failed = json!({ "choices": [failed_choice("delta", json!({ "content": "" }))] });
        self.out.put_slice(format!("data: {failed}\n\ndata: [DONE]\n\n").as_bytes());
    }

    /// An event that isn't a chunk: the answer failed.
    pub(super) fn error_event(&mut self) {
        let error = model_crashed();
        let events = format!("event: error\ndata: {error}\n\ndata: [DONE]\n\n");
        self.out.put_slice(events.as_bytes());
    }

    /// Bytes written since the last [`Chunks::take`].
    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    pub(super) fn take(&mut self) -> Bytes {
        self.out.split().freeze()
    }
}

fn put_json(out: &mut BytesMut, value: &(impl Serialize + ?Sized)) {
    // Strings and numbers always serialize, and BytesMut grows as needed.
    let _ = serde_json::to_writer(out.writer(), value);
}

/// A whole answer, not streamed.
pub(super) fn completion(
    id: &str,
    created: u64,
    model: &str,
    pieces: impl IntoIterator<Item = Piece>,
    finish_reason: &str,
    usage: Usage,
) -> Value {
    let (mut text, mut reasoning, mut arguments) = (String::new(), String::new(), String::new());
    let mut call = None;
    for piece in pieces {
        match piece {
            Piece::Text(more) => text.push_str(&more),
            Piece::Stamp(n) => text.push_str(&Stamp(n).to_string()),
            Piece::Reasoning(more) => reasoning.push_str(&more),
            Piece::Arguments(more) => arguments.push_str(&more),
            Piece::Tool { id, name } => call = Some((id, name)),
        }
    }
    let content = if text.is_empty() && call.is_some() { Value::Null } else { text.into() };
    let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
    if !reasoning.is_empty() {
        message["reasoning_content"] = reasoning.into();
    }
    if let Some((id, name)) = call {
        let function = json!({ "name": name, "arguments": arguments });
        message["tool_calls"] = json!([{ "id": id, "type": "function", "function": function }]);
    }
    json!({
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{ "index": 0, "message": message, "finish_reason": finish_reason }],
        "usage": usage,
    })
}

/// The choice of an answer that failed on its way, with `said` as its `field`.
/// OpenRouter's way to say it.
pub(super) fn failed_choice(field: &str, said: Value) -> Value {
    let error = json!({ "message": "Provider overloaded", "code": 502 });
    json!({ "index": 0, field: said, "finish_reason": "error", "error": error })
}

/// The data of an error that isn't in OpenAI's form.
pub(super) fn model_crashed() -> Value {
    json!({ "message": "model crashed" })
}

/// An error as OpenAI words it.
pub(super) fn error(kind: &str, message: &str) -> Value {
    json!({ "error": { "message": message, "type": kind, "param": null, "code": null } })
}
