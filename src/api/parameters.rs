//! Parameters of a generation that are understood, checked and passed on to
//! the model: OpenAI's names and meanings.

use std::ops::RangeInclusive;

use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};

use super::field_error::{FieldError, FieldErrors};
use super::json_object::JsonObject;
use super::new_message::NewMessage;
use super::union::{TextOr, given, tagged_union};
use crate::domain::RawObject;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Enum)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
enum FunctionType {
    #[default]
    Function,
}

/// A tool that the model may call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(super) struct Tool {
    r#type: FunctionType,
    /// The function.
    function: Function,
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(super) struct Function {
    /// 1 to 64 letters, digits, `_` and `-`.
    #[oai(validator(min_length = 1, max_length = 64))]
    name: String,
    /// What it does, for the model.
    description: Option<String>,
    /// Its parameters, as a JSON Schema.
    parameters: Option<JsonObject>,
    /// Whether the model has to follow the schema exactly.
    strict: Option<bool>,
}

/// Makes the model call a certain function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedToolChoice {
    r#type: FunctionType,
    /// Which one.
    function: FunctionName,
}

/// A function's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(super) struct FunctionName {
    /// One of `tools`.
    name: String,
}

/// The form of the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", try_from = "AnyFormat")]
pub(super) enum ResponseFormat {
    Text(TextFormat),
    JsonObject(JsonObjectFormat),
    JsonSchema(JsonSchemaFormat),
}

/// A format as it is read: serde would copy all of a tagged union before it looks at
/// the tag, however large its schema.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnyFormat {
    r#type: FormatType,
    #[serde(default, deserialize_with = "given")]
    json_schema: Option<NamedSchema>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum FormatType {
    Text,
    JsonObject,
    JsonSchema,
}

impl TryFrom<AnyFormat> for ResponseFormat {
    type Error = &'static str;

    fn try_from(format: AnyFormat) -> Result<Self, Self::Error> {
        match (format.r#type, format.json_schema) {
            (FormatType::Text, None) => Ok(Self::Text(TextFormat { r#type: TextFormatType::Text })),
            (FormatType::JsonObject, None) => {
                Ok(Self::JsonObject(JsonObjectFormat { r#type: JsonObjectFormatType::JsonObject }))
            }
            (FormatType::JsonSchema, Some(json_schema)) => Ok(Self::JsonSchema(JsonSchemaFormat {
                r#type: JsonSchemaFormatType::JsonSchema,
                json_schema,
            })),
            (FormatType::JsonSchema, None) => {
                Err("a response format of type json_schema has a json_schema")
            }
            (_, Some(_)) => Err("only a response format of type json_schema has a json_schema"),
        }
    }
}

tagged_union!(ResponseFormat by "type" {
    "text" => TextFormat,
    "json_object" => JsonObjectFormat,
    "json_schema" => JsonSchemaFormat,
});

macro_rules! format_type {
    ($name:ident, $variant:ident) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Enum)]
        #[oai(rename_all = "snake_case")]
        enum $name {
            #[default]
            $variant,
        }
    };
}
format_type!(TextFormatType, Text);
format_type!(JsonObjectFormatType, JsonObject);
format_type!(JsonSchemaFormatType, JsonSchema);

/// Text; the default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(super) struct TextFormat {
    // Here for the document only: serde keeps the tag in the enum.
    #[serde(skip)]
    r#type: TextFormatType,
}

/// Any JSON object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(super) struct JsonObjectFormat {
    #[serde(skip)]
    r#type: JsonObjectFormatType,
}

/// JSON that fits a schema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(super) struct JsonSchemaFormat {
    #[serde(skip)]
    r#type: JsonSchemaFormatType,
    /// The schema.
    json_schema: NamedSchema,
}

/// A JSON Schema with a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedSchema {
    /// 1 to 64 letters, digits, `_` and `-`.
    #[oai(validator(min_length = 1, max_length = 64))]
    name: String,
    /// What it is for, for the model.
    description: Option<String>,
    /// The JSON Schema.
    schema: Option<JsonObject>,
    /// Whether the model has to follow the schema exactly.
    strict: Option<bool>,
}

/// The parameters of a message as they are passed on: all of its fields but
/// those that are ours, as they came, without those that are null.
pub(super) fn passed_on(raw: &RawObject) -> RawObject {
    const OURS: [&str; 4] = ["content", "tool_results", "model", "parent_id"];
    raw.filtered(|name, value| !OURS.contains(&name) && value.get() != "null")
}

/// What is wrong with a message's parameters.
pub(super) fn invalid(message: &NewMessage) -> FieldErrors {
    let mut errors = FieldErrors::default();
    let mut range = |name: &str, value: Option<f64>, range: RangeInclusive<f64>| {
        if value.is_some_and(|value| !range.contains(&value)) {
            let detail = format!("it is a number from {} to {}", range.start(), range.end());
            errors.push(FieldError::new(format!("/{name}"), detail));
        }
    };
    range("temperature", message.temperature, 0.0..=2.0);
    range("top_p", message.top_p, 0.0..=1.0);
    range("presence_penalty", message.presence_penalty, -2.0..=2.0);
    range("frequency_penalty", message.frequency_penalty, -2.0..=2.0);
    for (name, value) in [
        ("max_tokens", message.max_tokens),
        ("max_completion_tokens", message.max_completion_tokens),
    ] {
        if value == Some(0) {
            errors.push(FieldError::new(format!("/{name}"), "it is at least 1"));
        }
    }
    match &message.stop {
        Some(TextOr::Text(stop)) if stop.is_empty() => {
            errors.push(FieldError::new("/stop", "a stop sequence is not empty"));
        }
        Some(TextOr::Other(stops))
            if stops.is_empty() || stops.len() > 4 || stops.iter().any(String::is_empty) =>
        {
            errors.push(FieldError::new(
                "/stop",
                "there are 1 to 4 stop sequences, none of them empty",
            ));
        }
        _ => {}
    }
    if message.reasoning_effort.as_ref().is_some_and(String::is_empty) {
        errors
            .push(FieldError::new("/reasoning_effort", "it is a word such as low, medium or high"));
    }
    invalid_tools(message, &mut errors);
    errors
}

fn invalid_tools(message: &NewMessage, errors: &mut FieldErrors) {
    const NAME: &str = "a name has 1 to 64 letters, digits, _ and -";
    let tools = message.tools.as_deref();
    match tools {
        Some([]) => {
            errors.push(FieldError::new("/tools", "there are no tools; leave the field away"))
        }
        Some(tools) if tools.len() > 128 => {
            errors.push(FieldError::new("/tools", "there are at most 128 tools"));
        }
        _ => {}
    }
    for (n, tool) in tools.unwrap_or_default().iter().enumerate() {
        if !is_name(&tool.function.name) {
            errors.add(|| FieldError::new(format!("/tools/{n}/function/name"), NAME));
        }
    }
    let known =
        |name: &str| tools.unwrap_or_default().iter().any(|tool| tool.function.name == name);
    match &message.tool_choice {
        Some(TextOr::Text(choice)) if !["none", "auto", "required"].contains(&choice.as_str()) => {
            errors.push(FieldError::new(
                "/tool_choice",
                "it is none, auto, required, or names a function",
            ));
        }
        Some(TextOr::Text(choice)) if choice == "required" && tools.is_none() => {
            errors.push(FieldError::new(
                "/tool_choice",
                "a tool is required, but there are no tools",
            ));
        }
        Some(TextOr::Other(choice)) if !known(&choice.function.name) => {
            errors.push(FieldError::new(
                "/tool_choice/function/name",
                "it is the name of one of the tools",
            ));
        }
        _ => {}
    }
    if let Some(ResponseFormat::JsonSchema(format)) = &message.response_format
        && !is_name(&format.json_schema.name)
    {
        errors.push(FieldError::new("/response_format/json_schema/name", NAME));
    }
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn errors(json: Value) -> Vec<String> {
        let message = serde_json::from_value(json).expect("a message");
        invalid(&message).into_parts().0.into_iter().map(|error| error.pointer).collect()
    }

    #[test]
    fn a_message_with_everything_is_accepted_and_passed_on_as_it_came() {
        let json = json!({
            "content": "hello", "model": "m", "temperature": 2, "top_p": 0.5, "max_tokens": 1,
            "max_completion_tokens": 20, "stop": ["a", "b"], "seed": -3, "presence_penalty": -2.0,
            "frequency_penalty": 2.0, "parallel_tool_calls": false, "reasoning_effort": "xhigh",
            "tools": [{"type": "function", "function": {
                "name": "get_time", "parameters": {"type": "object", "properties": {}}, "strict": true}}],
            "tool_choice": {"type": "function", "function": {"name": "get_time"}},
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
        });
        assert_eq!(errors(json.clone()), [""; 0]);
        let text = json.to_string();
        let raw: RawObject = serde_json::from_str(&text).expect("an object");
        let rest = text.split_once("\"m\",").expect("content and model come first").1;
        assert_eq!(passed_on(&raw).to_json(), format!("{{{rest}"));
    }

    #[test]
    fn a_schema_s_order_and_digits_are_passed_on() {
        let text = r#"{"content":"x","response_format":{"type":"json_schema","json_schema":{"name":"n","schema":
            {"properties": {"reasoning": {}, "answer": {"maximum": 12345678901234567890123}}}}}}"#;
        let raw: RawObject = serde_json::from_str(text).expect("an object");
        assert_eq!(passed_on(&raw).to_json(), text.replace("\"content\":\"x\",", ""));
    }

    #[test]
    fn nulls_are_not_passed_on() {
        let json = json!({"content": "x", "temperature": null, "stop": null, "seed": 1});
        assert_eq!(errors(json.clone()), [""; 0]);
        let raw: RawObject = serde_json::from_value(json).expect("an object");
        assert_eq!(passed_on(&raw).to_json(), r#"{"seed":1}"#);
    }

    #[test]
    fn each_bad_parameter_is_named() {
        let json = json!({
            "temperature": 2.1, "top_p": -0.1, "presence_penalty": 3, "frequency_penalty": -3,
            "max_tokens": 0, "max_completion_tokens": 0, "stop": [], "reasoning_effort": "",
        });
        let expected = [
            "/temperature",
            "/top_p",
            "/presence_penalty",
            "/frequency_penalty",
            "/max_tokens",
            "/max_completion_tokens",
            "/stop",
            "/reasoning_effort",
        ];
        assert_eq!(errors(json), expected);
    }

    #[test]
    fn tools_have_names_that_fit_and_a_choice_names_one_of_them() {
        let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
        assert_eq!(errors(json!({"tools": []})), ["/tools"]);
        assert_eq!(errors(json!({"tools": [tool("a"), tool("a b")]})), ["/tools/1/function/name"]);
        assert_eq!(
            errors(json!({"tools": [tool("a")], "tool_choice": tool("b")})),
            ["/tool_choice/function/name"]
        );
        assert_eq!(errors(json!({"tool_choice": "required"})), ["/tool_choice"]);
        assert_eq!(errors(json!({"tool_choice": "maybe"})), ["/tool_choice"]);
        assert_eq!(errors(json!({"tools": [tool("a")], "tool_choice": "required"})), [""; 0]);
    }
}
