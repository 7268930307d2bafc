//! Any JSON value in any optional place of a chunk.

use super::{decode, pick};
use crate::fuzz::Input;
use crate::model::openai::profile::Profile;

/// Places of an otherwise good chunk in which any value may stand.
const PLACES: [&str; 24] = [
    r#"{"choices":@}"#,
    r#"{"choices":[@]}"#,
    r#"{"choices":[{"index":@,"delta":{}}]}"#,
    r#"{"choices":[{"delta":@}]}"#,
    r#"{"choices":[{"message":@}]}"#,
    r#"{"choices":[{"text":@}]}"#,
    r#"{"choices":[{"logprobs":@,"delta":{"content":"x"}}]}"#,
    r#"{"choices":[{"usage":@,"delta":{}}]}"#,
    r#"{"choices":[{"delta":{"content":@}}]}"#,
    r#"{"choices":[{"delta":{"content":[@]}}]}"#,
    r#"{"choices":[{"delta":{"content":[{"type":@,"text":@}]}}]}"#,
    r#"{"choices":[{"delta":{"role":@,"refusal":@}}]}"#,
    r#"{"choices":[{"delta":{"reasoning":@,"reasoning_content":@,"thinking":@}}]}"#,
    r#"{"choices":[{"delta":{"reasoning_details":@}}]}"#,
    r#"{"choices":[{"delta":{"reasoning_details":[{"type":"reasoning.text","text":@}]}}]}"#,
    r#"{"choices":[{"delta":{"extra_content":@,"thinking_blocks":@}}]}"#,
    r#"{"choices":[{"delta":{"tool_calls":@}}]}"#,
    r#"{"choices":[{"delta":{"tool_calls":[@]}}]}"#,
    r#"{"choices":[{"delta":{"tool_calls":[{"index":@,"id":@,"type":@,"function":@,"extra_content":@}]}}]}"#,
    r#"{"choices":[{"delta":{"tool_calls":[{"function":{"name":@,"arguments":@}}]}}]}"#,
    r#"{"choices":[{"delta":{"function_call":@}}]}"#,
    r#"{"usage":@,"x_groq":@,"choices":[]}"#,
    r#"{"usage":{"prompt_tokens":@,"completion_tokens":@,"total_tokens":@},"choices":[]}"#,
    r#"{"id":@,"object":@,"created":@,"model":@,"system_fingerprint":@,"service_tier":@,"choices":[]}"#,
];

/// Any JSON value.
fn value(input: &mut Input<'_>, depth: u32) -> String {
    const LEAVES: [&str; 24] = [
        "null",
        "true",
        "false",
        "0",
        "-1",
        "1",
        "2.0",
        "12.5",
        "1e999",
        "-0",
        "123456789012345678901234567890",
        "\"\"",
        "\"x\"",
        "\"0\"",
        "\"-1\"",
        "\"1e5\"",
        "\"\\ud800\"",
        "\"\\udc00a\"",
        "\"\\u0000\"",
        "\"text\"",
        "[]",
        "{}",
        "NaN",
        "-Infinity",
    ];
    const NAMES: [&str; 12] = [
        "type",
        "text",
        "content",
        "index",
        "id",
        "name",
        "arguments",
        "function",
        "thinking",
        "delta",
        "usage",
        "reasoning",
    ];
    match input.byte() % 8 {
        0 if depth < 4 => {
            let items: Vec<_> = (0..input.byte() % 4).map(|_| value(input, depth + 1)).collect();
            format!("[{}]", items.join(","))
        }
        1 | 2 if depth < 4 => {
            let field = |input: &mut Input<'_>| {
                let name = pick(input, &NAMES);
                format!("\"{name}\":{}", value(input, depth + 1))
            };
            let fields: Vec<_> = (0..input.byte() % 4).map(|_| field(input)).collect();
            format!("{{{}}}", fields.join(","))
        }
        3 => format!("{}{}", "[".repeat(200), "]".repeat(200)),
        _ => pick(input, &LEAVES).to_owned(),
    }
}

/// Any JSON value in any optional place of an otherwise good chunk fails no answer,
/// and takes nothing from the chunks around it.
pub(crate) fn odd_values(input: &[u8]) {
    let mut input = Input(input);
    let mut body =
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hello\"}}]}\n\n".to_owned();
    for _ in 0..1 + input.byte() % 3 {
        let mut odd = String::new();
        let mut parts = pick(&mut input, &PLACES).split('@').peekable();
        while let Some(part) = parts.next() {
            odd.push_str(part);
            if parts.peek().is_some() {
                odd.push_str(&value(&mut input, 0));
            }
        }
        body.push_str(&format!("data: {odd}\n\n"));
    }
    body.push_str("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" world\"}}]}\n\n");
    body.push_str("data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n");
    let outcome = decode(vec![body.clone().into_bytes()], &Profile::default());
    assert_eq!(outcome.error, None, "{body}");
    assert_eq!(
        outcome.finish.as_deref().map(|reason| reason == "stop" || reason == "refusal"),
        Some(true),
        "{body}"
    );
    let text = &outcome.answer.text;
    assert!(text.starts_with("Hello") && text.ends_with(" world"), "{body}\n{text:?}");
    for (place, call) in (0..).zip(&outcome.answer.tool_calls) {
        assert!(call.index == place && call.id.as_ref().is_some_and(|id| !id.is_empty()), "{body}");
    }
}
