//! Framing, errors inside a stream, and an answer's end.

use serde_json::json;

use super::calls::call;
use super::*;

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
        (
            r#"data: {"choices":[],"x_groq":{"id":"r","error":"over capacity"}}"#,
            retried,
            "over capacity",
        ),
        (
            r#"data: {"choices":[],"errors":[{"message":"model crashed"}]}"#,
            retried,
            "model crashed",
        ),
        (
            r#"data: {"choices":[],"base_resp":{"status_code":1002,"status_msg":"model crashed"}}"#,
            retried,
            "model crashed",
        ),
        (r#"data: {"choices":[],"object":"error","message":"boom","code":500}"#, retried, "boom"),
        (r#"data: {"choices":[],"message":"boom","code":500}"#, retried, "boom"),
        (
            r#"data: {"code":"Throttling.RateQuota","message":"Requests rate limit exceeded"}"#,
            limited,
            "rate limit",
        ),
        (
            r#"data: {"choices":[{"delta":{},"finish_reason":"function_call_filter: MALFORMED_FUNCTION_CALL"}]}"#,
            retried,
            "MALFORMED_FUNCTION_CALL",
        ),
        (
            r#"error: {"code":400,"message":"the request exceeds the available context size"}"#,
            rejected,
            "context size",
        ),
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
        format!("data: [PING]\n\n{hello}data: [HEARTBEAT]\n\n{STOP}{DONE}"),
        format!("[PING]\n\n{hello}{STOP}{DONE}"),
        format!("{hello}{STOP}{DONE}").replace("data: ", "data: data: "),
        format!("{hello}{STOP}{DONE}").replace("data: ", "  data: "),
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
    let one = r#"{"choices":[{"message":{"role":"assistant","content":"Hello"}}]}"#;
    whole(one, "Hello");
    whole(format!("{one}\n"), "Hello");
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
    let named = "event: error\ndata: {\"message\":\"maximum context length exceeded\"}\n";
    fails(format!("{}{named}", text("Hello")), (code::UPSTREAM_REJECTED, false), "context length");
    // A piece of the answer may be among what is no chunk.
    fails_after_finish(format!("{}data: x{{\"choices\":[]}}\n\n{STOP}{DONE}", text("Hello")));
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

#[track_caller]
fn fails_after_finish(body: String) {
    let outcome = read(body.clone());
    assert_eq!(outcome.error.map(|error| error.code), Some(code::UPSTREAM_INCOMPLETE), "{body}");
}
