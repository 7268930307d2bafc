//! What a message says: text, parts, and the results of tools.

use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};

use super::image_url::ImageUrls;
use super::problem::FieldError;
use super::union::{TextOr, tagged_union};

/// Plain text, or parts in order.
pub(super) type Content = TextOr<Vec<ContentPart>>;

/// One part of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ContentPart {
    /// Text.
    Text(TextPart),
    /// An image.
    ImageUrl(ImagePart),
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
pub(super) fn empty(content: &Content) -> Vec<FieldError> {
    match content {
        TextOr::Text(text) if text.is_empty() => {
            vec![FieldError::new("/content", "the text is empty; say something")]
        }
        TextOr::Other(parts) if parts.is_empty() => {
            vec![FieldError::new("/content", "there are no parts; send at least one")]
        }
        TextOr::Text(_) => Vec::new(),
        TextOr::Other(parts) => {
            let silent = |part: &ContentPart| matches!(part, ContentPart::Text(part) if part.text.is_empty());
            let silent = parts.iter().enumerate().filter(|(_, part)| silent(part));
            silent
                .map(|(n, _)| {
                    FieldError::new(
                        format!("/content/{n}/text"),
                        "the text is empty; leave the part away",
                    )
                })
                .collect()
        }
    }
}

/// What is wrong with content that says something.
pub(super) fn invalid(content: &Content, images: ImageUrls) -> Vec<FieldError> {
    let TextOr::Other(parts) = content else { return Vec::new() };
    let refused = parts.iter().enumerate().filter_map(|(n, part)| match part {
        ContentPart::ImageUrl(part) => Some((n, images.refusal(&part.image_url.url)?)),
        ContentPart::Text(_) => None,
    });
    refused.map(|(n, why)| FieldError::new(format!("/content/{n}/image_url/url"), why)).collect()
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
    fn what_says_nothing_is_found_and_blanks_are_something() {
        assert_eq!(empty(&content(json!(""))).len(), 1);
        assert_eq!(empty(&content(json!([]))).len(), 1);
        let parts = content(json!([{"type": "text", "text": "a"}, {"type": "text", "text": ""}]));
        assert_eq!(empty(&parts)[0].pointer, "/content/1/text");
        assert!(empty(&content(json!(" \n"))).is_empty());
    }
}
