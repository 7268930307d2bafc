use proptest::prelude::*;
use serde_json::json;

use super::lines::HEARTBEATS;
use super::*;
use crate::model::simulator::Defaults;
use crate::model::simulator::answer::{Piece, answer};
use crate::model::simulator::directives::Script;
use crate::model::simulator::wire::{self, Usage};

/// The answer to `prompt`, in writes of one piece: neat, and as it asks.
fn both(prompt: &str) -> (String, String) {
    let script = Script::read(prompt, &Defaults::default());
    let answer = answer(&script, prompt, 1, 3, false);
    let mut chunks = wire::Chunks::new("id", 7, "m");
    let mut writes = Vec::new();
    chunks.role();
    for piece in answer.pieces {
        chunks.piece(&piece);
        writes.push(chunks.take());
    }
    chunks.end(&answer.finish_reason, Some(Usage::new(12, 1)));
    writes.push(chunks.take());
    let mut rewriting = script.sloppy.rewriting().expect("a sloppy prompt");
    let sloppy = writes.iter().map(|write| text(&rewriting.rewrite(write))).collect();
    (writes.iter().map(|write| text(write)).collect(), sloppy)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn sloppy(prompt: &str) -> String {
    both(prompt).1
}

/// The data of each event, whatever ends a line.
fn data(stream: &str) -> Vec<&str> {
    stream.split(['\r', '\n']).filter_map(|line| line.strip_prefix("data: ")).collect()
}

fn json(data: &str) -> Value {
    serde_json::from_str(&data.replacen(":-Infinity", ":null", 1)).expect(data)
}

/// The fields of each choice that a chunk has under `name`.
fn each(stream: &str, name: &str) -> Vec<Value> {
    let chunks = data(stream).into_iter().filter(|data| *data != "[DONE]").map(json);
    chunks.filter_map(|chunk| chunk["choices"][0].get(name).cloned()).collect()
}

#[test]
fn line_ends() {
    let neat = "data: {}\n\nevent: error\ndata: {\"a\":1}\n\ndata: [DONE]\n\n";
    let table = [
        ("lf", "data: {}\nevent: error\ndata: {\"a\":1}\ndata: [DONE]\n"),
        ("crlf", "data: {}\r\n\r\nevent: error\r\ndata: {\"a\":1}\r\n\r\ndata: [DONE]\r\n\r\n"),
        ("cr", "data: {}\r\revent: error\rdata: {\"a\":1}\r\rdata: [DONE]\r\r"),
        ("cr+crlf", "data: {}\r\revent: error\rdata: {\"a\":1}\r\rdata: [DONE]\r\r"),
        ("lf+crlf", "data: {}\r\nevent: error\r\ndata: {\"a\":1}\r\ndata: [DONE]\r\n"),
        ("unended", "data: {}\n\nevent: error\ndata: {\"a\":1}"),
        ("lf+unended", "data: {}\nevent: error\ndata: {\"a\":1}"),
        ("unfinished+unended", "data: {}\n\nevent: error\ndata: {\"a\":1}\n\ndata: [DONE]"),
    ];
    for (kinds, expected) in table {
        let kinds = Kinds::parse(kinds).expect("known kinds");
        let mut rewriting = kinds.rewriting().expect("not neat");
        assert_eq!(text(&rewriting.rewrite(neat.as_bytes())), expected, "{kinds:?}");
    }
}

#[test]
fn heartbeats_come_before_each_event() {
    let beats: String = HEARTBEATS.iter().map(|line| format!("{line}\n\n")).collect();
    let mut rewriting = Kinds::parse("heartbeats").expect("known").rewriting().expect("not neat");
    let stream = text(&rewriting.rewrite(b"data: {}\n\ndata: [DONE]\n\n"));
    assert_eq!(stream, format!("{beats}data: {{}}\n\n{beats}data: [DONE]\n\n"));
}

#[test]
fn parts_hold_text_and_reasoning() {
    let stream = sloppy("[[sloppy=parts]][[reasoning=1]][[chunk=0]][[echo]]6");
    let thought = json!([{ "type": "text", "text": "Hmm," }]);
    assert_eq!(
        each(&stream, "delta"),
        [
            json!({ "role": "assistant", "content": "" }),
            json!({ "content": [{ "type": "thinking", "thinking": thought }] }),
            json!({ "content": [{ "type": "text", "text": "6" }] }),
            json!({}),
        ]
    );
    let odd = sloppy("[[sloppy=parts+odd-types]][[reasoning=1]][[chunk=0]][[echo]]6");
    assert_eq!(each(&odd, "delta"), each(&stream, "delta"));
}

#[test]
fn a_message_takes_the_delta_s_place() {
    let (neat, stream) = both("[[sloppy=message]][[tool=f]][[tokens=3]]");
    assert_eq!(each(&stream, "message"), each(&neat, "delta"));
    assert!(each(&stream, "delta").is_empty());
}

#[test]
fn an_unfinished_answer_is_done() {
    let stream = sloppy("[[sloppy=unfinished]]");
    assert!(each(&stream, "finish_reason").iter().all(Value::is_null), "{stream}");
    assert!(stream.ends_with("data: [DONE]\n\n"), "{stream}");
    let mut chunks = wire::Chunks::new("id", 7, "m");
    chunks.error();
    let mut rewriting = Kinds::parse("unfinished").expect("known").rewriting().expect("not neat");
    let stream = text(&rewriting.rewrite(&chunks.take()));
    assert_eq!(each(&stream, "finish_reason"), ["error"]);
}

#[test]
fn odd_types() {
    let stream = sloppy("[[sloppy=odd-types]][[chunk=1]][[echo]]6+07");
    assert_eq!(
        data(&stream)[1],
        "{\"id\":\"id\",\"object\":\"chat.completion.chunk\",\"created\":\"7\",\"model\":\"m\",\
         \"choices\":[{\"index\":\"0\",\"delta\":{\"content\":6},\"finish_reason\":null,\
         \"logprobs\":-Infinity}],\"error\":false}"
    );
    let contents: Vec<_> = each(&stream, "delta").iter().map(|d| d["content"].clone()).collect();
    assert_eq!(contents, [json!(""), json!(6), json!("+"), json!(0), json!(7), Value::Null]);
    for (text, content) in [("07", json!("07")), ("-0", json!("-0")), ("-12", json!(-12))] {
        let stream = sloppy(&format!("[[sloppy=odd-types]][[chunk=0]][[echo]]{text}"));
        assert_eq!(each(&stream, "delta")[1], json!({ "content": content }));
    }
    // Usage is in the chunk with the finish reason, which is the last.
    let chunks = data(&stream);
    let last = chunks[chunks.len() - 2];
    assert_eq!(json(last)["choices"][0]["finish_reason"], "stop");
    let usage = r#""usage":{"prompt_tokens":12.0,"completion_tokens":1.0,"total_tokens":13.0}"#;
    assert!(last.contains(usage), "{last}");
}

/// The first tool call of each chunk with one.
fn tool_calls(stream: &str) -> Vec<Value> {
    let deltas = each(stream, "delta");
    deltas.iter().filter_map(|delta| Some(delta["tool_calls"].get(0)?.clone())).collect()
}

#[test]
fn odd_types_of_a_tool_call() {
    let (neat, stream) = both("[[sloppy=odd-types]][[tool=f]]");
    let neatly: String = tool_calls(&neat)
        .iter()
        .filter_map(|call| call["function"]["arguments"].as_str())
        .collect();
    let calls = tool_calls(&stream);
    assert_eq!(calls.len(), 2, "{stream}");
    assert_eq!(calls[0]["index"], "0");
    assert_eq!(calls[0]["function"], json!({ "name": "f", "arguments": "" }));
    assert_eq!(calls[1]["function"]["arguments"], json(&neatly));
}

#[test]
fn a_tool_call_without_index_or_id() {
    let (neat, stream) = both("[[sloppy=no-index+bad-ids]][[tool=f]]");
    let (neat, calls) = (tool_calls(&neat), tool_calls(&stream));
    assert_eq!((neat.len(), &calls[0]["id"]), (calls.len(), &json!("")));
    assert!(calls.iter().all(|call| call.get("index").is_none()), "{stream}");
    assert!(calls[1].get("id").is_none(), "{stream}");
}

#[test]
fn lone_surrogate_halves() {
    let stream = sloppy(r#"[[sloppy=bytes]][[chunk=0]][[echo]]é"😀\🚀"token":0"#);
    let contents: Vec<_> = data(&stream)[1..4]
        .iter()
        .filter_map(|data| Some(data.split_once(r#""content":"#)?.1.split_once('}')?.0))
        .collect();
    assert_eq!(contents, [r#""é\"\ud83d""#, r#""\ude00\\\ud83d""#, r#""\ude80\"token\":0""#,]);
    let parts = sloppy("[[sloppy=bytes+parts+odd-types]][[chunk=0]][[echo]]😀");
    assert!(parts.contains(r#""content":[{"type":"text","text":"\ud83d"}]"#), "{parts}");
    assert!(parts.contains(r#""content":[{"type":"text","text":"\ude00"}]"#), "{parts}");
}

#[test]
fn a_whole_completion() {
    let pieces = || {
        let tool = Piece::Tool { id: "a".into(), name: "f".into() };
        [
            Piece::Reasoning("Hmm".into()),
            Piece::Text("6".into()),
            tool,
            Piece::Arguments("{\"p\":1}".into()),
        ]
    };
    let whole = |kinds: &str| {
        let neat = wire::completion("id", 7, "m", pieces(), "tool_calls", Usage::new(1, 2));
        Kinds::parse(kinds).expect("known kinds").completion(neat)
    };
    let plain = whole("whole+lf+heartbeats+bytes");
    assert!(plain.starts_with("{\n  \"id\": \"id\",\n"), "{plain}");
    assert_eq!(json(&plain)["choices"][0]["message"]["content"], "6");
    let odd = whole("whole+odd-types+bad-ids+unfinished");
    assert!(odd.contains("      \"logprobs\": -Infinity"), "{odd}");
    let odd = json(&odd.replace("-Infinity", "null"));
    let choice = &odd["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&Value::Null, &json!(6))
    );
    let call = json!({
        "id": "", "type": "function", "function": { "name": "f", "arguments": { "p": 1 } },
    });
    assert_eq!(choice["message"]["tool_calls"], json!([call]));
    let parts = json(&whole("whole+parts"));
    let parts = &parts["choices"][0]["message"]["content"];
    assert_eq!((&parts[0]["type"], &parts[1]["text"]), (&json!("thinking"), &json!("6")));
}

#[test]
fn content_types() {
    let of = |kinds: &str, neat| Kinds::parse(kinds).expect("known kinds").content_type(neat);
    assert_eq!(of("lf", "text/event-stream"), "text/event-stream");
    assert_eq!(of("mislabelled", "text/event-stream"), "application/json");
    assert_eq!(of("whole", "application/json"), "application/json");
    assert_eq!(of("whole+mislabelled", "application/json"), "text/event-stream");
}

fn subset(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::subsequence(of, 1..=of.len()).prop_map(|kinds| kinds.join("+"))
}

proptest! {
    #[test]
    fn lines_don_t_change_the_json(
        kinds in subset(&["lf", "crlf", "cr", "heartbeats"]),
        chunk in 0_usize..5,
        reasoning in 0_usize..3,
        echoed: String,
    ) {
        let prompt =
            format!("[[sloppy={kinds}]][[reasoning={reasoning}]][[chunk={chunk}]][[echo]]{echoed}");
        let (neat, stream) = both(&prompt);
        let beats: Vec<_> = HEARTBEATS.iter().flat_map(|line| data(line)).collect();
        let said: Vec<_> = data(&stream).into_iter().filter(|d| !beats.contains(d)).collect();
        prop_assert_eq!(said, data(&neat));
    }

    #[test]
    fn whatever_is_combined_is_json_in_lines(
        kinds in subset(&[
            "lf", "crlf", "cr", "unended", "parts", "message", "unfinished", "odd-types",
            "no-index", "bad-ids", "mislabelled", "bytes",
        ]),
        more in prop::sample::select(vec!["", "[[tool=f]]", "[[numbered]]", "[[reasoning=2]]"]),
        echoed: String,
    ) {
        for echo in ["".to_owned(), format!("[[echo]]{echoed}")] {
            let stream = sloppy(&format!("[[sloppy={kinds}]]{more}{echo}"));
            let chunks = data(&stream);
            for chunk in chunks.iter().filter(|chunk| **chunk != "[DONE]") {
                let chunk = chunk.replacen("\"logprobs\":-Infinity", "\"logprobs\":0", 1);
                // Not a value: those can't hold surrogate halves.
                let read = serde_json::from_str::<serde::de::IgnoredAny>(&chunk);
                prop_assert!(read.is_ok(), "{}", chunk);
            }
            let ended = chunks.last() == Some(&"[DONE]");
            let unended = kinds.contains("unended") && !kinds.contains("unfinished");
            prop_assert_eq!(ended, !unended);
            prop_assert!(!stream.ends_with("\n\n") || !kinds.contains("unended"));
        }
    }
}
