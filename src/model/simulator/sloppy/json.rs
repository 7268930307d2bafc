//! What is in a chunk.

use serde_json::{Map, Value, json};

use super::{Kind, Kinds};

/// The chunks of one answer, rewritten.
pub(super) struct Chunks {
    kinds: Kinds,
    /// The chunk with the finish reason, until it's known whether usage follows.
    held: Option<Value>,
    /// A tool call's arguments, until they are whole.
    arguments: String,
}

impl Chunks {
    pub(super) fn new(kinds: Kinds) -> Self {
        Self { kinds, held: None, arguments: String::new() }
    }

    /// Emits what `chunk` becomes, now or with later ones.
    pub(super) fn push(&mut self, mut chunk: Value, mut emit: impl FnMut(String)) {
        if self.kinds.has(Kind::OddTypes) {
            if chunk["choices"][0]["finish_reason"].is_string() {
                self.flush(&mut emit);
                self.held = Some(chunk);
                return;
            }
            if chunk["usage"].is_object()
                && let Some(finish) = &mut self.held
            {
                finish["usage"] = chunk["usage"].take();
                return self.flush(emit);
            }
            if !self.whole_arguments(&mut chunk) {
                return;
            }
        }
        self.flush(&mut emit);
        let halves = if self.kinds.has(Kind::Bytes) { halves(&chunk) } else { Vec::new() };
        if halves.is_empty() {
            return emit(rewritten(self.kinds, chunk, None));
        }
        for half in halves {
            emit(rewritten(self.kinds, chunk.clone(), Some(half)));
        }
    }

    /// Emits what is held back and complete.
    pub(super) fn flush(&mut self, mut emit: impl FnMut(String)) {
        if let Some(chunk) = self.held.take() {
            emit(rewritten(self.kinds, chunk, None));
        }
    }

    /// Gathers a call's arguments. True when `chunk` has none, or now has all.
    fn whole_arguments(&mut self, chunk: &mut Value) -> bool {
        let arguments = chunk.pointer_mut("/choices/0/delta/tool_calls/0/function/arguments");
        let Some(Value::String(more)) = arguments else { return true };
        // What begins a call has its name, and no arguments yet.
        if more.is_empty() {
            return true;
        }
        self.arguments.push_str(more);
        if serde_json::from_str::<Map<String, Value>>(&self.arguments).is_err() {
            return false;
        }
        *more = std::mem::take(&mut self.arguments);
        true
    }
}

/// A whole completion.
pub(super) fn completion(kinds: Kinds, mut completion: Value) -> String {
    let mut tokens = Tokens::default();
    change(kinds, &mut completion, &mut tokens);
    let text = serde_json::to_string_pretty(&completion).unwrap_or_default();
    tokens.put_into(text)
}

/// `chunk` as text; `content` is JSON to put in its content's place.
fn rewritten(kinds: Kinds, mut chunk: Value, content: Option<String>) -> String {
    let mut tokens = Tokens::default();
    if let Some(content) = content {
        chunk["choices"][0]["delta"]["content"] = tokens.add(content);
    }
    change(kinds, &mut chunk, &mut tokens);
    tokens.put_into(chunk.to_string())
}

/// Applies the rules to a chunk or a completion. What is no answer is left as
/// it is.
fn change(kinds: Kinds, answer: &mut Value, tokens: &mut Tokens) {
    let Some(choices) = answer.get_mut("choices").and_then(Value::as_array_mut) else { return };
    for choice in choices {
        let Some(choice) = choice.as_object_mut() else { continue };
        let field = if choice.contains_key("delta") { "delta" } else { "message" };
        if let Some(Value::Object(said)) = choice.get_mut(field) {
            if kinds.has(Kind::Parts) {
                parts(said);
            }
            if kinds.has(Kind::OddTypes) {
                odd_content(said);
            }
            let calls = said.get_mut("tool_calls").and_then(Value::as_array_mut);
            for call in calls.into_iter().flatten().filter_map(Value::as_object_mut) {
                change_call(kinds, call);
            }
        }
        if kinds.has(Kind::Message)
            && let Some(said) = choice.remove("delta")
        {
            choice.insert("message".into(), said);
        }
        let error = choice.get("finish_reason").is_some_and(|reason| reason == "error");
        if kinds.has(Kind::Unfinished) && !error {
            choice.insert("finish_reason".into(), Value::Null);
        }
        if kinds.has(Kind::OddTypes) {
            choice.insert("index".into(), "0".into());
            choice.insert("logprobs".into(), tokens.add("-Infinity".into()));
        }
    }
    if kinds.has(Kind::OddTypes) {
        answer["error"] = false.into();
        if let Some(created) = answer.get_mut("created") {
            *created = created.to_string().into();
        }
        let usage = answer.get_mut("usage").and_then(Value::as_object_mut);
        for (_, count) in usage.into_iter().flatten() {
            *count = json!(count.as_f64());
        }
    }
}

/// Content and reasoning as parts of one content.
fn parts(said: &mut Map<String, Value>) {
    let mut parts = Vec::new();
    if let Some(reasoning) = said.remove("reasoning_content") {
        parts.push(json!({
            "type": "thinking",
            "thinking": [{ "type": "text", "text": reasoning }],
        }));
    }
    match said.get("content") {
        // The chunk with the role has no text.
        None | Some(Value::Null) => {}
        Some(text) if text == "" => {}
        Some(text) => parts.push(json!({ "type": "text", "text": text })),
    }
    if !parts.is_empty() {
        said.insert("content".into(), parts.into());
    }
}

/// A number where the text is that of one.
fn odd_content(said: &mut Map<String, Value>) {
    let Some(content) = said.get_mut("content") else { return };
    let number = content.as_str().and_then(|text| {
        let number: i64 = text.parse().ok()?;
        (number.to_string() == text).then_some(number)
    });
    if let Some(number) = number {
        *content = number.into();
    }
}

fn change_call(kinds: Kinds, call: &mut Map<String, Value>) {
    if kinds.has(Kind::NoIndex) {
        call.remove("index");
    }
    if kinds.has(Kind::BadIds)
        && let Some(id) = call.get_mut("id")
    {
        *id = "".into();
    }
    if kinds.has(Kind::OddTypes) {
        if let Some(index) = call.get_mut("index") {
            *index = index.to_string().into();
        }
        let arguments = call.get_mut("function").and_then(|function| function.get_mut("arguments"));
        if let Some(arguments) = arguments
            && let Some(object) =
                arguments.as_str().and_then(|text| serde_json::from_str(text).ok())
        {
            *arguments = Value::Object(object);
        }
    }
}

/// A chunk's content as JSON strings, cut within each character that JSON
/// escapes as two surrogate halves. Empty when there is none.
fn halves(chunk: &Value) -> Vec<String> {
    let text = chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
    let mut halves = Vec::new();
    let mut current = String::new();
    for char in text.chars() {
        let mut units = [0; 2];
        match char.encode_utf16(&mut units) {
            [high, low] => {
                halves.push(format!("\"{current}\\u{high:04x}\""));
                current = format!("\\u{low:04x}");
            }
            _ => {
                let json = Value::from(char.to_string()).to_string();
                current.push_str(&json[1..json.len() - 1]);
            }
        }
    }
    if !halves.is_empty() {
        halves.push(format!("\"{current}\""));
    }
    halves
}

/// Text that [`Value`] can't hold, to be written in the place of values.
#[derive(Default)]
struct Tokens(Vec<String>);

/// The field of a value that stands for a token, as JSON. No string contains
/// this, as quotes are escaped there, and no answer has such a field.
const TOKEN: &str = "\"token\":";

impl Tokens {
    /// The value that stands for `token`.
    fn add(&mut self, token: String) -> Value {
        self.0.push(token);
        json!({ "token": self.0.len() - 1 })
    }

    /// `json` with the tokens, which themselves don't contain [`TOKEN`].
    fn put_into(self, mut json: String) -> String {
        while let Some(field) = json.find(TOKEN) {
            let Some(open) = json[..field].rfind('{') else { break };
            let Some(length) = json[field..].find('}') else { break };
            let close = field + length;
            let at: Option<usize> = json[field + TOKEN.len()..close].trim().parse().ok();
            let Some(token) = at.and_then(|at| self.0.get(at)) else { break };
            json.replace_range(open..=close, token);
        }
        json
    }
}
