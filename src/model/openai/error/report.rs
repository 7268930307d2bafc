//! What a server says of an error, read from wherever it says it.

use std::time::Duration;

use serde_json::Value;

use super::{LONGEST_WAIT, shorten};

/// Errors within errors, at most.
const DEEPEST: u32 = 6;

/// Fields that an error's message stands in, the most telling first.
const MESSAGE: [&str; 10] = [
    "message",
    "detail",
    "msg",
    "error_message",
    "error_description",
    "status_msg",
    "description",
    "reason",
    "title",
    "error",
];

/// Fields that name an error's kind, the most exact first.
const KIND: [&str; 7] =
    ["code", "error_code", "status", "status_code", "statusCode", "type", "error_type"];

/// An error as a server tells it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Report {
    /// For people; empty if there is none.
    pub(super) message: String,
    /// The names of its kind, lower case, the most exact first.
    pub(super) kinds: Vec<String>,
    /// The HTTP status that it would have had.
    pub(super) status: Option<u16>,
    /// When to come back.
    pub(super) retry_after: Option<Duration>,
}

/// It says that something is wrong: not null, false, zero, empty, nor an object or
/// array of such.
pub(in crate::model::openai) fn is_telling(error: &Value) -> bool {
    match error {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => items.iter().any(is_telling),
        Value::Object(fields) => fields.values().any(is_telling),
    }
}

impl Report {
    pub(super) fn of(json: &Value) -> Self {
        let mut report = Self::default();
        report.read(json, 0);
        let message = message_of(json, 0).unwrap_or_default();
        report.retry_after = report.retry_after.or_else(|| in_words(&message));
        report.message = shorten(&message);
        report
    }

    /// Kinds, status and wait, the innermost error's first.
    fn read(&mut self, json: &Value, depth: u32) {
        if depth > DEEPEST {
            return;
        }
        match json {
            Value::Array(items) => {
                items.iter().take(10).for_each(|item| self.read(item, depth + 1))
            }
            Value::Object(fields) => {
                for inner in ["error", "errors", "message", "detail", "details", "metadata", "raw"]
                {
                    fields.get(inner).into_iter().for_each(|inner| self.read(inner, depth + 1));
                }
                for kind in KIND.iter().filter_map(|name| fields.get(*name)) {
                    self.kind(kind);
                }
                self.retry_after = self.retry_after.or_else(|| wait(json));
            }
            Value::String(text) => {
                if let Some(json) = inner(text) {
                    self.read(&json, depth + 1);
                }
            }
            _ => {}
        }
    }

    fn kind(&mut self, kind: &Value) {
        let number = match kind {
            Value::String(text) => text.trim().parse::<f64>().ok(),
            kind => kind.as_f64(),
        };
        match (number, kind) {
            (Some(number), _) if (400.0..600.0).contains(&number) => {
                self.status = self.status.or(Some(number as u16));
            }
            (None, Value::String(text)) if self.kinds.len() < 20 => {
                self.kinds.push(text.to_ascii_lowercase());
            }
            _ => {}
        }
    }
}

/// JSON within a string: gateways pass on what they got.
fn inner(text: &str) -> Option<Value> {
    text.trim_start().starts_with(['{', '[']).then(|| serde_json::from_str(text).ok())?
}

/// The message in an error's JSON, of whichever form.
fn message_of(json: &Value, depth: u32) -> Option<String> {
    if depth > DEEPEST {
        return None;
    }
    match json {
        Value::String(text) if text.trim().is_empty() => None,
        Value::String(text) => {
            let inner = inner(text).and_then(|json| message_of(&json, depth + 1));
            inner.or_else(|| Some(text.trim().to_owned()))
        }
        Value::Array(items) => {
            let said: Vec<_> =
                items.iter().take(5).filter_map(|item| message_of(item, depth + 1)).collect();
            (!said.is_empty()).then(|| said.join("; "))
        }
        Value::Object(fields) => {
            // An error's own words come before those around it.
            let inner = ["error", "errors"].into_iter().filter_map(|name| fields.get(name));
            let inner = inner.filter(|inner| inner.is_object() || inner.is_array());
            let said = inner
                .chain(MESSAGE.iter().filter_map(|name| fields.get(*name)))
                .find_map(|value| message_of(value, depth + 1))?;
            let said = match fields.get("loc").and_then(Value::as_array) {
                Some(place) => format!("{}: {said}", path(place)),
                None => said,
            };
            // A gateway's «Provider returned error», and what the provider said.
            let raw = fields.get("metadata").and_then(|metadata| metadata.get("raw"));
            let raw = raw.and_then(|raw| message_of(raw, depth + 1));
            Some(match raw {
                Some(raw) => format!("{said}: {raw}"),
                None => said,
            })
        }
        _ => None,
    }
}

/// Where in a request something is wrong, as FastAPI tells it.
fn path(place: &[Value]) -> String {
    let step = |step: &Value| step.as_str().map_or_else(|| step.to_string(), str::to_owned);
    place.iter().map(step).collect::<Vec<_>>().join(".")
}

/// When an object says to come back.
fn wait(json: &Value) -> Option<Duration> {
    let number = |name: &str| match json.get(name)? {
        Value::String(text) => text.trim().trim_end_matches('s').parse().ok(),
        value => value.as_f64(),
    };
    // Google's `RetryInfo` has `"retryDelay": "33s"`.
    let seconds = ["retry_after", "retryAfter", "retry_after_seconds", "retryDelay"];
    let seconds = seconds.into_iter().find_map(number);
    let seconds = seconds.or_else(|| number("retry_after_ms").map(|ms: f64| ms / 1000.0))?;
    Some(Duration::try_from_secs_f64(seconds).ok()?.min(LONGEST_WAIT))
}

/// «Please try again in 1m30s», as OpenAI and others word it.
fn in_words(message: &str) -> Option<Duration> {
    let lower = message.to_ascii_lowercase();
    let (_, rest) = ["again in ", "again after ", "retry in ", "retry after "]
        .into_iter()
        .find_map(|phrase| lower.split_once(phrase))?;
    let mut total = 0.0;
    let mut rest = rest;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let Ok(number) = rest[..digits].trim_end_matches('.').parse::<f64>() else { break };
        let unit = rest[digits..].trim_start();
        let letters = unit.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(unit.len());
        let factor = match &unit[..letters] {
            "ms" | "milliseconds" => 0.001,
            "s" | "sec" | "second" | "seconds" => 1.0,
            "m" | "min" | "minute" | "minutes" => 60.0,
            "h" | "hour" | "hours" => 3600.0,
            _ => break,
        };
        total += number * factor;
        rest = unit[letters..].trim_start();
    }
    let wait = Duration::try_from_secs_f64(total).ok().filter(|wait| !wait.is_zero())?;
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_message_is_found_wherever_it_stands() {
        for (json, message) in [
            (json!({"error": {"message": "no"}}), "no"),
            (json!({"error": "no"}), "no"),
            (json!({"message": "no"}), "no"),
            (json!("no"), "no"),
            (json!({"detail": "no"}), "no"),
            (
                json!({"detail": [{"loc": ["body", "top_k", 0], "msg": "Extra inputs are not permitted"}]}),
                "body.top_k.0: Extra inputs are not permitted",
            ),
            (json!({"detail": [{"msg": "a"}, {"msg": "b"}]}), "a; b"),
            (
                json!([{"error": {"code": 400, "message": "Invalid JSON payload"}}]),
                "Invalid JSON payload",
            ),
            (
                json!({"error": {"message": "Provider returned error", "metadata": {
                "raw": "{\"error\":{\"message\":\"too hot\"}}"}}}),
                "Provider returned error: too hot",
            ),
            (json!({"errors": [{"message": "no"}], "success": false}), "no"),
            (json!({"message": {"detail": [{"msg": "no"}]}}), "no"),
            (json!({"object": "error", "message": "no", "code": 400}), "no"),
            (json!({"base_resp": {}, "status_msg": "no"}), "no"),
            (json!({"title": "Bad", "detail": "no"}), "no"),
            (json!({"error": {"code": 400}}), ""),
            (json!({}), ""),
        ] {
            assert_eq!(Report::of(&json).message, message, "{json}");
        }
    }

    #[test]
    fn a_wait_is_found_wherever_it_stands() {
        for (json, seconds) in [
            (json!({"error": {"message": "Please try again in 1.5s."}}), 1.5),
            (json!({"error": {"message": "Please try again in 20ms. Visit…"}}), 0.02),
            (json!({"error": {"message": "try again in 1m30s"}}), 90.0),
            (json!({"error": {"message": "Rate limit: retry after 2 minutes"}}), 120.0),
            (
                json!({"error": {"message": "Rate limit exceeded, please try again after 1 seconds"}}),
                1.0,
            ),
            (json!({"error": {"retry_after": 3}}), 3.0),
            (json!({"retry_after_ms": "1500"}), 1.5),
            (json!([{"error": {"details": [{"retryDelay": "33s"}]}}]), 33.0),
        ] {
            let wait = Report::of(&json).retry_after;
            assert_eq!(wait.map(|wait| wait.as_secs_f64()), Some(seconds), "{json}");
        }
        for json in
            [json!({"message": "again in a while"}), json!({"retry_after": -1}), json!(null)]
        {
            assert_eq!(Report::of(&json).retry_after, None, "{json}");
        }
    }

    #[test]
    fn an_error_that_says_nothing_is_none() {
        for nothing in [
            json!(null),
            json!(false),
            json!(""),
            json!({}),
            json!([]),
            json!(0),
            json!({"code": null, "message": ""}),
        ] {
            assert!(!is_telling(&nothing), "{nothing}");
        }
        for something in [json!(true), json!("x"), json!({"code": 500}), json!(["x"])] {
            assert!(is_telling(&something), "{something}");
        }
    }
}
