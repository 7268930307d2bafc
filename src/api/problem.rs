//! Everything that can go wrong, as `application/problem+json` (RFC 9457).
//!
//! A [`Code`] is stable: programs may branch on it. A [`Problem`] is one
//! occurrence, with a `detail` that says what to do.

use std::borrow::Cow;

use poem::error::ResponseError;
use poem::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use poem::{Body, Response};
use poem_openapi::Object;
use poem_openapi::payload::Payload;
use poem_openapi::registry::{MetaSchemaRef, Registry};
use poem_openapi::types::{ToJSON, Type};

use super::field_error::{FieldError, FieldErrors, shorten};
use super::request_id::RequestId;
use crate::domain::quoted;
use crate::http::Overload;
use crate::log_limit::LogLimit;

macro_rules! codes {
    ($($name:ident $status:ident $code:literal $title:literal;)*) => {
        /// Why a request was refused; stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Code { $(#[doc = $title] $name,)* }

        impl Code {
            /// Every code.
            #[cfg(test)]
            pub(super) const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As sent.
            pub(super) const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// What it means in general.
            pub(super) const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// The response's status.
            pub(super) const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }
        }
    };
}

codes! {
    BadRequest BAD_REQUEST "bad_request" "The request can't be read";
    InvalidJson BAD_REQUEST "invalid_json" "The body is not JSON";
    InvalidParameter BAD_REQUEST "invalid_parameter" "A parameter in the path, the query or a header is not acceptable";
    MalformedCursor BAD_REQUEST "malformed_cursor" "The cursor is not one that was given out";
    ForeignOrigin FORBIDDEN "foreign_origin" "Pages of other origins may not change anything";
    UnknownHost MISDIRECTED_REQUEST "unknown_host" "The request is for another server";
    UnknownPath NOT_FOUND "unknown_path" "There is nothing at this path";
    ConversationNotFound NOT_FOUND "conversation_not_found" "There is no such conversation";
    TaskNotFound NOT_FOUND "task_not_found" "There is no such task";
    MethodNotAllowed METHOD_NOT_ALLOWED "method_not_allowed" "The path doesn't know this method";
    BodyTimeout REQUEST_TIMEOUT "body_timeout" "The body did not arrive in time";
    BodyTooLarge PAYLOAD_TOO_LARGE "body_too_large" "The body is too large";
    UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE "unsupported_media_type" "The body is not declared to be JSON";
    UnsupportedContentEncoding UNSUPPORTED_MEDIA_TYPE "unsupported_content_encoding" "The body is compressed or encoded otherwise";
    InvalidBody UNPROCESSABLE_ENTITY "invalid_body" "The body is not what this operation takes";
    InvalidText UNPROCESSABLE_ENTITY "invalid_text" "A text contains U+0000, which can't be stored";
    EmptyContent UNPROCESSABLE_ENTITY "empty_content" "The message says nothing";
    UnknownModel UNPROCESSABLE_ENTITY "unknown_model" "The model is not configured";
    UnknownParent UNPROCESSABLE_ENTITY "unknown_parent" "The conversation has no such answer to follow";
    UnknownToolCall UNPROCESSABLE_ENTITY "unknown_tool_call" "A result answers no tool call of the last answer";
    MissingToolResults UNPROCESSABLE_ENTITY "missing_tool_results" "Tool calls of the last answer are left without a result";
    IdempotencyKeyReused UNPROCESSABLE_ENTITY "idempotency_key_reused" "The Idempotency-Key was used for another request";
    Internal INTERNAL_SERVER_ERROR "internal" "A defect of the server";
    Unavailable SERVICE_UNAVAILABLE "unavailable" "A part of the service can't be reached right now";
    Busy SERVICE_UNAVAILABLE "busy" "Too many large responses wait for slow clients";
    NotReady SERVICE_UNAVAILABLE "not_ready" "The service can't do its work right now";
    Overloaded SERVICE_UNAVAILABLE "overloaded" "The process has as many connections or requests as it may have";
}

/// Bytes of a detail, about: much of it may be the caller's own.
const DETAIL: usize = 1_000;
/// Why a request was refused (RFC 9457). Programs branch on `code`; `detail`
/// says what to do.
#[derive(Debug, Object)]
#[oai(rename = "Problem")]
struct ProblemBody {
    /// Identifies the kind of problem: `urn:rill:problem:<code>`.
    r#type: String,
    /// The kind of problem in words.
    title: String,
    /// The response's status.
    status: u16,
    /// What is wrong with this request, and what to do.
    detail: String,
    /// The kind of problem; stable.
    code: String,
    /// The request's ID, as in `X-Request-Id`: to be named when asking for help.
    request_id: String,
    /// What is wrong with the body, place by place.
    #[oai(skip_serializing_if_is_empty, default)]
    errors: Vec<FieldError>,
    /// How many more there are than `errors` names.
    #[oai(skip_serializing_if_is_none)]
    more_errors: Option<u64>,
}

/// One refusal.
#[derive(Debug, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub(super) struct Problem {
    code: Code,
    detail: Cow<'static, str>,
    errors: FieldErrors,
    /// A header that this kind of problem has.
    header: Option<Box<(HeaderName, HeaderValue)>>,
    #[source]
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Problem {
    /// A problem; `detail` says what to do.
    pub(super) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: FieldErrors::default(),
            header: None,
            cause: None,
        }
    }

    /// A body with these errors.
    pub(super) fn body(code: Code, errors: impl Into<FieldErrors>) -> Self {
        const NAMED: usize = 3;
        let errors = errors.into();
        let mut detail = String::from("The body can't be accepted");
        for (n, error) in errors.first().iter().take(NAMED).enumerate() {
            let at = if error.pointer.is_empty() { "the body" } else { &error.pointer };
            detail += if n == 0 { ". " } else { "; " };
            detail += &shorten(format!("{at}: {}", error.detail), DETAIL / NAMED);
        }
        let more = (errors.first().len() + errors.more()).saturating_sub(NAMED);
        if more > 0 {
            detail += &format!("; and {more} more");
        }
        Self { errors, ..Self::new(code, detail) }
    }

    /// A path that is there, asked with a method that it doesn't know.
    pub(super) fn method_not_allowed(method: &Method, path: &str, allow: &str) -> Self {
        let (method, path) = (quoted(method.as_str()), quoted(path));
        let detail = format!("{path} does not know {method}; it knows {allow}.");
        Self::new(Code::MethodNotAllowed, detail).with(header::ALLOW, allow)
    }

    /// The same problem with a header; one that can't be sent is left away.
    #[must_use]
    pub(super) fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.header = HeaderValue::from_str(value).ok().map(|value| Box::new((name, value)));
        self
    }

    /// Something that must not happen. The cause is logged, never sent.
    pub(super) fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let detail = "This is a defect of the server, not of the request. \
                      Name the request_id when you report it.";
        Self { cause: Some(cause.into()), ..Self::new(Code::Internal, detail) }
    }

    /// Something that the server needs can't be reached.
    pub(super) fn unavailable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let detail = "Something that the server needs can't be reached right now. \
                      Repeat the request after the seconds that Retry-After names.";
        Self { cause: Some(cause.into()), ..Self::new(Code::Unavailable, detail) }
    }

    /// The process has as much to do as it may.
    pub(super) fn overloaded(overload: Overload) -> Self {
        Self::new(
            Code::Overloaded,
            match overload {
                Overload::Connections => {
                    "This process has as many connections as it may have \
                     (--max-connections), and none is idle. The connection ends here: repeat the \
                     request on a new one after the seconds that Retry-After names."
                }
                Overload::Requests => {
                    "This process has as many requests and event streams in progress as it may \
                     have (--max-streams). Repeat the request after the seconds that Retry-After \
                     names."
                }
            },
        )
    }

    /// The same problem with another detail, where it is `code`.
    #[must_use]
    pub(super) fn explain(mut self, code: Code, detail: &'static str) -> Self {
        if self.code == code {
            self.detail = detail.into();
        }
        self
    }

    /// The kind of problem.
    pub(super) const fn code(&self) -> Code {
        self.code
    }

    /// Logs what is ours to mend, once, with its cause; refusals are not.
    pub(super) fn log(&self) {
        static UNAVAILABLE: LogLimit = LogLimit::new();
        static INTERNAL: LogLimit = LogLimit::new();
        let Some(cause) = &self.cause else { return };
        match self.code {
            Code::Unavailable => {
                if let Some(skipped) = UNAVAILABLE.pass() {
                    tracing::warn!(error = %cause, skipped, "a request was answered 503");
                }
            }
            _ => {
                if let Some(skipped) = INTERNAL.pass() {
                    tracing::error!(error = %cause, skipped, "a request was answered 500");
                }
            }
        }
    }

    /// The response.
    pub(super) fn response(self, request_id: &RequestId) -> Response {
        let status = self.code.status();
        let (errors, more) = self.errors.into_parts();
        let body = ProblemBody {
            r#type: format!("urn:rill:problem:{}", self.code.as_str()),
            title: self.code.title().to_owned(),
            status: status.as_u16(),
            detail: shorten(self.detail.into_owned(), DETAIL),
            code: self.code.as_str().to_owned(),
            request_id: request_id.as_str().to_owned(),
            errors,
            more_errors: (more > 0).then_some(more as u64),
        };
        let mut response = Response::builder()
            .status(status)
            .content_type(ProblemPayload::CONTENT_TYPE)
            .header(header::CACHE_CONTROL, "no-store");
        if status == StatusCode::SERVICE_UNAVAILABLE {
            // Outages end at once, and load as clients leave.
            let seconds = if self.code == Code::Overloaded { "5" } else { "1" };
            response = response.header(header::RETRY_AFTER, seconds);
        }
        if let Some(header) = self.header {
            let (name, value) = *header;
            response = response.header(name, value);
        }
        response.body(Body::from_string(body.to_json_string()))
    }
}

// What poem needs in order to carry a problem to the edge, which renders it.
impl ResponseError for Problem {
    fn status(&self) -> StatusCode {
        self.code.status()
    }
}

impl From<crate::store::Error> for Problem {
    fn from(error: crate::store::Error) -> Self {
        if error.is_unavailable() { Self::unavailable(error) } else { Self::internal(error) }
    }
}

impl From<crate::tasks::Error> for Problem {
    fn from(error: crate::tasks::Error) -> Self {
        if error.is_unavailable() { Self::unavailable(error) } else { Self::internal(error) }
    }
}

/// How a problem is sent.
pub(super) struct ProblemPayload;

impl Payload for ProblemPayload {
    const CONTENT_TYPE: &'static str = "application/problem+json";

    fn schema_ref() -> MetaSchemaRef {
        ProblemBody::schema_ref()
    }

    fn register(registry: &mut Registry) {
        ProblemBody::register(registry);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    async fn json(problem: Problem) -> (Response, serde_json::Value) {
        let mut response = problem.response(&RequestId::parse("r-1").expect("sane"));
        let body = response.take_body().into_bytes().await.expect("a body");
        (response, serde_json::from_slice(&body).expect("JSON"))
    }

    #[tokio::test]
    async fn a_problem_names_its_code_and_the_request_and_leaks_no_cause() {
        let (response, body) = json(Problem::internal("relation \"secret\" does not exist")).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.content_type(), Some("application/problem+json"));
        assert_eq!(body["code"], "internal");
        assert_eq!(body["request_id"], "r-1");
        assert_eq!(body["status"], 500);
        assert!(!body.to_string().contains("secret"), "{body}");
    }

    #[tokio::test]
    async fn an_outage_says_when_to_come_back() {
        let (response, body) = json(Problem::unavailable("down")).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.header("retry-after"), Some("1"));
        assert_eq!(body["code"], "unavailable");
    }

    #[tokio::test]
    async fn a_bad_body_names_each_place() {
        let mut errors = FieldErrors::from(FieldError::new("/stop/4", "too many"));
        errors.push(FieldError::new("/n", "unknown"));
        let (_, body) = json(Problem::body(Code::InvalidBody, errors)).await;
        assert_eq!(body["detail"], "The body can't be accepted. /stop/4: too many; /n: unknown");
        assert_eq!(body["errors"][1]["pointer"], "/n");
        assert!(body.get("more_errors").is_none(), "{body}");
    }

    #[tokio::test]
    async fn of_many_errors_twenty_are_named_and_the_others_counted() {
        let mut errors = FieldErrors::default();
        (0..25).for_each(|n| errors.push(FieldError::new(format!("/{n}"), "odd")));
        let (_, body) = json(Problem::body(Code::InvalidBody, errors)).await;
        assert_eq!(body["errors"].as_array().map(Vec::len), Some(20));
        assert_eq!(body["more_errors"], 5);
        assert!(
            body["detail"].as_str().is_some_and(|text| text.ends_with("; and 22 more")),
            "{body}"
        );
    }

    #[test]
    fn codes_are_distinct() {
        let distinct: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(distinct.len(), Code::ALL.len());
    }
}
