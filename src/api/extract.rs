//! What handlers take from a request beside its body.

use std::borrow::Cow;

use poem::{FromRequest, Request, RequestBody, Result};
use poem_openapi::registry::{MetaParamIn, MetaSchema, MetaSchemaRef};
use poem_openapi::types::{ParseError, ParseFromParameter, ParseResult, ToJSON, Type};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use crate::domain::AccountId;

/// Who asks. The one place that knows; until accounts exist, everybody is the
/// built-in one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account(pub(super) AccountId);

impl<'a> FromRequest<'a> for Account {
    async fn from_request(_: &'a Request, _: &mut RequestBody) -> Result<Self> {
        Ok(Self(AccountId::BUILT_IN))
    }
}

/// The trace that a request belongs to, if its `traceparent` is one of version 0
/// (W3C Trace Context); any other is passed over, as the standard says.
#[derive(Debug, Clone, Default)]
pub(super) struct TraceParent(pub(super) Option<String>);

impl<'a> FromRequest<'a> for TraceParent {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> Result<Self> {
        let header = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
        Ok(Self(header.filter(|text| is_traceparent(text)).map(str::to_owned)))
    }
}

/// `00-<trace ID>-<parent ID>-<flags>`, in small hexadecimal digits; an ID of
/// zeros is none.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    let hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let lengths: Vec<_> = parts.iter().map(|part| part.len()).collect();
    lengths == [2, 32, 16, 2]
        && parts[0] == "00"
        && parts.iter().all(|part| hex(part))
        && parts[1..3].iter().all(|id| id.bytes().any(|b| b != b'0'))
}

/// A header as it came. poem-openapi's own `Header` drops values that aren't
/// text, and with them, silently, what the caller asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct RawHeader(pub(super) Option<Vec<u8>>);

impl<'a> ApiExtractor<'a> for RawHeader {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    type ParamType = Option<String>;
    type ParamRawType = String;

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(String::schema_ref())
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        options: ExtractParamOptions<Self::ParamType>,
    ) -> Result<Self> {
        let values = request.headers().get_all(options.name);
        let values: Vec<_> = values.iter().map(poem::http::HeaderValue::as_bytes).collect();
        Ok(Self((!values.is_empty()).then(|| values.join(&b", "[..]))))
    }
}

/// The one value of a header that stands there once, or several times with the same
/// value: proxies repeat fields, and join repeated ones. None if they differ; empty if
/// there is none.
pub(super) fn once<'a>(values: &'a str, separator: &str) -> Option<&'a str> {
    // (`Type`'s `is_empty` would be found first, which says something else.)
    let said = |value: &&str| !str::is_empty(value);
    let mut values = values.split(separator).map(str::trim_ascii).filter(said);
    let first = values.next().unwrap_or_default();
    values.all(|value| value == first).then_some(first)
}

/// How many items a page has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit(u16);

impl Limit {
    const MAX: u16 = 100;

    /// As many as are asked for.
    pub(super) fn get(self) -> i64 {
        self.0.into()
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(50)
    }
}

impl Type for Limit {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "limit".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            minimum: Some(1.0),
            maximum: Some(f64::from(Self::MAX)),
            ..MetaSchema::new_with_format("integer", "int32")
        }))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl ToJSON for Limit {
    fn to_json(&self) -> Option<serde_json::Value> {
        Some(self.0.into())
    }
}

impl ParseFromParameter for Limit {
    fn parse_from_parameter(value: &str) -> ParseResult<Self> {
        match value.parse() {
            Ok(number) if (1..=Self::MAX).contains(&number) => Ok(Self(number)),
            _ => Err(ParseError::custom(format!("it is a whole number from 1 to {}", Self::MAX))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trace_is_one() {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(trace));
        for odd in [
            "",
            "00",
            &trace.to_uppercase(),
            &trace.replace("00-", "ff-"),
            &format!("{trace}-x"),
            &trace.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &trace.replace("00f067aa0ba902b7", &"0".repeat(16)),
        ] {
            assert!(!is_traceparent(odd), "{odd:?}");
        }
    }
}
