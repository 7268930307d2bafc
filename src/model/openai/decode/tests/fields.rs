//! Fields of a chunk, in every type and place.

use super::calls::call;
use super::*;

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
        (r#"{"reasoning":"because","answer":"42"}"#, r#"{"reasoning":"because","answer":"42"}"#),
        (r#"{"text":"hi","lang":"en"}"#, r#"{"text":"hi","lang":"en"}"#),
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
    for place in [r#""message":{"content":"Hello"}"#, r#""text":"Hello""#] {
        let choice = format!(r#"{{"delta":{{}},{place},"finish_reason":"stop"}}"#);
        whole(format!("data: {{\"choices\":[{choice}]}}\n\n"), "Hello");
    }
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
