//! What goes wrong at a model's server, in rill's terms: what it says ([`report`])
//! whether repeating helps ([`class`]), and what users are told of it ([`told`]).

mod class;
mod report;
mod told;

use std::error::Error;
use std::time::Duration;

use async_openai::error::OpenAIError;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde_json::Value;
use serde_json::error::Category;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use self::class::classify;
use self::report::Report;
pub(super) use self::report::is_telling;
use crate::domain::task::code;
use crate::model::{ModelError, without_nul};
use crate::text::one_line;

/// Bytes of an error's body that are read for its message.
const BODY: usize = 16 * 1024;

/// Characters of a server's message that are passed on.
pub(super) const MESSAGE: usize = 500;

/// The longest wait that is believed.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// The server can't be reached, or broke off.
pub(super) fn unavailable(error: reqwest::Error) -> ModelError {
    retryable(code::UPSTREAM_UNAVAILABLE, causes(&error.without_url()))
}

/// The server sent what isn't a stream of chunks.
pub(super) fn malformed(what: impl std::fmt::Display) -> ModelError {
    retryable(code::UPSTREAM_MALFORMED, shorten(&format!("the model's server sent {what}")))
}

/// The server sent a web page.
pub(super) fn page() -> ModelError {
    malformed("a page instead of an event stream: is its base URL right?")
}

/// The stream ended, and the answer isn't complete. `remark`: what the server said
/// that was no part of one.
pub(super) fn incomplete(remark: Option<String>) -> ModelError {
    let ended = "The model's stream ended without a finish reason";
    let message = match remark {
        Some(remark) => format!("{ended}; it said: {}", shorten(&remark)),
        None => format!("{ended}."),
    };
    retryable(code::UPSTREAM_INCOMPLETE, message)
}

/// The finish reason says that the answer broke off.
pub(super) fn broken_off(reason: &str) -> ModelError {
    let reason = shorten(reason);
    let message = format!("the model's server broke the answer off (finish reason {reason:?})");
    retryable(code::UPSTREAM_ERROR, message)
}

/// A status other than success, and what came with it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) error: ModelError,
    pub(super) status: StatusCode,
    /// The body, in lower case.
    pub(super) said: String,
}

/// An error that no status came with.
impl From<ModelError> for Refusal {
    fn from(error: ModelError) -> Self {
        Self { error, status: StatusCode::OK, said: String::new() }
    }
}

/// The server answered with a status other than success.
pub(super) async fn refused(mut response: Response) -> Refusal {
    let status = response.status();
    let retry_after = retry_after(response.headers(), OffsetDateTime::now_utc());
    let mut body = Vec::new();
    // A body that breaks off still says something.
    while let Ok(Some(bytes)) = response.chunk().await {
        body.extend_from_slice(&bytes);
        if body.len() >= BODY {
            break;
        }
    }
    body.truncate(BODY);
    let text = String::from_utf8_lossy(&body);
    let mut report = match serde_json::from_slice::<Value>(&body) {
        Ok(json) => Report::of(&json),
        Err(_) => Report::default(),
    };
    if report.message.is_empty() {
        report.message = shorten(title(&text).unwrap_or(&text));
    }
    report.retry_after = retry_after.or(report.retry_after);
    let error = of_report(Some(status), report);
    Refusal { error, status, said: text.to_lowercase() }
}

/// A web page's title: the rest of it is for browsers.
fn title(page: &str) -> Option<&str> {
    let page = page.trim_start();
    let (_, rest) = page.starts_with('<').then(|| page.split_once("<title>"))??;
    rest.split_once("</title>").map(|(title, _)| title.trim()).filter(|title| !title.is_empty())
}

fn of_report(status: Option<StatusCode>, report: Report) -> ModelError {
    let (code, retryable) = classify(status.map(|status| status.as_u16()), &report);
    let told = told::told(code, status.map(|status| status.as_u16()), &report);
    let said = report.message;
    let shown = status.or_else(|| StatusCode::from_u16(report.status?).ok());
    let message = match (shown, said.as_str()) {
        (None, "") => "the stream reported an error".to_owned(),
        (None, _) => said,
        (Some(status), "") => status.to_string(),
        (Some(status), said) => format!("{status}: {said}"),
    };
    let retry_after = report.retry_after.filter(|_| retryable);
    ModelError { code, message, told: Some(told), retryable, retry_after }
}

/// An error inside the stream, where there is no status any more.
pub(super) fn inside_stream(error: &Value) -> ModelError {
    of_report(None, Report::of(error))
}

/// An event that is named `error`.
pub(super) fn named(data: &[u8]) -> ModelError {
    let text = String::from_utf8_lossy(data);
    let said = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.into_owned()));
    inside_stream(&said)
}

/// What async-openai reports of a request that our service didn't refuse.
pub(super) fn from_client(error: &OpenAIError) -> ModelError {
    internal(causes(error))
}

/// An event's data that is no chunk. Not what is in it, which serde quotes: it
/// is the user's.
pub(super) fn no_chunk(error: &serde_json::Error) -> ModelError {
    let what = match error.classify() {
        Category::Data => "its fields have other types",
        Category::Eof => "it ends too early",
        Category::Syntax | Category::Io => "it is no JSON",
    };
    let (line, column) = (error.line(), error.column());
    malformed(format_args!("a chunk that isn't one: {what} (line {line}, column {column})"))
}

fn retryable(code: &'static str, message: String) -> ModelError {
    let told = Some(told::wording(code).to_owned());
    ModelError { code, message, told, retryable: true, retry_after: None }
}

fn internal(message: String) -> ModelError {
    let (code, told) = (code::INTERNAL, Some(told::wording(code::INTERNAL).to_owned()));
    ModelError { code, message, told, retryable: false, retry_after: None }
}

/// An error and what caused it, in one line.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

fn shorten(text: &str) -> String {
    let text = &*one_line(text.trim());
    without_nul(match text.char_indices().nth(MESSAGE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    })
}

/// `Retry-After` in seconds or as a date; OpenAI's `retry-after-ms` is finer.
pub(super) fn retry_after(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let milliseconds = text("retry-after-ms").and_then(|ms| ms.parse::<f64>().ok());
    let wait = if let Some(ms) = milliseconds {
        Duration::try_from_secs_f64(ms / 1000.0).ok()?
    } else {
        let value = text(RETRY_AFTER.as_str())?;
        match value.parse::<f64>() {
            Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
            // An HTTP date is RFC 2822's but for the zone's name.
            Err(_) => {
                let date = OffsetDateTime::parse(&value.replace("GMT", "+0000"), &Rfc2822).ok()?;
                Duration::try_from(date - now).unwrap_or_default()
            }
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(name: &'static str, value: &'static str) -> Option<Duration> {
        let now =
            OffsetDateTime::parse("Sun, 06 Nov 1994 08:49:30 +0000", &Rfc2822).expect("valid");
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("valid"));
        retry_after(&headers, now)
    }

    #[test]
    fn retry_after_is_read_in_all_its_forms() {
        assert_eq!(waits("retry-after", "2"), Some(Duration::from_secs(2)));
        assert_eq!(waits("retry-after", "0.5"), Some(Duration::from_millis(500)));
        assert_eq!(waits("retry-after-ms", "20"), Some(Duration::from_millis(20)));
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(waits("retry-after", date), Some(Duration::from_secs(7)));
        let past = "Sun, 06 Nov 1994 08:00:00 GMT";
        assert_eq!(waits("retry-after", past), Some(Duration::ZERO));
        assert_eq!(waits("retry-after", "99999999999"), Some(LONGEST_WAIT));
        for nonsense in ["soon", "-1", "NaN", ""] {
            assert_eq!(waits("retry-after", nonsense), None, "{nonsense}");
        }
    }
}
