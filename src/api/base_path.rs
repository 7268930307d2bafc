//! The path that a proxy serves the API under.
//!
//! Most proxies take it away before they pass a request on; some don't. Both are
//! answered.

use poem::http::uri::PathAndQuery;
use poem::http::{Method, StatusCode, Uri, header};
use poem::{Request, Response};

/// What paths begin with behind the proxy, such as `/chat`; often empty.
#[derive(Debug, Clone)]
pub(super) struct BasePath(String);

/// The first steps of our own paths: what follows a base path. (A base path may be
/// `/v1`.)
const ROOTS: [&str; 8] =
    ["", "v1", "assets", "docs", "openapi.json", "healthz", "readyz", "metrics"];

impl BasePath {
    pub(super) fn new(base: &str) -> Self {
        Self(base.to_owned())
    }

    /// Takes the base path off a request that still has it. The answer, for one that
    /// has nothing else: pages find what they load beside them, so theirs ends in a
    /// slash.
    pub(super) fn strip(&self, request: &mut Request) -> Option<Response> {
        if self.0.is_empty() {
            return None;
        }
        let rest = request.uri().path().strip_prefix(self.0.as_str())?;
        if rest.is_empty() && [Method::GET, Method::HEAD].contains(request.method()) {
            let response = Response::builder().status(StatusCode::PERMANENT_REDIRECT);
            return Some(response.header(header::LOCATION, format!("{}/", self.0)).finish());
        }
        let first = rest.strip_prefix('/')?.split('/').next().unwrap_or_default();
        if !ROOTS.contains(&first) {
            return None;
        }
        let rest = match request.uri().query() {
            Some(query) => format!("{rest}?{query}"),
            None => rest.to_owned(),
        };
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = PathAndQuery::try_from(rest).ok();
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(base: &str, path: &str) -> String {
        let mut request = Request::builder().uri_str(path).finish();
        match BasePath::new(base).strip(&mut request) {
            Some(response) => format!("→ {}", response.header("location").expect("a location")),
            None => request.uri().to_string(),
        }
    }

    #[test]
    fn a_base_path_is_taken_off_where_it_still_is() {
        for (base, path, expected) in [
            ("/chat", "/chat/v1/models?limit=1", "/v1/models?limit=1"),
            ("/chat", "/v1/models", "/v1/models"),
            ("/chat", "/chat/", "/"),
            ("/chat", "/chat/?a", "/?a"),
            ("/chat", "/chat", "→ /chat/"),
            ("/chat", "/chatter/v1/models", "/chatter/v1/models"),
            ("/chat", "http://example.com/chat/docs", "http://example.com/docs"),
            ("/a/b", "/a/b/assets/app.js", "/assets/app.js"),
            ("/v1", "/v1/v1/models", "/v1/models"),
            ("/v1", "/v1/models", "/v1/models"),
            ("", "/v1/models", "/v1/models"),
        ] {
            assert_eq!(seen(base, path), expected, "{base} {path}");
        }
    }
}
