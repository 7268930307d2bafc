//! The ID that ties a response, its log lines and a caller's report together.

use poem::http::{HeaderMap, HeaderValue};

/// The header that it travels in, both ways.
pub(super) const HEADER: &str = "x-request-id";

/// A request's ID: the caller's own where it is sane, else a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestId(String);

impl RequestId {
    /// The ID of a request with these headers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        headers
            .get(HEADER)
            .and_then(|value| value.to_str().ok())
            .and_then(Self::parse)
            .unwrap_or_else(|| Self(uuid::Uuid::now_v7().to_string()))
    }

    /// At most 128 characters that need no escaping in logs, headers or URLs.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let sane = |b: u8| b.is_ascii_alphanumeric() || b"-_.:~/+=".contains(&b);
        ((1..=128).contains(&text.len()) && text.bytes().all(sane)).then(|| Self(text.to_owned()))
    }

    /// As sent.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// As a header's value.
    pub(super) fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).unwrap_or_else(|_| HeaderValue::from_static("invalid"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &'static [u8]) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_bytes(value).expect("a header value"));
        RequestId::of(&headers)
    }

    #[test]
    fn a_sane_id_is_the_callers_own() {
        assert_eq!(of(b"trace:00-4bf9/1.2").as_str(), "trace:00-4bf9/1.2");
    }

    #[test]
    fn anything_else_is_replaced() {
        let long: &'static [u8] = &[b'a'; 129];
        for odd in [&b""[..], b"a b", b"\xff", b"<script>", b"a\"b", long] {
            let id = of(odd);
            assert_eq!(id.as_str().len(), 36, "{id:?}");
        }
        assert_eq!(RequestId::of(&HeaderMap::new()).as_str().len(), 36);
    }
}
