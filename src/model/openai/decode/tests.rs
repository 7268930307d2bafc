//! What servers send, by the rows of the reports in which it was first seen.

use proptest::prelude::*;
use serde_json::json;

use super::sloppy::{Outcome, answers, decode, odd_values};
use super::think::ThinkTags;
use crate::domain::Usage;
use crate::domain::opaque::OpaqueData;
use crate::domain::task::code;
use crate::model::openai::profile::Profile;

const STOP: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// A chunk with that delta.
fn c(delta: &str) -> String {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":null}}]}}\n\n")
}

fn text(text: &str) -> String {
    c(&json!({ "content": text }).to_string())
}

fn read(body: impl Into<Vec<u8>>) -> Outcome {
    decode(vec![body.into()], &Profile::default())
}

/// A whole answer of those deltas.
fn said(deltas: &[&str]) -> Outcome {
    let chunks: String = deltas.iter().map(|delta| c(delta)).collect();
    read(chunks + STOP + DONE)
}

#[track_caller]
fn whole(body: impl Into<Vec<u8>>, expected: &str) {
    let body = body.into();
    let outcome = read(body.clone());
    let shown = String::from_utf8_lossy(&body);
    assert_eq!(outcome.error, None, "{shown}");
    assert_eq!(outcome.answer.text, expected, "{shown}");
    assert!(outcome.finish.is_some(), "{shown}");
}

#[track_caller]
fn fails(body: impl Into<Vec<u8>>, expected: (&str, bool), message: &str) {
    let body = body.into();
    let outcome = read(body.clone());
    let shown = format!("{}\n{outcome:?}", String::from_utf8_lossy(&body));
    assert_eq!(outcome.finish, None, "{shown}");
    let error = outcome.error.unwrap_or_else(|| panic!("no error: {shown}"));
    assert_eq!((error.code, error.retryable), expected, "{shown}");
    assert!(error.message.contains(message), "{shown}");
}

/// 1a: cloudflare/ai#651 (Workers AI).
#[test]
fn content_of_any_type_is_read_as_text() {
    for (content, expected) in [
        ("6", "6"),
        ("-1.50", "-1.50"),
        ("12345678901234567890123", "12345678901234567890123"),
        (r#"[{"type":"text","text":"a"},{"type":"text","text":"b"}]"#, "ab"),
        (r#"[{"type":"output_text","text":"a"}]"#, "a"),
        (r#"["a","b"]"#, "ab"),
        (r#"{"type":"text","text":"a"}"#, "a"),
        (r#"{"text":"a"}"#, "a"),
        (r#"{"type":"text","text":{"value":"a"}}"#, "a"),
        (r#"[{"type":"image_url","image_url":{"url":"x"}},{"type":"text","text":"a"}]"#, "a"),
        (r#"{"answer": 42}"#, r#"{"answer": 42}"#),
        ("null", ""),
        ("true", ""),
        ("[]", ""),
        ("{}", ""),
    ] {
        let outcome = said(&[r#"{"content":"Hello "}"#, &format!("{{\"content\":{content}}}")]);
        assert_eq!(outcome.error, None, "{content}");
        assert_eq!(outcome.answer.text, format!("Hello {expected}"), "{content}");
    }
    let row = said(&[r#"{"content":"Hello "}"#, r#"{"content":6}"#, r#"{"content":" times"}"#]);
    assert_eq!(row.answer.text, "Hello 6 times");
}

/// 1b: litellm#16272 (Mistral); 19: only `reasoning_details`.
#[test]
fn reasoning_is_read_from_wherever_it_stands() {
    for (delta, expected) in [
        (r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"Hmm"}]}]}"#, "Hmm"),
        (r#"{"content":[{"type":"thinking","thinking":"Hmm"}]}"#, "Hmm"),
        (r#"{"content":[{"type":"reasoning","text":"Hmm"}]}"#, "Hmm"),
        (r#"{"reasoning_content":"Hmm"}"#, "Hmm"),
        (r#"{"reasoning":"Hmm"}"#, "Hmm"),
        (r#"{"reasoning":{"text":"Hmm"}}"#, "Hmm"),
        (r#"{"reasoning":[{"type":"summary_text","text":"Hmm"}]}"#, "Hmm"),
        (r#"{"thinking":"Hmm"}"#, "Hmm"),
        (r#"{"reasoning_text":"Hmm"}"#, "Hmm"),
        (r#"{"reasoning":"Hmm","reasoning_content":"Hmm"}"#, "Hmm"),
        (r#"{"reasoning_details":[{"type":"reasoning.text","text":"Hmm"}]}"#, "Hmm"),
        (r#"{"reasoning_details":[{"type":"reasoning.summary","summary":"Hmm"}]}"#, "Hmm"),
        (r#"{"reasoning_details":[{"type":"reasoning.encrypted","data":"x"}]}"#, ""),
        (
            r#"{"reasoning":"Hmm","reasoning_details":[{"type":"reasoning.text","text":"Hmm"}]}"#,
            "Hmm",
        ),
    ] {
        let outcome = said(&[delta, r#"{"content":[{"type":"text","text":"Hello"}]}"#]);
        assert_eq!(outcome.error, None, "{delta}");
        assert_eq!(
            (outcome.answer.reasoning.as_str(), outcome.answer.text.as_str()),
            (expected, "Hello"),
            "{delta}"
        );
    }
    // Plain words came before: the details say the same again.
    let twice = said(&[
        r#"{"reasoning":"Hmm"}"#,
        r#"{"reasoning_details":[{"type":"reasoning.text","text":"Hmm"}]}"#,
        r#"{"content":"Hello"}"#,
    ]);
    assert_eq!(twice.answer.reasoning, "Hmm");
}

/// 1c: GLM-4.5#17, llama.cpp#20198.
#[test]
fn calls_with_odd_indexes_and_arguments_are_read() {
    for (index, arguments, expected) in [
        ("-1", r#"{"p": 1.50}"#, r#"{"p": 1.50}"#),
        ("-1", r#""{\"p\":1}""#, r#"{"p":1}"#),
        ("\"0\"", "[1]", "[1]"),
        ("0.0", "null", ""),
        ("null", "\"\"", ""),
        ("{}", "7", "7"),
        ("4294967296", "{}", "{}"),
    ] {
        let call = format!(
            r#"{{"tool_calls":[{{"index":{index},"id":"a","function":{{"name":"read","arguments":{arguments}}}}}]}}"#
        );
        let outcome = said(&[&call]);
        assert_eq!(outcome.error, None, "{call}");
        assert_eq!(outcome.calls(), [("read", expected)], "{call}");
        assert_eq!(outcome.answer.tool_calls[0].index, 0);
    }
}

/// 1d: baml#1746; 17.
#[test]
fn usage_is_read_wherever_and_however_it_stands() {
    let usage = Usage { prompt_tokens: 12, completion_tokens: 1, total_tokens: 13 };
    for counts in [
        r#"{"prompt_tokens":12.0,"completion_tokens":1.0,"total_tokens":13.0}"#,
        r#"{"prompt_tokens":"12","completion_tokens":"1"}"#,
        r#"{"input_tokens":12,"output_tokens":1}"#,
        r#"{"prompt_tokens":12,"completion_tokens":1,"total_tokens":"many","prompt_tokens_details":[]}"#,
        r#"{"prompt_tokens":1.2e1,"completion_tokens":1,"total_tokens":-3}"#,
    ] {
        for body in [
            format!(
                "data: {{\"choices\":[{{\"delta\":{{\"content\":\"Hi\"}}}}],\"usage\":{counts}}}\n\n{STOP}{DONE}"
            ),
            format!(
                "{}data: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"stop\"}}],\"usage\":{counts}}}\n\n{DONE}",
                text("Hi")
            ),
            format!("{}{STOP}data: {{\"choices\":[],\"usage\":{counts}}}\n\n{DONE}", text("Hi")),
            format!("{}{STOP}data: {{\"usage\":{counts}}}\n\n{DONE}", text("Hi")),
            format!(
                "{}{STOP}data: {{\"choices\":null,\"x_groq\":{{\"usage\":{counts}}}}}\n\n{DONE}",
                text("Hi")
            ),
            format!(
                "{}data: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"stop\",\"usage\":{counts}}}]}}\n\n{DONE}",
                text("Hi")
            ),
            format!(
                "{}{STOP}data: {{\"choices\":[],\"usage\":{counts}}}\n\ndata: {{\"choices\":[],\"usage\":{{}}}}\n\n{DONE}",
                text("Hi")
            ),
        ] {
            let outcome = read(body.clone());
            assert_eq!((outcome.error, outcome.usage), (None, Some(usage)), "{body}");
        }
    }
    for nothing in
        ["{}", "[]", "null", "\"x\"", "{\"prompt_tokens\":-1}", "{\"prompt_tokens\":1.5}"]
    {
        let body =
            format!("{}{STOP}data: {{\"choices\":[],\"usage\":{nothing}}}\n\n{DONE}", text("Hi"));
        assert_eq!(read(body).usage, None, "{nothing}");
    }
}

fn call(
    index: Option<&str>,
    id: Option<&str>,
    name: Option<&str>,
    arguments: Option<&str>,
) -> String {
    let mut call = serde_json::Map::new();
    if let Some(index) = index {
        call.insert("index".into(), serde_json::from_str(index).expect("JSON"));
    }
    call.extend(id.map(|id| ("id".to_owned(), json!(id))));
    let mut function = serde_json::Map::new();
    function.extend(name.map(|name| ("name".to_owned(), json!(name))));
    function.extend(arguments.map(|arguments| ("arguments".to_owned(), json!(arguments))));
    call.insert("function".into(), function.into());
    json!({ "tool_calls": [call] }).to_string()
}

/// 2a: ollama#15457, vercel/ai#14277; 2b: openai-python#2806 (Gemini).
#[test]
fn calls_are_told_apart_by_more_than_their_index() {
    let (one, two) = (r#"{"p":1}"#, r#"{"p":2}"#);
    let both = [("read", one), ("read", two)];
    let zero = Some("0");
    for (what, deltas, expected) in [
        (
            "one index, two IDs",
            vec![
                call(zero, Some("a"), Some("read"), Some(one)),
                call(zero, Some("b"), Some("read"), Some(two)),
            ],
            &both[..],
        ),
        (
            "no index, two IDs",
            vec![
                call(None, Some("a"), Some("read"), Some(one)),
                call(None, Some("b"), Some("read"), Some(two)),
            ],
            &both,
        ),
        (
            "index -1",
            vec![
                call(Some("-1"), Some("a"), Some("read"), Some(one)),
                call(Some("-1"), Some("b"), Some("read"), Some(two)),
            ],
            &both,
        ),
        (
            "no index, no IDs",
            vec![
                call(None, None, Some("read"), Some(one)),
                call(None, None, Some("read"), Some(two)),
            ],
            &both,
        ),
        (
            "no index, empty IDs",
            vec![
                call(None, Some(""), Some("read"), Some(one)),
                call(None, Some(""), Some("read"), Some(two)),
            ],
            &both,
        ),
        (
            "one index, no IDs",
            vec![
                call(zero, None, Some("read"), Some(one)),
                call(zero, None, Some("read"), Some(two)),
            ],
            &both,
        ),
        (
            "one index, one ID",
            vec![
                call(zero, Some("a"), Some("read"), Some(one)),
                call(zero, Some("a"), Some("read"), Some(two)),
            ],
            &both,
        ),
        (
            "two indexes, one ID",
            vec![
                call(zero, Some("a"), Some("read"), Some(one)),
                call(Some("1"), Some("a"), Some("read"), Some(two)),
            ],
            &both,
        ),
        (
            "holes",
            vec![
                call(Some("3"), Some("a"), Some("read"), Some(one)),
                call(Some("7"), Some("b"), Some("read"), Some(two)),
            ],
            &both,
        ),
        (
            "pieces under one index",
            vec![
                call(zero, Some("a"), Some("read"), None),
                call(zero, None, None, Some(r#"{"p""#)),
                call(zero, None, None, Some(":1}")),
                call(zero, Some("b"), Some("read"), None),
                call(zero, None, None, Some(two)),
            ],
            &both,
        ),
        (
            "pieces without index",
            vec![
                call(None, Some("a"), Some("read"), None),
                call(None, None, None, Some(r#"{"p""#)),
                call(None, None, None, Some(":1}")),
                call(None, Some("b"), Some("read"), Some("")),
                call(None, None, None, Some(two)),
            ],
            &both,
        ),
        (
            "pieces that take turns by index",
            vec![
                call(zero, Some("a"), Some("read"), None),
                call(Some("1"), Some("b"), Some("read"), None),
                call(Some("1"), None, None, Some(r#"{"p""#)),
                call(zero, None, None, Some(r#"{"p""#)),
                call(zero, None, None, Some(":1}")),
                call(Some("1"), None, None, Some(":2}")),
            ],
            &both,
        ),
        (
            "pieces that take turns by ID",
            vec![
                call(None, Some("a"), Some("read"), None),
                call(None, Some("b"), Some("read"), None),
                call(None, Some("b"), None, Some(r#"{"p":2}"#)),
                call(None, Some("a"), None, Some(r#"{"p":1}"#)),
            ],
            &both,
        ),
        (
            "the ID with each piece",
            vec![
                call(zero, Some("a"), Some("read"), Some("")),
                call(zero, Some("a"), None, Some(r#"{"p""#)),
                call(zero, Some("a"), Some("read"), Some(":1}")),
            ],
            &both[..1],
        ),
        (
            "another ID with each piece",
            vec![
                call(zero, Some("a"), Some("read"), Some("")),
                call(zero, Some("x"), None, Some(r#"{"p""#)),
                call(zero, Some("y"), None, Some(":1}")),
            ],
            &[("read", one)],
        ),
        (
            "the name with each piece",
            vec![
                call(None, None, Some("read"), Some(r#"{"p""#)),
                call(None, None, Some("read"), Some(":1}")),
            ],
            &both[..1],
        ),
        (
            "the ID after the name",
            vec![
                call(zero, None, Some("read"), None),
                call(zero, Some("a"), None, None),
                call(zero, None, None, Some(one)),
            ],
            &both[..1],
        ),
        (
            "a name in parts",
            vec![call(zero, Some("a"), Some("re"), None), call(zero, None, Some("ad"), Some(one))],
            &both[..1],
        ),
        (
            "the whole call once more",
            vec![
                call(zero, Some("a"), Some("read"), Some(one)),
                call(zero, Some("a"), Some("read"), Some(one)),
            ],
            &both[..1],
        ),
        (
            "calls without arguments",
            vec![call(None, None, Some("now"), Some("")), call(None, None, Some("here"), None)],
            &[("now", ""), ("here", "")],
        ),
    ] {
        // An ID for another piece is no call without its text first.
        let deltas: Vec<&str> = deltas.iter().map(String::as_str).collect();
        let outcome = said(&deltas);
        assert_eq!(outcome.error, None, "{what}");
        assert_eq!(outcome.calls(), expected, "{what}");
        let calls = &outcome.answer.tool_calls;
        let ids: std::collections::HashSet<_> = calls.iter().map(|call| call.id.clone()).collect();
        assert!(
            ids.len() == calls.len()
                && ids.iter().all(|id| id.as_ref().is_some_and(|id| !id.is_empty())),
            "{what}: {ids:?}"
        );
        assert!((0..).zip(calls).all(|(n, call)| call.index == n), "{what}");
    }
    let late =
        said(&[&call(zero, None, Some("read"), None), &call(zero, Some("a"), None, Some(one))]);
    assert_eq!(late.answer.tool_calls[0].id.as_deref(), Some("a"));
}

/// 6a: aionrs#99, lmstudio#830; 6b: qwen-code#8382.
#[test]
fn each_call_has_an_id_of_its_own() {
    let ids = |deltas: &[String]| {
        let outcome = said(&deltas.iter().map(String::as_str).collect::<Vec<_>>());
        let ids = outcome.answer.tool_calls.into_iter().map(|call| call.id.expect("an ID"));
        ids.collect::<Vec<_>>()
    };
    let empty = ids(&[call(Some("0"), Some(""), Some("read"), Some("{}"))]);
    assert!(empty[0].starts_with("call_") && empty[0].len() <= 40, "{empty:?}");
    let same = ids(&[
        call(Some("0"), Some("same"), Some("a"), Some("{}")),
        call(Some("1"), Some("same"), Some("b"), Some("{}")),
    ]);
    assert_eq!(same[0], "same");
    assert!(same[1].starts_with("call_"), "{same:?}");
}

/// 3: genkit#6079 (OpenRouter); 14a; 15.
#[test]
fn errors_inside_a_stream_are_errors_whatever_form_they_have() {
    let retried = (code::UPSTREAM_ERROR, true);
    let rejected = (code::UPSTREAM_REJECTED, false);
    let limited = (code::UPSTREAM_RATE_LIMITED, true);
    for (event, class, message) in [
        (
            r#"data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error","error":{"message":"Provider overloaded","code":502}}]}"#,
            retried,
            "Provider overloaded",
        ),
        (
            r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}"#,
            retried,
            "broke the answer off",
        ),
        (
            r#"data: {"choices":[{"delta":{},"finish_reason":"insufficient_system_resource"}]}"#,
            retried,
            "insufficient_system_resource",
        ),
        (
            r#"data: {"error":{"message":"overloaded"},"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
            retried,
            "overloaded",
        ),
        ("event: error\ndata: {\"message\":\"model crashed\"}", retried, "model crashed"),
        ("event:error\ndata: model crashed", retried, "model crashed"),
        ("data: {\"message\":\"model crashed\"}\nevent: error", retried, "model crashed"),
        (
            r#"data: {"object":"error","message":"maximum context length exceeded","code":400}"#,
            rejected,
            "maximum context length",
        ),
        (
            r#"data: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
            retried,
            "Overloaded",
        ),
        (r#"data: {"error":{"message":"no","code":"400"}}"#, rejected, "no"),
        (
            r#"data: {"error":{"message":"too long","code":"context_length_exceeded"}}"#,
            rejected,
            "too long",
        ),
        (
            r#"data: {"error":{"message":"slow down","type":"rate_limit_error"}}"#,
            limited,
            "slow down",
        ),
        (r#"data: {"error":"model crashed"}"#, retried, "model crashed"),
        (
            r#"data: {"errors":[{"message":"model crashed"}],"success":false}"#,
            retried,
            "model crashed",
        ),
        (r#"data: {"status":500,"message":"model crashed"}"#, retried, "model crashed"),
        (
            r#"data: {"base_resp":{"status_code":1004,"status_msg":"model crashed"}}"#,
            retried,
            "model crashed",
        ),
        (r#"{"error":{"message":"model crashed"}}"#, retried, "model crashed"),
        (r#"data: [{"error":{"message":"model crashed"}}]"#, retried, "model crashed"),
        ("data: Internal server error", (code::UPSTREAM_INCOMPLETE, true), "Internal server error"),
        (r#"data: {"detail":"model crashed"}"#, (code::UPSTREAM_INCOMPLETE, true), "model crashed"),
    ] {
        fails(format!("{}{event}\n\n{DONE}", text("Hello")), class, message);
        fails(format!("{}{event}\n{DONE}", text("Hello")), class, message);
        fails(format!("{event}\n\n"), class, message);
    }
    for nothing in ["null", "false", "\"\"", "{}", "[]", "0", r#"{"message":"","code":null}"#] {
        whole(
            format!(
                "data: {{\"error\":{nothing},\"choices\":[{{\"delta\":{{\"content\":\"Hello\"}}}}]}}\n\n{STOP}{DONE}"
            ),
            "Hello",
        );
    }
}

/// 8: wave-agent#1326, hermes-agent#112183; 9a: opencode#27365; 9b: eventsource-parser#31;
/// 13: foundry-dev-tools#195, vllm-ascend#5033.
#[test]
fn any_framing_of_an_answer_is_read() {
    let hello = text("Hello");
    for body in [
        format!("data: \n\n{hello}{STOP}{DONE}"),
        format!("data: ping\n\n{hello}data: keep-alive\n\n{STOP}{DONE}"),
        format!("data:\n\n: comment\n\n{hello}event: ping\ndata: {{}}\n\n{STOP}{DONE}"),
        format!("event: keepalive\ndata: {{\"x\":1}}\n\n{hello}{STOP}{DONE}"),
        format!("retry: 5\nid: 1\n\n{hello}{STOP}{DONE}"),
        format!("{hello}{}", STOP.trim_end()),
        format!("{hello}{}\n", STOP.trim_end()),
        format!("{hello}{STOP}data: [DONE]"),
        format!("{hello}{STOP}[DONE]"),
        format!("{hello}{STOP}data:[done] \n"),
        format!("{hello}{STOP}{DONE}").replace("\n\n", "\n"),
        format!("{hello}{STOP}{DONE}").replace('\n', "\r\n"),
        format!("{hello}{STOP}{DONE}").replace('\n', "\r"),
        format!("{hello}{STOP}{DONE}").replace("data: ", "data:"),
        format!("{hello}{STOP}{DONE}").replace("data: ", ""),
        format!("{hello}{STOP}{DONE}").replace("data: ", "").replace("\n\n", "\n"),
        format!("\u{feff}{hello}{STOP}{DONE}"),
        "data: {\"choices\":\ndata: [{\"index\":0,\ndata: \"delta\":{\"content\":\"Hello\"},\"finish_reason\":\"stop\"}]}\n\n".to_owned(),
        format!("data: [{}]\n\n{DONE}", r#"{"choices":[{"delta":{"content":"Hello"},"finish_reason":"stop"}]}"#),
    ] {
        whole(body, "Hello");
    }
    let completion = json!({
        "id": "x", "object": "chat.completion", "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    });
    for body in [
        completion.to_string(),
        format!("{completion:#}"),
        format!("[{completion:#}]"),
        format!("data: {completion}\n\n"),
    ] {
        whole(body.clone(), "Hello");
        assert_eq!(read(body).usage.map(|usage| usage.total_tokens), Some(3));
    }
    let calls = r#"{"choices":[{"message":{"content":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"read","arguments":"{}"}}]}}]}"#;
    let outcome = read(format!("{}\n", calls.replace(',', ",\n")));
    assert_eq!(
        (outcome.calls(), outcome.finish.as_deref()),
        (vec![("read", "{}")], Some("tool_calls"))
    );
}

#[test]
fn what_is_no_stream_of_chunks_is_malformed_and_not_repeated_in_words() {
    let malformed = (code::UPSTREAM_MALFORMED, true);
    fails("<!DOCTYPE html>\n<html></html>", malformed, "base URL");
    fails(
        format!("{}data: {{\"choices\":[{{\"delta\":{{\"conte\n\n{STOP}{DONE}", text("Hello")),
        malformed,
        "chunk",
    );
    fails("{\"choices\": [\n", malformed, "chunk");
    let secret = read("data: {\"the user said\n\n");
    assert!(!secret.error.expect("an error").message.contains("user said"));
}

/// 10: oh-my-pi#9433, pydantic-ai#2996; and what is no end.
#[test]
fn an_answer_is_whole_if_its_stream_says_that_it_ends() {
    whole(format!("{}{DONE}", text("Hello")), "Hello");
    assert_eq!(read(format!("{}{DONE}", text("Hello"))).finish.as_deref(), Some("stop"));
    let calls = read(c(&call(Some("0"), Some("a"), Some("read"), Some("{}"))) + DONE);
    assert_eq!(calls.finish.as_deref(), Some("tool_calls"));
    let incomplete = (code::UPSTREAM_INCOMPLETE, true);
    fails(text("Hello"), incomplete, "without a finish reason");
    fails(DONE, incomplete, "without a finish reason");
    fails("", incomplete, "");
    fails(format!("{}{DONE}", c(r#"{"reasoning":"Hmm"}"#)), incomplete, "");
    fails(
        format!("{}data: {{\"choices\":[{{\"delta\":{{\"content\":\" wor", text("Hello")),
        incomplete,
        "",
    );
    // A reason with each chunk says nothing, until the stream says that it ends.
    let early =
        "data: {\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}\n\n";
    whole(format!("{early}{early}{DONE}"), "xx");
    let outcome = read(format!("{early}{early}"));
    assert_eq!(outcome.error.map(|error| error.code), Some(code::UPSTREAM_INCOMPLETE));
    for (reason, expected) in [
        ("stop", "stop"),
        ("STOP", "stop"),
        ("end_turn", "stop"),
        ("MAX_TOKENS", "length"),
        ("length", "length"),
        ("function_call", "tool_calls"),
        ("tool_use", "tool_calls"),
        ("SAFETY", "content_filter"),
        ("pause", "pause"),
    ] {
        let body = format!(
            "{}data: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"{reason}\"}}]}}\n\n",
            text("x")
        );
        assert_eq!(read(body).finish.as_deref(), Some(expected), "{reason}");
    }
}

/// 11a: rakazo#416; 11b: llama.cpp#11738, ragflow#15266.
#[test]
fn text_that_is_no_unicode_yet_is_put_together_or_replaced() {
    whole(c(r#"{"content":"\ud83d"}"#) + &c(r#"{"content":"\ude00"}"#) + STOP + DONE, "😀");
    whole(c(r#"{"content":"a\ud83d"}"#) + &c(r#"{"content":"b"}"#) + STOP + DONE, "a\u{fffd}b");
    whole(c(r#"{"content":"a\ud83d"}"#) + STOP + DONE, "a\u{fffd}");
    whole(c(r#"{"content":"a\u0000b"}"#) + STOP + DONE, "a\u{fffd}b");
    let mut odd = b"data: {\"choices\":[{\"delta\":{\"content\":\"x\xe6\xadz\"},\"logprobs\":-Infinity}]}\n\n".to_vec();
    odd.extend_from_slice(STOP.as_bytes());
    whole(odd, "x\u{fffd}z");
    let mut cut = b"data: {\"choices\":[{\"delta\":{\"content\":\"\xe6\xad\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"\x8c\"}}]}\n\n".to_vec();
    cut.extend_from_slice(STOP.as_bytes());
    whole(cut, "歌");
    let arguments = said(&[
        &call(Some("0"), Some("a"), Some("read"), Some("{\"q\":\"")),
        r#"{"tool_calls":[{"index":0,"function":{"arguments":"\ud83d"}}]}"#,
        r#"{"tool_calls":[{"index":0,"function":{"arguments":"\ude00\"}"}}]}"#,
    ]);
    assert_eq!(arguments.calls(), [("read", "{\"q\":\"😀\"}")]);
}

/// 19.
#[test]
fn legacy_and_misplaced_answers_are_read() {
    let stop = &STOP[6..];
    whole(
        format!(
            "data: {{\"choices\":[{{\"message\":{{\"content\":\"Hel\"}}}}]}}\n\ndata: {{\"choices\":[{{\"message\":{{\"content\":\"lo\"}}}}]}}\n\ndata: {stop}"
        ),
        "Hello",
    );
    // Both: the message says it all once more.
    whole(
        format!(
            "{}data: {{\"choices\":[{{\"message\":{{\"content\":\"Hello\"}},\"finish_reason\":\"stop\"}}]}}\n\n",
            text("Hello")
        ),
        "Hello",
    );
    whole(format!("data: {{\"choices\":[{{\"text\":\"Hello\"}}]}}\n\n{STOP}"), "Hello");
    whole(
        format!("data: {{\"choices\":{{\"delta\":{{\"content\":\"Hello\"}}}}}}\n\n{STOP}"),
        "Hello",
    );
    let legacy = said(&[
        r#"{"function_call":{"name":"read","arguments":""}}"#,
        r#"{"function_call":{"arguments":"{}"}}"#,
    ]);
    assert_eq!(legacy.calls(), [("read", "{}")]);
    let refused = said(&[r#"{"refusal":"I won't."}"#]);
    assert_eq!(
        (refused.answer.text.as_str(), refused.finish.as_deref()),
        ("I won't.", Some("refusal"))
    );
    let others = r#"{"choices":[{"index":1,"delta":{"content":[7]}},{"index":0,"delta":{"content":"Hello"}},{"index":"2","delta":5}]}"#;
    whole(format!("data: {others}\n\n{STOP}"), "Hello");
    let profile = Profile { think_tags: ThinkTags::On, ..Profile::default() };
    let body = text("<thi") + &text("nk>Hmm</think>\n\nHello") + STOP;
    let outcome = decode(vec![body.clone().into()], &profile);
    assert_eq!((outcome.answer.reasoning.as_str(), outcome.answer.text.as_str()), ("Hmm", "Hello"));
    whole(body, "<think>Hmm</think>\n\nHello");
}

/// 5b: OpenMAIC#1556 (Gemini 3); 5a: continuedev#10193 (DeepSeek, Kimi).
#[test]
fn what_a_server_wants_back_is_kept_byte_for_byte() {
    let outcome = said(&[
        r#"{"reasoning_content":"Hmm","reasoning_details":[{"type":"x",  "data":1.50}]}"#,
        r#"{"reasoning_details":[],"extra_content":{"google":{"thought":true}}}"#,
        r#"{"extra_content":{"google":{"thought_signature":"m"}},"tool_calls":[{"index":2,"id":"c",
            "function":{"name":"f","arguments":"{}"},"extra_content":{"google":{"thought_signature":"s"}}}]}"#
            .replace('\n', "").as_str(),
    ]);
    let data =
        |call, name: &str, json: &str| OpaqueData { call, name: name.into(), json: json.into() };
    assert_eq!(
        outcome.answer.opaque,
        [
            data(None, "reasoning_details", r#"[{"type":"x",  "data":1.50}]"#),
            data(Some(0), "extra_content", r#"{"google":{"thought_signature":"s"}}"#),
            data(None, "extra_content", r#"{"google":{"thought_signature":"m"}}"#),
            data(None, "reasoning_content", "null"),
        ]
    );
    assert_eq!(said(&[r#"{"reasoning_content":"Hmm"}"#, r#"{"content":"Hi"}"#]).answer.opaque, []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_that_is_sent_sloppily_is_what_was_meant(input in prop::collection::vec(any::<u8>(), 0..400)) {
        answers(&input);
    }

    #[test]
    fn any_value_in_any_optional_place_fails_no_answer(input in prop::collection::vec(any::<u8>(), 0..200)) {
        odd_values(&input);
    }
}
