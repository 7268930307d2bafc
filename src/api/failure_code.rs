//! Why a task failed, for the document: every code that there is, from the table
//! that the workers' codes are in.

use std::borrow::Cow;
use std::sync::LazyLock;

use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::task::code;

/// A code as it is sent. Codes of newer workers are sent too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct FailureCode(pub(super) String);

static DESCRIPTION: LazyLock<String> = LazyLock::new(|| {
    let mut text = String::from(
        "Why a task failed, or an attempt of it. A code keeps its meaning; there may be further ones later, to be \
         treated like `internal`. `docs/failures.md` has the same list.\n",
    );
    for known in code::ALL {
        let again =
            if known.given_up { " It was tried again, as often as is allowed." } else { "" };
        text += &format!("\n- `{}`: {}{again} {}", known.code, known.meaning, known.remedy);
    }
    text
});

impl Type for FailureCode {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "FailureCode".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Reference("FailureCode".to_owned())
    }

    fn register(registry: &mut Registry) {
        registry.create_schema::<Self, _>("FailureCode".to_owned(), |_| MetaSchema {
            description: Some(DESCRIPTION.as_str()),
            example: Some(code::UPSTREAM_ERROR.into()),
            ..MetaSchema::new("string")
        });
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl ParseFromJSON for FailureCode {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        serde_json::from_value(value.unwrap_or_default()).map_err(ParseError::custom)
    }
}

impl ToJSON for FailureCode {
    fn to_json(&self) -> Option<Value> {
        Some(Value::String(self.0.clone()))
    }
}
