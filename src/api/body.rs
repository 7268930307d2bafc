//! JSON bodies, in and out.
//!
//! A body is read with a bound and a deadline, must be declared as JSON, and is
//! checked in steps that each have a code of their own: it is JSON, its texts
//! can be stored, it is what the operation takes. What is wrong is named by a
//! JSON Pointer.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use poem::{IntoResponse, Request, RequestBody, Response, Result};
use poem_openapi::payload::Payload;
use poem_openapi::registry::{
    MetaMediaType, MetaRequest, MetaResponse, MetaResponses, MetaSchemaRef, Registry,
};
use poem_openapi::types::{ToJSON, Type};
use poem_openapi::{ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions};
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::computing::work_on;
use super::field_error::{FieldError, Pointer};
use super::media_type;
use super::problem::{Code, Problem};
use super::scan::scan;
use crate::domain::RawObject;
use crate::http::BodyTooLarge;

/// The bounds of a body, in the request's data.
#[derive(Debug, Clone)]
pub(super) struct BodyLimits {
    pub(super) bytes: usize,
    pub(super) time: Duration,
    /// Bytes that all bodies together may hold: a permit for each.
    pub(super) memory: Arc<Semaphore>,
}

/// A JSON object as a request's body: as it came, and as it is understood.
#[derive(Debug)]
pub(super) struct JsonBody<T> {
    /// As it is understood.
    pub(super) value: T,
    /// As it came, field by field.
    pub(super) raw: RawObject,
    /// Its share of the memory for bodies, for as long as anything is made of it.
    pub(super) held: Option<OwnedSemaphorePermit>,
}

/// What some editors and shells put before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl<T: DeserializeOwned> JsonBody<T> {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        let errors = scan(bytes).map_err(|error| {
            if error.is_data() {
                return Problem::body(Code::InvalidBody, FieldError::new("", error.to_string()));
            }
            let detail = if bytes.is_empty() {
                "The body is empty; it has to be a JSON object.".to_owned()
            } else {
                format!("The body is not JSON: {error}.")
            };
            Problem::new(Code::InvalidJson, detail)
        })?;
        if !errors.is_empty() {
            return Err(Problem::body(Code::InvalidText, errors));
        }
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let pointer = pointer(error.path());
            let detail = without_place(&error.into_inner());
            Problem::body(Code::InvalidBody, FieldError::new(pointer, detail))
        })?;
        // serde takes an array for a struct, field by field.
        let raw = serde_json::from_slice(bytes).map_err(|_| {
            let error = FieldError::new("", "it has to be a JSON object");
            Problem::body(Code::InvalidBody, error)
        })?;
        Ok(Self { value, raw, held: None })
    }
}

fn pointer(path: &serde_path_to_error::Path) -> Pointer {
    let mut pointer = Pointer::default();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push(&index.to_string()),
            Segment::Map { key } => pointer.push(key),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// What is wrong; where, the pointer says.
fn without_place(error: &serde_json::Error) -> String {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let mut text = error.to_string();
    if text.ends_with(&place) {
        text.truncate(text.len() - place.len());
    }
    text
}

/// The body's bytes, and their share of the memory for bodies, which is taken as they
/// arrive: who declares much and sends little takes little.
async fn read(
    request: &Request,
    body: &mut RequestBody,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>)> {
    let limits = request.data::<BodyLimits>().cloned();
    let limits = limits.ok_or_else(|| Problem::internal("a route without body limits"))?;
    let too_large = || {
        let detail = format!("A body has at most {} bytes. Send less.", limits.bytes);
        Problem::new(Code::BodyTooLarge, detail)
    };
    let declared = request.header("content-length").and_then(|length| length.parse::<u64>().ok());
    if declared.is_some_and(|declared| declared > limits.bytes as u64) {
        return Err(too_large().into());
    }
    let mut pieces = body.take()?.into_bytes_stream();
    let mut bytes = BytesMut::new();
    let mut held: Option<OwnedSemaphorePermit> = None;
    let arrive = async {
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| match BodyTooLarge::find(&error) {
                Some(_) => too_large(),
                None => Problem::new(Code::BadRequest, format!("The body can't be read: {error}.")),
            })?;
            if bytes.len() + piece.len() > limits.bytes {
                return Err(too_large());
            }
            let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            let share = limits.memory.clone().try_acquire_many_owned(length);
            let share = share.map_err(|_| Problem::unavailable(Crowded))?;
            match &mut held {
                Some(held) => held.merge(share),
                None => held = Some(share),
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(())
    };
    match tokio::time::timeout(limits.time, arrive).await {
        Ok(arrived) => arrived?,
        Err(_) => {
            let detail =
                format!("The body did not arrive within {:?}. Send it again.", limits.time);
            return Err(Problem::new(Code::BodyTimeout, detail).into());
        }
    }
    Ok((bytes.freeze(), held))
}

#[derive(Debug, thiserror::Error)]
#[error("the bodies that are being read and worked on take all of --body-memory")]
struct Crowded;

impl<'a, T: DeserializeOwned + Type + Send + 'static> ApiExtractor<'a> for JsonBody<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest { description: None, content: vec![media_type::<T>()], required: true })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> Result<Self> {
        media_type::check(request.headers())?;
        let (bytes, held) = read(request, body).await?;
        let parsed = work_on(bytes.len(), move || Self::parse(&bytes)).await??;
        Ok(Self { held, ..parsed })
    }
}

/// JSON as a response's body. Unlike poem-openapi's own, its media type has no
/// `charset`, which RFC 8259 doesn't define and SDK generators stumble over.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: Type> Payload for Json<T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

fn media_type<T: Type>() -> MetaMediaType {
    MetaMediaType { content_type: Json::<T>::CONTENT_TYPE, schema: T::schema_ref() }
}

impl<T: ToJSON> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        Response::builder()
            .content_type(Self::CONTENT_TYPE)
            .header("cache-control", "no-store")
            .body(crate::domain::event::json(&self.0.to_json()))
    }
}

impl<T: ToJSON> ApiResponse for Json<T> {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![MetaResponse {
                description: "As asked for.",
                status: Some(200),
                status_range: None,
                content: vec![media_type::<T>()],
                headers: Vec::new(),
            }],
        }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Note {
        #[expect(dead_code, reason = "only that it is read matters")]
        text: String,
        #[expect(dead_code, reason = "only that it is read matters")]
        tags: Option<Vec<String>>,
    }

    fn refusal(json: &str) -> (Code, String) {
        let problem = JsonBody::<Note>::parse(json.as_bytes()).expect_err("bad");
        (problem.code(), problem.to_string())
    }

    #[test]
    fn each_kind_of_bad_body_has_its_code_and_names_the_place() {
        assert_eq!(refusal("").0, Code::InvalidJson);
        assert_eq!(refusal("{\"text\": ").0, Code::InvalidJson);
        assert_eq!(refusal("{\"text\": \"\\ud800\"}").0, Code::InvalidJson);
        assert_eq!(refusal(&"[".repeat(200)).0, Code::InvalidJson);
        assert_eq!(refusal("[\"a\", null]").0, Code::InvalidBody);
        let (code, detail) = refusal("{\"text\": \"a\", \"text\": \"b\"}");
        assert_eq!(code, Code::InvalidBody);
        assert!(detail.contains("\"text\" stands there twice"), "{detail}");
        let (code, detail) = refusal("{\"text\": \"a\", \"tags\": [\"b\", 3]}");
        assert_eq!(code, Code::InvalidBody);
        assert!(
            detail.contains("/tags/1: invalid type: integer `3`, expected a string"),
            "{detail}"
        );
        let (code, detail) = refusal("{\"text\": \"a\", \"tag\": []}");
        assert_eq!(code, Code::InvalidBody);
        assert!(detail.contains("unknown field `tag`, expected `text` or `tags`"), "{detail}");
    }

    #[test]
    fn nul_is_refused_in_texts_and_in_names() {
        let (code, detail) = refusal(r#"{"text": "a\u0000b"}"#);
        assert_eq!(code, Code::InvalidText);
        assert!(detail.contains("/text"), "{detail}");
        assert_eq!(refusal(r#"{"te\u0000xt": 1}"#).0, Code::InvalidText);
        assert_eq!(refusal(r#"{"tags": [{"a/b": ["\u0000"]}]}"#).0, Code::InvalidText);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_body() {
        let body = JsonBody::<Note>::parse(b"\xef\xbb\xbf{\"text\": \"a\"}").expect("a note");
        assert_eq!(body.raw.to_json(), r#"{"text":"a"}"#);
        assert_eq!(refusal("\u{feff}").0, Code::InvalidJson);
        assert_eq!(refusal("\u{feff}\u{feff}{}").0, Code::InvalidJson);
    }

    #[test]
    fn what_is_long_in_a_body_is_not_repeated_at_length() {
        let long = "/".repeat(100_000);
        for body in [
            format!(r#"{{"{long}": 1}}"#),
            format!(r#"{{"{long}": 1, "{long}": 2}}"#),
            format!(r#"{{"text": "a", "tags": [{{"{long}": ["\u0000", "\u0000"]}}]}}"#),
            format!(r#"{{"text": {{"{long}": "{long}"}}}}"#),
            format!(r#"{{"text": "a", "tags": "{long}"}}"#),
        ] {
            let detail = refusal(&body).1;
            assert!(detail.len() < 2_000, "{} bytes", detail.len());
        }
    }
}
