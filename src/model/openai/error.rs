//! What goes wrong at a model's server, in rill's terms.

use std::error::Error;
use std::time::Duration;

use async_openai::error::OpenAIError;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde_json::Value;
use serde_json::error::Category;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::domain::task::code;
use crate::model::{ModelError, without_nul};

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

/// The server answered with a status other than success.
pub(super) async fn refused(mut response: Response) -> ModelError {
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
    let said = match serde_json::from_slice::<Value>(&body) {
        Ok(json) => message_of(&json),
        Err(_) => shorten(&String::from_utf8_lossy(&body)),
    };
    let mut error = of_status(status, said);
    error.retry_after = retry_after.filter(|_| error.retryable);
    error
}

fn of_status(status: StatusCode, said: String) -> ModelError {
    let (code, retryable) = match status.as_u16() {
        429 => (code::UPSTREAM_RATE_LIMITED, true),
        408 | 409 | 425 | 500.. => (code::UPSTREAM_ERROR, true),
        _ => (code::UPSTREAM_REJECTED, false),
    };
    let message = if said.is_empty() { status.to_string() } else { format!("{status}: {said}") };
    ModelError { code, message, retryable, retry_after: None }
}

/// An error inside the stream, where there is no status any more.
pub(super) fn inside_stream(error: &Value) -> ModelError {
    let said = message_of(error);
    // Some servers put a status here (OpenRouter, vLLM), others a name.
    let status = error["code"].as_u64().or_else(|| error["status"].as_u64());
    if let Some(status @ 400..600) = status
        && let Ok(status) = StatusCode::from_u16(status as u16)
    {
        return of_status(status, said);
    }
    let limited = ["code", "type"]
        .iter()
        .filter_map(|name| error[name].as_str())
        .any(|kind| kind.contains("rate_limit"));
    let code = if limited { code::UPSTREAM_RATE_LIMITED } else { code::UPSTREAM_ERROR };
    let said = if said.is_empty() { "the stream reported an error".to_owned() } else { said };
    retryable(code, said)
}

/// What async-openai reports of a request: what the service that it sends
/// through said, or a defect.
pub(super) fn from_client(error: OpenAIError) -> ModelError {
    match error {
        OpenAIError::Boxed(error) => match error.downcast::<ModelError>() {
            Ok(error) => *error,
            Err(error) => internal(causes(&*error)),
        },
        error => internal(error.to_string()),
    }
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
    ModelError { code, message, retryable: true, retry_after: None }
}

fn internal(message: String) -> ModelError {
    ModelError { code: code::INTERNAL, message, retryable: false, retry_after: None }
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

/// The message in an error's JSON, of whichever form.
fn message_of(json: &Value) -> String {
    let inner = json.get("error").unwrap_or(json);
    let said = [&inner["message"], &inner["detail"], inner].into_iter().find_map(Value::as_str);
    shorten(said.unwrap_or_default())
}

fn shorten(text: &str) -> String {
    let text = text.trim();
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
    use serde_json::json;

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

    #[test]
    fn an_error_inside_the_stream_is_judged_by_what_it_says() {
        let error = inside_stream(&json!({ "message": "slow down", "type": "rate_limit_error" }));
        assert_eq!((error.code, error.retryable), (code::UPSTREAM_RATE_LIMITED, true));
        let error = inside_stream(&json!({ "message": "no", "code": 400 }));
        assert_eq!((error.code, error.retryable), (code::UPSTREAM_REJECTED, false));
        let error = inside_stream(&json!({ "message": "oops", "code": "server_error" }));
        assert_eq!((error.code, error.message.as_str()), (code::UPSTREAM_ERROR, "oops"));
        assert_eq!(inside_stream(&json!("overloaded")).message, "overloaded");
    }
}
