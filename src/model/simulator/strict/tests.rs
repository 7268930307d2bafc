use serde_json::json;

use super::*;

fn user(text: &str) -> Value {
    json!({ "role": "user", "content": text })
}

fn assistant(text: &str) -> Value {
    json!({ "role": "assistant", "content": text })
}

/// An assistant's message that calls `f` under each of `ids`.
fn calls(ids: &[&str]) -> Value {
    let calls: Vec<Value> = ids.iter().map(|id| call(id, "f", "{}")).collect();
    json!({ "role": "assistant", "content": null, "tool_calls": calls })
}

fn call(id: &str, name: &str, arguments: &str) -> Value {
    json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })
}

fn result(id: &str) -> Value {
    json!({ "role": "tool", "tool_call_id": id, "content": "" })
}

fn checked(messages: &[Value]) -> Result<(), String> {
    check(&json!({ "model": "m", "stream": true, "messages": messages }))
}

/// `object` with `field` set.
fn with(mut object: Value, field: &str, value: Value) -> Value {
    object[field] = value;
    object
}

/// A conversation whose one call is `call`.
fn calling(call: Value) -> [Value; 3] {
    let id = call["id"].as_str().unwrap_or_default().to_owned();
    [user("a"), with(calls(&[]), "tool_calls", json!([call])), result(&id)]
}

#[test]
fn acceptable_conversations() {
    let system = json!({ "role": "system", "content": "be brief" });
    let developer = json!({ "role": "developer", "content": [{ "type": "text", "text": "a" }] });
    let parts = json!({ "role": "user", "name": "ann", "content": [
        { "type": "text", "text": "what is it?" },
        { "type": "image_url", "image_url": { "url": "https://example.org/a.png" } },
    ] });
    let mut absent = calls(&["a"]);
    absent.as_object_mut().expect("an object").remove("content");
    let opaque = with(assistant("b"), "reasoning_content", "hmm".into());
    let opaque = with(opaque, "reasoning_details", json!([]));
    let signed = with(call("a", "f", "{}"), "extra_content", json!({ "google": {} }));
    let table: &[&[Value]] = &[
        &[user("a")],
        &[user(" ")],
        &[json!({ "role": "user", "content": [{ "type": "text", "text": "" }] })],
        &[system.clone(), user("a")],
        &[developer, parts, opaque, user("c")],
        &[user("a"), calls(&["a", "b"]), result("b"), result("a")],
        &[user("a"), absent, result("a"), calls(&["b"]), result("b"), assistant("c"), user("d")],
        &[user("a"), with(calls(&["a"]), "content", "text too".into()), result("a")],
        &calling(signed),
        &calling(call(&"i".repeat(40), &"n".repeat(64), " {\"a\":[1]} ")),
    ];
    for messages in table {
        assert_eq!(checked(messages), Ok(()), "{}", json!(messages));
    }
}

#[test]
fn refused_conversations() {
    let system = || json!({ "role": "system", "content": "be brief" });
    let parts = |parts| json!({ "role": "user", "content": parts });
    let blank = json!([{ "type": "text", "text": " " }]);
    let typed = |kind: &str| with(call("a", "f", "{}"), "type", kind.into());
    let function = |field: &str, value| {
        let mut call = call("a", "f", "{}");
        call["function"][field] = value;
        calling(call)
    };
    let table: &[(&[Value], &str)] = &[
        (&[], "messages: expected an array"),
        (&[json!("a")], "messages[0]: expected an object"),
        (&[json!({ "role": "critic", "content": "a" })], "messages[0]: unknown role"),
        (&[with(user("a"), "id", 7.into())], "messages[0]: extra field \"id\""),
        (&[with(user("a"), "tool_calls", json!([]))], "messages[0]: extra field \"tool_calls\""),
        (&[user("a"), assistant("b"), with(user("c"), "time", 7.into())], "messages[2]: extra"),
        // Order.
        (&[user("a"), system()], "messages[1]: a system message must be the first"),
        (&[system(), system(), user("a")], "messages[1]: a system message must be"),
        (&[with(system(), "content", "\n".into()), user("a")], "messages[0]: blank"),
        (&[assistant("a"), user("b")], "messages[0]: the first must be"),
        (&[system(), assistant("a"), user("b")], "messages[1]: the first must be"),
        (&[user("a"), user("b")], "messages[1]: two user messages"),
        (&[user("a"), assistant("b"), assistant("c"), user("d")], "messages[2]: two assistant"),
        (&[user("a"), calls(&["a"]), result("a"), user("b")], "messages[3]: a user message direct"),
        (&[user("a"), assistant("b")], "messages[1]: the last message"),
        (&[system()], "messages[0]: the last message"),
        // Users' content.
        (&[user(" \n"), assistant("b"), user("c")], "messages[0]: blank content"),
        (&[with(user(""), "content", Value::Null)], "messages[0]: content: expected"),
        (&[parts(json!([]))], "messages[0]: content: expected"),
        (&[parts(blank), assistant("b"), user("c")], "messages[0]: content part 0"),
        (&[parts(json!([{ "type": "image_url", "image_url": {} }]))], "messages[0]: content part"),
        (&[parts(json!([{ "type": "video" }]))], "messages[0]: content part 0"),
        // Assistants' content.
        (&[user("a"), assistant(""), user("b")], "messages[1]: blank content"),
        (&[user("a"), assistant("\t"), user("b")], "messages[1]: blank content"),
        (&[user("a"), with(assistant(""), "content", Value::Null), user("b")], "messages[1]: neit"),
        (
            &[user("a"), with(assistant(""), "content", json!([])), user("b")],
            "messages[1]: content",
        ),
        (
            &[user("a"), with(calls(&["a"]), "content", "".into()), result("a")],
            "messages[1]: blank",
        ),
        (
            &[user("a"), with(assistant("b"), "tool_calls", json!([])), user("c")],
            "messages[1]: too",
        ),
        (
            &[user("a"), with(assistant("b"), "tool_calls", Value::Null), user("c")],
            "messages[1]: t",
        ),
        // Calls.
        (&calling(json!("a")), "messages[1]: tool call 0: expected an object"),
        (&calling(typed("custom")), "messages[1]: tool call 0: type"),
        (&calling(with(typed("function"), "index", 0.into())), "messages[1]: tool call 0: extra"),
        (
            &calling(with(typed("function"), "function", "f".into())),
            "messages[1]: tool call 0: fun",
        ),
        (&calling(call("", "f", "{}")), "messages[1]: tool call 0: id"),
        (&calling(call(&"i".repeat(41), "f", "{}")), "messages[1]: tool call 0: id"),
        (&calling(call("a.b", "f", "{}")), "messages[1]: tool call 0: id"),
        (&[user("a"), calls(&["a", "a"]), result("a")], "messages[1]: tool call 1: id \"a\" was"),
        (
            &[user("a"), calls(&["a"]), result("a"), calls(&["a"]), result("a")],
            "messages[3]: tool call 0: id \"a\" was",
        ),
        (&calling(call("a", "", "{}")), "messages[1]: tool call 0: name"),
        (&calling(call("a", "é", "{}")), "messages[1]: tool call 0: name"),
        (&calling(call("a", &"n".repeat(65), "{}")), "messages[1]: tool call 0: name"),
        (&calling(call("a", "f", "")), "messages[1]: tool call 0: arguments: not a JSON object"),
        (&calling(call("a", "f", "[]")), "messages[1]: tool call 0: arguments: not a JSON object"),
        (&calling(call("a", "f", "{}{}")), "messages[1]: tool call 0: arguments: not"),
        (&function("arguments", json!({})), "messages[1]: tool call 0: arguments: expected"),
        (&function("strict", true.into()), "messages[1]: tool call 0: extra field"),
        // Results.
        (
            &[user("a"), calls(&["a", "b"]), result("b")],
            "messages[2]: no result of tool call \"a\"",
        ),
        (&[user("a"), calls(&["a"])], "messages[1]: no result of tool call \"a\""),
        (&[user("a"), calls(&["a"]), user("b"), result("a")], "messages[2]: no result of"),
        (&[user("a"), calls(&["a"]), assistant("b"), user("c")], "messages[2]: no result of"),
        (&[user("a"), calls(&["a"]), result("b")], "messages[2]: tool_call_id: no call \"b\""),
        (&[user("a"), calls(&["a"]), result("a"), result("a")], "messages[3]: tool_call_id: no"),
        (&[user("a"), result("a")], "messages[1]: tool_call_id: no call"),
        (&[result("a")], "messages[0]: tool_call_id: no call"),
        (&[user("a"), calls(&["a"]), user("b")], "messages[2]: no result"),
        (
            &[user("a"), calls(&["a"]), json!({ "role": "tool", "content": "" })],
            "messages[2]: tool_call_id: expected",
        ),
        (
            &[user("a"), calls(&["a"]), with(result("a"), "content", json!({}))],
            "messages[2]: content: expected a string",
        ),
    ];
    for (messages, why) in table {
        let said = checked(messages).expect_err(why);
        assert!(said.starts_with(why), "{said:?}, not {why:?}, of {}", json!(messages));
    }
}

#[test]
fn parameters_that_exclude_each_other() {
    let request = |more: Value| {
        let mut body = json!({ "messages": [user("a")] });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("one").clone());
        check(&body)
    };
    let options = json!({ "include_usage": true });
    assert_eq!(request(json!({ "stream": true, "stream_options": options })), Ok(()));
    assert_eq!(request(json!({ "max_tokens": 1, "max_completion_tokens": null })), Ok(()));
    for refused in [
        json!({ "stream_options": options }),
        json!({ "stream_options": options, "stream": false }),
        json!({ "max_tokens": 1, "max_completion_tokens": 1 }),
    ] {
        assert!(request(refused.clone()).is_err(), "{refused}");
    }
    for body in [json!({}), json!(null), json!([]), json!({ "messages": {} })] {
        assert!(check(&body).is_err(), "{body}");
    }
}
