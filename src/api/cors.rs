//! Which other origins' pages may use the API.
//!
//! An origin that isn't listed gets no permission, and that is all that is said
//! here: the chat page's own POSTs carry an `Origin` too. (poem's middleware
//! answers those with 403.) What a foreign page may not do, [`super::guard`] says.

use poem::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use poem::{Request, Response};

const METHODS: &str = "GET, POST, PATCH, DELETE";
const REQUEST_HEADERS: &str =
    "Content-Type, Idempotency-Key, Last-Event-ID, Cache-Control, X-Request-Id";
const RESPONSE_HEADERS: &str = "X-Request-Id, Retry-After";
/// Seconds that a browser may remember the answer to a preflight; none
/// remembers longer than two hours.
const MAX_AGE: &str = "7200";

/// The origins that were configured.
#[derive(Debug, Clone)]
pub(super) struct Cors {
    origins: Vec<String>,
}

impl Cors {
    pub(super) fn new(origins: &[String]) -> Self {
        Self { origins: origins.to_vec() }
    }

    /// The value of `Access-Control-Allow-Origin` for a request, if it has one.
    pub(super) fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        if self.origins.iter().any(|allowed| allowed == "*") {
            return Some(HeaderValue::from_static("*"));
        }
        self.origins
            .iter()
            .any(|allowed| allowed.as_bytes() == origin.as_bytes())
            .then(|| origin.clone())
    }

    /// The origin's pages may use the API.
    pub(super) fn allows(&self, origin: &HeaderValue) -> bool {
        self.origins.iter().any(|allowed| allowed == "*" || allowed.as_bytes() == origin.as_bytes())
    }

    /// The answer to a preflight of an origin that is allowed.
    pub(super) fn preflight(request: &Request) -> Option<Response> {
        let asks = request.method() == Method::OPTIONS
            && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        asks.then(|| {
            Response::builder()
                .status(StatusCode::NO_CONTENT)
                .header(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS)
                .header(header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS)
                .header(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE)
                .finish()
        })
    }

    /// Puts the permission on a response. Caches have to tell origins apart
    /// where the answer depends on them, allowed or not.
    pub(super) fn permit(&self, allowed: Option<HeaderValue>, headers: &mut HeaderMap) {
        if self.origins.is_empty() {
            return;
        }
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(
                header::ACCESS_CONTROL_EXPOSE_HEADERS,
                HeaderValue::from_static(RESPONSE_HEADERS),
            );
        }
    }
}
