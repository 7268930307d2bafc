//! A chunk read field by field: what can be read is, and the rest counts as absent.
//!
//! The table of what is read from what stands in [`super`].

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::chunk::{CallPiece, Choice, Chunk, Delta, NoObject, Reasoning};
use super::repair::{alone, repair};
use super::usage::Counts;
use crate::model::openai::error;

/// Parts within parts, at most.
const DEEPEST: u32 = 8;

/// Fields of a message that servers want back with it.
const OPAQUE: [&str; 4] =
    ["reasoning_details", "thinking_blocks", "extra_content", "provider_specific_fields"];

/// Fields of a tool call that servers want back with it.
const CALL_OPAQUE: [&str; 3] = ["extra_content", "provider_specific_fields", "thought_signature"];

/// Names that reasoning comes under.
const REASONING: [&str; 4] = ["reasoning_content", "reasoning", "reasoning_text", "thinking"];

pub(super) fn chunk(data: &[u8]) -> Result<Chunk, NoObject> {
    let repaired = repair(data);
    let fields: Fields<'_> = serde_json::from_str(&repaired.json).map_err(NoObject)?;
    let mut chunk = Reader { marked: repaired.marked }.chunk(&fields);
    chunk.marked = repaired.marked;
    Ok(chunk)
}

/// An object's fields, of which the last of a name counts, without the nulls.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Fields<'a> {
    fn of(value: &'a RawValue) -> Option<Self> {
        value.get().starts_with('{').then(|| serde_json::from_str(value.get()).ok()).flatten()
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        let value = self.0.iter().rfind(|(field, _)| field == name).map(|(_, value)| *value);
        value.filter(|value| value.get() != "null")
    }

    fn first(&self, names: &[&'static str]) -> Option<(&'static str, &'a RawValue)> {
        names.iter().find_map(|&name| Some((name, self.get(name)?)))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;

        impl<'de> Visitor<'de> for All {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(All).map(Fields)
    }
}

fn items(value: &RawValue) -> Vec<&RawValue> {
    match value.get().as_bytes().first() {
        Some(b'[') => serde_json::from_str(value.get()).unwrap_or_default(),
        _ => vec![value],
    }
}

/// Text of content's parts, by what it is.
#[derive(Default)]
struct Parts {
    text: String,
    reasoning: String,
    refusal: String,
}

struct Reader {
    marked: bool,
}

impl Reader {
    fn chunk(&self, fields: &Fields<'_>) -> Chunk {
        let choices = fields.get("choices").map(items).unwrap_or_default();
        let object = fields.get("object").and_then(|value| self.string(value));
        let mut chunk = Chunk {
            has_choices: !choices.is_empty(),
            whole: object.as_deref() == Some("chat.completion"),
            error: self.error(fields, object.as_deref(), !choices.is_empty()),
            ..Chunk::default()
        };
        let mut usage = fields.get("usage").and_then(|usage| self.counts(usage));
        let groq = fields.get("x_groq").and_then(Fields::of);
        if let Some(groq) = groq {
            usage = usage.or_else(|| self.counts(groq.get("usage")?));
            chunk.error = chunk.error.or_else(|| telling(groq.get("error")?));
        }
        for (place, choice) in (0..).zip(choices.into_iter().filter_map(Fields::of)) {
            let index = choice.get("index").and_then(|index| self.integer(index));
            if index.unwrap_or(place) == 0 && chunk.choice.is_none() {
                usage = usage.or_else(|| self.counts(choice.get("usage")?));
                chunk.error = chunk.error.or_else(|| telling(choice.get("error")?));
                chunk.choice = Some(self.choice(&choice));
            }
        }
        chunk.usage = usage;
        if !chunk.has_choices && chunk.error.is_none() {
            let said = fields.first(&["message", "detail", "msg", "status_msg"]);
            chunk.remark = said.and_then(|(_, value)| self.string(value));
        }
        chunk
    }

    /// The object that tells of an error.
    fn error(&self, fields: &Fields<'_>, object: Option<&str>, has_choices: bool) -> Option<Value> {
        let whole = || {
            let pairs = fields.0.iter().map(|(name, value)| (name.clone(), any(value)));
            Value::Object(pairs.collect())
        };
        for name in ["error", "errors"] {
            if fields.get(name).and_then(telling).is_some() {
                return Some(whole());
            }
        }
        let status = fields.get("base_resp").and_then(Fields::of);
        let status = status.and_then(|status| self.integer(status.get("status_code")?));
        if status.is_some_and(|status| status != 0) {
            return fields.get("base_resp").map(any);
        }
        let kind = fields.get("type").and_then(|value| self.string(value));
        let says = object == Some("error") || kind.as_deref() == Some("error");
        let code = fields.first(&["code", "status", "status_code", "statusCode", "error_code"]);
        let names_one = !has_choices
            && fields.first(&["message", "detail", "msg"]).is_some()
            && code.is_some_and(|(name, value)| match self.integer(value) {
                Some(status) => (400..600).contains(&status),
                None => name.contains("code") && self.string(value).is_some_and(|c| !c.is_empty()),
            });
        (says || names_one).then(whole)
    }

    fn choice(&self, fields: &Fields<'_>) -> Choice {
        let finish_reason = fields.get("finish_reason").filter(|value| is_string(value));
        let finish_reason = finish_reason.and_then(|value| self.string(value));
        let delta = fields.get("delta").map(|delta| self.delta(delta, false));
        let delta = delta.filter(Delta::says_something).unwrap_or_else(|| {
            if let Some(message) = fields.get("message") {
                return self.delta(message, true);
            }
            let content = fields.get("text").and_then(|value| self.string(value));
            Delta { content, ..Delta::default() }
        });
        Choice { delta, finish_reason }
    }

    fn delta(&self, value: &RawValue, is_message: bool) -> Delta {
        let Some(fields) = Fields::of(value) else {
            let content = is_string(value).then(|| self.string(value)).flatten();
            return Delta { content, is_message, ..Delta::default() };
        };
        let mut parts = Parts::default();
        if let Some(content) = fields.get("content") {
            self.parts(content, &mut parts, 0);
        }
        if let Some(refusal) = fields.get("refusal").and_then(|value| self.prose(value)) {
            parts.refusal.push_str(&refusal);
        }
        let named = REASONING.iter().find_map(|&field| {
            let text = self.prose(fields.get(field)?).filter(|text| !text.is_empty())?;
            Some(Reasoning { text, field: Some(field) })
        });
        let within = || {
            let details = fields.get("reasoning_details");
            let text = details.map(|details| self.details(details)).unwrap_or_default();
            let field = (!text.is_empty()).then_some("reasoning_details");
            let text = if text.is_empty() { parts.reasoning.clone() } else { text };
            (!text.is_empty()).then_some(Reasoning { text, field })
        };
        let calls = fields.get("tool_calls").map(items).unwrap_or_default();
        let legacy = fields.get("function_call").into_iter();
        Delta {
            content: said(parts.text),
            refusal: said(parts.refusal),
            reasoning: named.or_else(within),
            tool_calls: calls
                .into_iter()
                .filter_map(|call| self.call(call))
                .chain(legacy.filter_map(|call| self.function(&Fields::of(call)?)))
                .collect(),
            opaque: self.opaque(&fields, &OPAQUE),
            is_message,
        }
    }

    fn call(&self, value: &RawValue) -> Option<CallPiece> {
        let fields = Fields::of(value)?;
        let function = fields.get("function").and_then(Fields::of);
        let mut piece = self.function(function.as_ref().unwrap_or(&fields))?;
        let index = fields.get("index").and_then(|index| self.integer(index));
        piece.index = index.and_then(|index| u32::try_from(index).ok());
        piece.id = fields.get("id").and_then(|id| self.string(id));
        piece.opaque = self.opaque(&fields, &CALL_OPAQUE);
        Some(piece)
    }

    fn function(&self, fields: &Fields<'_>) -> Option<CallPiece> {
        let arguments = fields.get("arguments").and_then(|value| match is_string(value) {
            true => serde_json::from_str(value.get()).ok(),
            // Whole, as JSON: the text as it was written.
            false => Some(value.get().to_owned()),
        });
        let name = fields.get("name").filter(|name| is_string(name));
        let name = name.and_then(|name| self.string(name));
        Some(CallPiece { name, arguments, ..CallPiece::default() })
    }

    fn opaque(
        &self,
        fields: &Fields<'_>,
        names: &[&'static str],
    ) -> Vec<(&'static str, Box<RawValue>)> {
        let there = names.iter().filter_map(|&name| Some((name, fields.get(name)?)));
        there
            .filter(|(_, value)| !matches!(value.get(), "[]" | "{}" | "\"\"" | "false"))
            .filter_map(|(name, value)| {
                let json = alone(value.get().to_owned(), self.marked);
                Some((name, RawValue::from_string(json).ok()?))
            })
            .collect()
    }

    /// What content says, in whichever form.
    fn parts(&self, value: &RawValue, into: &mut Parts, depth: u32) {
        let json = value.get();
        match json.as_bytes().first() {
            Some(b'"') => {
                into.text.push_str(&serde_json::from_str::<String>(json).unwrap_or_default())
            }
            Some(b'0'..=b'9' | b'-') => into.text.push_str(json),
            Some(b'[') if depth < DEEPEST => {
                items(value).into_iter().for_each(|part| self.parts(part, into, depth + 1));
            }
            Some(b'{') if depth < DEEPEST => self.part(value, into, depth),
            _ => {}
        }
    }

    fn part(&self, value: &RawValue, into: &mut Parts, depth: u32) {
        let Some(fields) = Fields::of(value) else { return };
        let kind = fields.get("type").and_then(|kind| self.string(kind));
        let prose = fields.first(&[
            "text",
            "thinking",
            "reasoning",
            "refusal",
            "summary",
            "content",
            "value",
        ]);
        match (kind.as_deref(), prose) {
            // JSON that the server has parsed for us.
            (None, _) if depth == 0 && fields.0.len() > 1 => into.text.push_str(value.get()),
            (Some(kind), Some((_, prose)))
                if ["thinking", "reasoning", "summary"]
                    .iter()
                    .any(|word| kind.starts_with(word)) =>
            {
                let mut inner = Parts::default();
                self.parts(prose, &mut inner, depth + 1);
                into.reasoning.push_str(&inner.text);
                into.reasoning.push_str(&inner.reasoning);
            }
            (_, Some(("thinking" | "reasoning", prose))) => {
                let mut inner = Parts::default();
                self.parts(prose, &mut inner, depth + 1);
                into.reasoning.push_str(&inner.text);
            }
            (_, Some(("refusal", prose))) => {
                into.refusal.push_str(&self.string(prose).unwrap_or_default());
            }
            (_, Some((_, prose))) => self.parts(prose, into, depth + 1),
            (None, None) if depth == 0 && !fields.0.is_empty() => into.text.push_str(value.get()),
            _ => {}
        }
    }

    /// Text of any kind, in whichever form.
    fn prose(&self, value: &RawValue) -> Option<String> {
        let mut parts = Parts::default();
        self.parts(value, &mut parts, 1);
        let Parts { text, reasoning, refusal } = parts;
        said(text + &reasoning + &refusal)
    }

    /// Reasoning within `reasoning_details`.
    fn details(&self, value: &RawValue) -> String {
        let readable = items(value).into_iter().filter_map(Fields::of).filter_map(|detail| {
            let kind = self.string(detail.get("type")?)?;
            let field = match kind.as_str() {
                "reasoning.summary" => "summary",
                "reasoning.text" => "text",
                _ => return None,
            };
            self.prose(detail.get(field)?)
        });
        readable.collect()
    }

    fn counts(&self, value: &RawValue) -> Option<Counts> {
        let fields = Fields::of(value)?;
        let count = |names: &[&'static str]| {
            let mut counts = names.iter().filter_map(|name| self.integer(fields.get(name)?));
            counts.next().and_then(|count| u64::try_from(count).ok())
        };
        Some(Counts {
            prompt: count(&["prompt_tokens", "input_tokens"]),
            completion: count(&["completion_tokens", "output_tokens"]),
            total: count(&["total_tokens"]),
        })
    }

    /// A short text that is used as it is.
    fn string(&self, value: &RawValue) -> Option<String> {
        let json = value.get();
        match json.as_bytes().first()? {
            b'"' => serde_json::from_str(json).ok().map(|text| alone(text, self.marked)),
            b'0'..=b'9' | b'-' => Some(json.to_owned()),
            _ => None,
        }
    }

    /// A number without a fraction, or one in a string.
    fn integer(&self, value: &RawValue) -> Option<i64> {
        let text = self.string(value)?;
        let text = text.trim();
        text.parse().ok().or_else(|| {
            let number: f64 = text.parse().ok()?;
            let whole = number.fract() == 0.0 && number.abs() < 9e15;
            whole.then_some(number as i64)
        })
    }
}

fn said(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn is_string(value: &RawValue) -> bool {
    value.get().starts_with('"')
}

/// As a value; what is too deep or too large for one, as text.
fn any(value: &RawValue) -> Value {
    serde_json::from_str(value.get()).unwrap_or_else(|_| Value::String(value.get().to_owned()))
}

/// An error that says something.
fn telling(value: &RawValue) -> Option<Value> {
    let value = any(value);
    error::is_telling(&value).then_some(value)
}
