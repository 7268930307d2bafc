//! What a message says: text, parts, and the results of tools.

use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};

use super::field_error::{FieldError, FieldErrors};
use super::image_url::ImageUrls;
use super::union::{TextOr, given, tagged_union};

/// Plain text, or parts in order.
pub(super) type Content = TextOr<Vec<ContentPart>>;

/// One part of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", try_from = "AnyPart")]
pub(super) enum ContentPart {
    /// Text.
    Text(TextPart),
    /// An image.
    ImageUrl(ImagePart),
}

/// A part as it is read: serde would copy all of a tagged union before it looks at
/// the tag, whatever stands there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnyPart {
    r#type: PartType,
    #[serde(default, deserialize_with = "given")]
    text: Option<String>,
    #[serde(default, deserialize_with = "given")]
    image_url: Option<ImageUrl>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum PartType {
    Text,
    ImageUrl,
}

impl TryFrom<AnyPart> for ContentPart {
    type Error = &'static str;

    fn try_from(part: AnyPart) -> Result<Self, Self::Error> {
        match part {
            AnyPart { r#type: PartType::Text, text: Some(text), image_url: None } => {
                Ok(Self::Text(TextPart { r#type: TextPartType::Text, text }))
            }
            AnyPart { r#type: PartType::ImageUrl, text: None, image_url: Some(image_url) } => {
                Ok(Self::ImageUrl(ImagePart { r#type: ImagePartType::ImageUrl, image_url }))
            }
            AnyPart { r#type: PartType::Text, .. } => {
                Err("a part of type text has a text, and nothing else")
            }
            AnyPart { r#type: PartType::ImageUrl, .. } => {
                Err("a part of type image_url has an image_url, and nothing else")
            }
        }
    }
}

tagged_union!(ContentPart by "type" { "text" => TextPart, "image_url" => ImagePart });

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Enum)]
#[oai(rename_all = "snake_case")]
enum TextPartType {
    #[default]
    Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Enum)]
#[oai(rename_all = "snake_case")]
enum ImagePartType {
    #[default]
    ImageUrl,
}

/// Text within a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(super) struct TextPart {
    // Here for the document only: serde keeps the tag in the enum.
    #[serde(skip)]
    r#type: TextPartType,
    /// The text.
    #[oai(validator(min_length = 1))]
    text: String,
}

/// An image within a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(super) struct ImagePart {
    #[serde(skip)]
    r#type: ImagePartType,
    /// Where the image is.
    image_url: ImageUrl,
}

/// Where an image is, and how closely to look at it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageUrl {
    /// An `https:` or `data:` URL; `http:` and private hosts only where the operator allows
    /// them.
    url: String,
    /// `auto`, `low` or `high`; models may know others.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// What a tool that the model called has answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(super) struct ToolResult {
    /// The ID of the call that it answers.
    #[oai(validator(min_length = 1))]
    pub(super) tool_call_id: String,
    /// The result, as text. It may be empty.
    pub(super) content: String,
}

/// Where content says nothing: the message as a whole, or one of its parts.
pub(super) fn empty(content: &Content) -> FieldErrors {
    let mut errors = FieldErrors::default();
    match content {
        TextOr::Text(text) if text.is_empty() => {
            errors.push(FieldError::new("/content", "the text is empty; say something"));
        }
        TextOr::Other(parts) if parts.is_empty() => {
            errors.push(FieldError::new("/content", "there are no parts; send at least one"));
        }
        TextOr::Text(_) => {}
        TextOr::Other(parts) => {
            for (n, part) in parts.iter().enumerate() {
                if matches!(part, ContentPart::Text(part) if part.text.is_empty()) {
                    let detail = "the text is empty; leave the part away";
                    errors.add(|| FieldError::new(format!("/content/{n}/text"), detail));
                }
            }
        }
    }
    errors
}

/// What is wrong with content that says something.
pub(super) fn invalid(content: &Content, images: ImageUrls) -> FieldErrors {
    let mut errors = FieldErrors::default();
    let TextOr::Other(parts) = content else { return errors };
    for (n, part) in parts.iter().enumerate() {
        let ContentPart::ImageUrl(part) = part else { continue };
        if let Some(why) = images.refusal(&part.image_url.url) {
            errors.add(|| FieldError::new(format!("/content/{n}/image_url/url"), why));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn content(json: serde_json::Value) -> Content {
        serde_json::from_value(json).expect("content")
    }

    #[test]
    fn content_is_written_as_it_was_read() {
        for json in [
            json!("hello\n"),
            json!([{"type": "text", "text": "what is this?"},
                   {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}]),
        ] {
            assert_eq!(serde_json::to_value(content(json.clone())).expect("JSON"), json);
        }
    }

    #[test]
    fn a_part_has_what_its_type_says_and_nothing_else() {
        for odd in [
            json!([{"type": "text"}]),
            json!([{"type": "text", "text": null}]),
            json!([{"type": "text", "text": "a", "image_url": null}]),
            json!([{"type": "text", "text": "a", "image_url": {"url": "data:"}}]),
            json!([{"type": "image_url", "text": "a"}]),
            json!([{"type": "video", "text": "a"}]),
            json!([{"text": "a"}]),
            json!([{"type": "text", "text": "a", "more": [1]}]),
        ] {
            assert!(serde_json::from_value::<Content>(odd.clone()).is_err(), "{odd}");
        }
    }

    #[test]
    fn what_says_nothing_is_found_and_blanks_are_something() {
        assert_eq!(empty(&content(json!(""))).first().len(), 1);
        assert_eq!(empty(&content(json!([]))).first().len(), 1);
        let parts = content(json!([{"type": "text", "text": "a"}, {"type": "text", "text": ""}]));
        assert_eq!(empty(&parts).first()[0].pointer, "/content/1/text");
        assert!(empty(&content(json!(" \n"))).is_empty());
    }
}
