//! What a request says of its body, before a byte of it is read: JSON in UTF-8, as
//! it is. Anything else would be read as something that it isn't.

use poem::http::{HeaderMap, HeaderName, header};

use super::problem::{Code, Problem};
use crate::domain::quoted;

/// What 415 says.
pub(super) const DECLARE_JSON: &str =
    "The body has to be JSON, declared by `Content-Type: application/json`.";

/// The body is declared to be JSON, in UTF-8, and not compressed.
///
/// # Errors
/// With what to send instead.
pub(super) fn check(headers: &HeaderMap) -> Result<(), Problem> {
    for (name, plain) in
        [(header::CONTENT_ENCODING, "identity"), (header::TRANSFER_ENCODING, "chunked")]
    {
        if let Some(coding) = other_than(plain, headers, &name) {
            let detail = format!(
                "The body is encoded ({name}: {}), and no encoding is understood here. Send it as \
                 it is: not compressed, and without that header.",
                quoted(&coding),
            );
            // What RFC 9110, 15.5.16 asks for.
            return Err(Problem::new(Code::UnsupportedContentEncoding, detail)
                .with(header::ACCEPT_ENCODING, "identity"));
        }
    }
    let mut types = headers.get_all(header::CONTENT_TYPE).iter().peekable();
    let declared = types.peek().is_some();
    let types: Vec<_> = types.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    if !declared || !types.iter().all(|media_type| is_json(media_type)) {
        return Err(Problem::new(Code::UnsupportedMediaType, DECLARE_JSON));
    }
    if let Some(charset) = types.iter().find_map(|media_type| foreign_charset(media_type)) {
        let detail = format!(
            "The body has to be JSON in UTF-8, and not in {}: encode it as UTF-8, and leave the charset away.",
            quoted(charset),
        );
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    Ok(())
}

/// The first item of a header's list that isn't `plain`.
fn other_than(plain: &str, headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get_all(name).iter().find_map(|value| {
        let text = String::from_utf8_lossy(value.as_bytes());
        let mut items = text.split(',').map(str::trim);
        let other = items.find(|item| !item.is_empty() && !item.eq_ignore_ascii_case(plain));
        other.map(str::to_owned)
    })
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// A charset that isn't UTF-8, nor a part of it.
fn foreign_charset(content_type: &str) -> Option<&str> {
    let mut parameters = content_type.split(';').skip(1).filter_map(|text| text.split_once('='));
    let (_, charset) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))?;
    let charset = charset.trim().trim_matches('"');
    let known = ["utf-8", "utf8", "us-ascii", "ascii"];
    (!known.iter().any(|known| charset.eq_ignore_ascii_case(known))).then_some(charset)
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderValue;

    use super::*;

    fn code(headers: &[(&'static str, &'static str)]) -> Option<Code> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        check(&map).err().map(|problem| problem.code())
    }

    #[test]
    fn json_is_what_declares_itself_so() {
        for good in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
            "application/json; charset=us-ascii",
            "application/json;",
            "application/x+json",
        ] {
            assert_eq!(code(&[("content-type", good)]), None, "{good}");
        }
        for bad in [
            "text/plain",
            "application/jsonx",
            "text/json",
            "",
            "application/json; charset=utf-16",
            "application/json; odd; charset=\"ISO-8859-1\"",
        ] {
            assert_eq!(code(&[("content-type", bad)]), Some(Code::UnsupportedMediaType), "{bad}");
        }
        assert_eq!(code(&[]), Some(Code::UnsupportedMediaType));
        let two = [("content-type", "application/json"), ("content-type", "text/plain")];
        assert_eq!(code(&two), Some(Code::UnsupportedMediaType));
    }

    #[test]
    fn an_encoded_body_is_refused_under_any_name_and_spelling() {
        let json = ("content-type", "application/json");
        for coding in ["gzip", "br", "GZIP", "identity, gzip", "x-gzip", "zstd", "aws-chunked"] {
            let refused = code(&[json, ("content-encoding", coding)]);
            assert_eq!(refused, Some(Code::UnsupportedContentEncoding), "{coding}");
        }
        for none in ["identity", "Identity", "", " ", "identity, identity"] {
            assert_eq!(code(&[json, ("content-encoding", none)]), None, "{none:?}");
        }
        let sent = [json, ("transfer-encoding", "gzip, chunked")];
        assert_eq!(code(&sent), Some(Code::UnsupportedContentEncoding));
        assert_eq!(code(&[json, ("transfer-encoding", "chunked")]), None);
    }
}
