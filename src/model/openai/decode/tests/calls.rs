//! Tool calls, whatever the discipline of indexes and IDs.

use serde_json::json;

use super::*;

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

pub(super) fn call(
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
            "another ID and the name with each piece",
            vec![
                call(zero, Some("a"), Some("read"), Some(r#"{"p""#)),
                call(zero, Some("b"), Some("read"), Some(":1}")),
            ],
            &both[..1],
        ),
        (
            "another ID and nothing else at the end",
            vec![
                call(zero, Some("a"), Some("read"), Some(one)),
                call(zero, Some("z"), None, Some("")),
            ],
            &both[..1],
        ),
        (
            "an empty name and an empty ID with each piece",
            vec![
                call(None, Some("a"), Some("read"), Some(r#"{"p""#)),
                call(None, Some(""), Some(""), Some(":1}")),
            ],
            &both[..1],
        ),
        (
            "another ID and an empty name with each piece",
            vec![
                call(zero, Some("a"), Some("read"), Some(r#"{"p""#)),
                call(zero, Some("b"), Some(""), Some(":1}")),
            ],
            &both[..1],
        ),
        (
            "the name once more at the end",
            vec![
                call(zero, Some("a"), Some("read"), Some(one)),
                call(zero, None, Some("read"), Some("")),
            ],
            &both[..1],
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
