//! Requests against the strictest server, and as profiles want them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::message::{ImageUrl, ToolResult};
use crate::domain::opaque::OpaqueData;
use crate::model::simulator::strict;

fn sent(turns: Vec<Turn>, parameters: Value, profile: &str) -> Value {
    let request = ChatRequest {
        model: "m".into(),
        turns: prompt::tidy(turns, |model| model == "own"),
        parameters: serde_json::from_value(parameters).expect("an object"),
    };
    let profile = Profile::parse(profile).expect("a profile");
    serde_json::to_value(body(&request, &profile, &Learned::default())).expect("JSON")
}

fn user(text: &str) -> Turn {
    Turn::User(Content::Text(text.into()))
}

fn call(id: &str, name: &str, arguments: &str) -> ToolCall {
    let (id, name) = (Some(id.to_owned()), Some(name.to_owned()));
    ToolCall { index: 0, id, name, arguments: arguments.into() }
}

fn calling(calls: Vec<ToolCall>) -> Turn {
    let calls = (0..).zip(calls).map(|(index, call)| ToolCall { index, ..call });
    let model = Some("own".to_owned());
    Turn::Assistant(AssistantTurn {
        tool_calls: calls.collect(),
        model,
        ..AssistantTurn::default()
    })
}

fn result(id: &str) -> Turn {
    Turn::Tool(ToolResult { tool_call_id: id.into(), content: "42".into() })
}

#[test]
fn turns_and_parameters_become_a_request() {
    let image = ImageUrl { url: "https://example.org/a.png".into(), detail: None };
    let parts = vec![Part::Text { text: "what?".into() }, Part::ImageUrl { image_url: image }];
    let turns = vec![
        Turn::System("be brief".into()),
        Turn::User(Content::Parts(parts)),
        calling(vec![call("c", "f", "{}")]),
        result("c"),
        Turn::Assistant("42".into()),
        user("sure?"),
    ];
    let parameters =
        json!({ "temperature": 0.5, "model": "other", "stream": false, "messages": [] });
    let expected = json!({
        "model": "m",
        "stream": true,
        "stream_options": { "include_usage": true },
        "temperature": 0.5,
        "messages": [
            { "role": "system", "content": "be brief" },
            { "role": "user", "content": [
                { "type": "text", "text": "what?" },
                { "type": "image_url", "image_url": { "url": "https://example.org/a.png" } },
            ] },
            { "role": "assistant", "content": null, "tool_calls": [
                { "id": "c", "type": "function", "function": { "name": "f", "arguments": "{}" } },
            ] },
            { "role": "tool", "tool_call_id": "c", "content": "42" },
            { "role": "assistant", "content": "42" },
            { "role": "user", "content": "sure?" },
        ],
    });
    assert_eq!(sent(turns, parameters, "default"), expected);
}

#[test]
fn parameters_are_passed_on_as_they_were_written() {
    let schema =
        r#"{"properties": {"zeta":{}, "alpha":{"minimum":1.0,"maximum":12345678901234567890123}}}"#;
    let text = format!(r#"{{"seed":1,"response_format":{schema},"top_p":0.10}}"#);
    let parameters = serde_json::from_str(&text).expect("an object");
    let request = ChatRequest { model: "m".into(), turns: vec![], parameters };
    let body = body(&request, &Profile::default(), &Learned::default()).to_json();
    assert!(body.starts_with(text.trim_end_matches('}')), "{body}");
}

#[test]
fn profiles_say_things_their_way() {
    let turns = || vec![Turn::System("be brief".into()), user("hi")];
    let parameters = || json!({ "max_tokens": 5, "seed": 1 });
    let sent = |profile: &str| sent(turns(), parameters(), profile);
    let plain = sent("default");
    assert_eq!(
        (&plain["max_tokens"], &plain["stream_options"]["include_usage"]),
        (&json!(5), &json!(true))
    );
    let newer = sent("default:max_tokens=max_completion_tokens:system_role=developer");
    assert_eq!((newer.get("max_tokens"), &newer["max_completion_tokens"]), (None, &json!(5)));
    assert_eq!(newer["messages"][0]["role"], "developer");
    let bare = sent("default:stream_options=off:drop=seed:system_role=user");
    assert_eq!((bare.get("stream_options"), bare.get("seed")), (None, None));
    assert_eq!(bare["messages"], json!([{ "role": "user", "content": "be brief\n\nhi" }]));
    let apart = self::sent(vec![user("a"), user("b")], json!({}), "default:turns=as_written");
    assert_eq!(apart["messages"].as_array().map(Vec::len), Some(2));
}

#[test]
fn mistral_gets_ids_of_nine_letters_and_digits() {
    let turns = vec![
        user("hi"),
        calling(vec![call("call_0123456789", "f", "{}"), call("abcDEF123", "f", "{}")]),
        result("call_0123456789"),
        result("abcDEF123"),
    ];
    let sent = sent(turns, json!({}), "mistral");
    let messages = sent["messages"].as_array().expect("messages");
    for n in 0..2 {
        let id = messages[1]["tool_calls"][n]["id"].as_str().expect("an ID");
        assert!(id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
        assert_eq!(messages[2 + n]["tool_call_id"], id);
    }
    assert_eq!(messages[3]["tool_call_id"], "abcDEF123");
}

#[test]
fn data_goes_back_to_its_own_server_as_far_as_the_profile_lets_it() {
    let data =
        |call, name: &str, json: &str| OpaqueData { call, name: name.into(), json: json.into() };
    let turns = |model: &str| {
        let mut turn = AssistantTurn {
            tool_calls: vec![call("c", "f", "{}")],
            reasoning: "Hmm".into(),
            model: Some(model.into()),
            ..AssistantTurn::default()
        };
        turn.opaque = vec![
            data(None, "reasoning_content", "null"),
            data(None, "reasoning_details", "[1.50]"),
            data(Some(0), "extra_content", "{\"s\":1}"),
        ];
        vec![user("hi"), Turn::Assistant(turn), result("c")]
    };
    let fields = |model: &str, profile: &str| {
        let sent = sent(turns(model), json!({}), profile);
        let message = &sent["messages"][1];
        [
            message.get("reasoning_content"),
            message.get("reasoning_details"),
            message["tool_calls"][0].get("extra_content"),
        ]
        .map(|field| field.is_some())
    };
    assert_eq!(fields("own", "default"), [true, true, true]);
    assert_eq!(fields("own", "default:send_back=opaque"), [false, true, true]);
    assert_eq!(fields("own", "default:send_back=off"), [false, false, false]);
    assert_eq!(fields("another", "default"), [false, false, false]);
}

fn any_text() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", " ", "\n", "a", "b\n\nc", "é"]).prop_map(str::to_owned)
}

fn any_turn() -> impl Strategy<Value = Turn> {
    let id = || {
        prop::sample::select(vec![
            "a",
            "b",
            "same",
            "",
            "functions.read:0",
            "an ID that is much too long for any server to take",
        ])
    };
    let name = prop::sample::select(vec!["read", "", "functions.read", "ein Zähler"]);
    let arguments = prop::sample::select(vec![
        "",
        "{}",
        "{\"p\":1}",
        "null",
        "{\"p\":",
        "7",
        "[1]",
        "\"{\\\"p\\\":1}\"",
        "\u{fffd}",
    ]);
    let call = (id(), name, arguments).prop_map(|(id, name, arguments)| call(id, name, arguments));
    let opaque = (
        prop::option::of(0u32..2),
        prop::sample::select(vec!["extra_content", "reasoning_content"]),
    );
    let opaque = opaque.prop_map(|(call, name)| {
        let name = if call.is_some() { "extra_content" } else { name };
        OpaqueData {
            call,
            name: name.into(),
            json: if call.is_some() { "{\"s\":1}" } else { "null" }.into(),
        }
    });
    let assistant = (
        any_text(),
        prop::collection::vec(call, 0..3),
        any_text(),
        prop::collection::vec(opaque, 0..2),
        prop::option::of(prop::sample::select(vec!["own", "another"])),
    );
    prop_oneof![
        any_text().prop_map(|text| user(&text)),
        any_text().prop_map(|text| Turn::User(Content::Parts(vec![
            Part::Text { text: text.clone() },
            Part::Text { text }
        ]))),
        assistant.prop_map(|(text, mut calls, reasoning, opaque, model)| {
            // A server takes its own IDs back, whatever they are.
            let own = model == Some("own");
            calls.retain(|call| !own || call.id.as_ref().is_some_and(|id| id.len() < 9));
            let tool_calls = (0..).zip(calls).map(|(index, call)| ToolCall { index, ..call });
            let (tool_calls, model) = (tool_calls.collect(), model.map(str::to_owned));
            Turn::Assistant(AssistantTurn { text, tool_calls, reasoning, opaque, model })
        }),
        id().prop_map(result),
    ]
}

/// A conversation, as rill keeps it: a turn of the user's or of tools, and what came
/// of it, if anything. Results mostly answer what was asked.
fn any_history() -> impl Strategy<Value = Vec<Turn>> {
    let step = (any_turn(), any::<bool>()).prop_map(|(turn, answers)| {
        let mut turns = vec![turn];
        if let (Turn::Assistant(turn), true) = (&turns[0], answers) {
            let ids: Vec<_> = turn.tool_calls.iter().filter_map(|call| call.id.clone()).collect();
            turns.extend(ids.iter().map(|id| result(id)));
        }
        turns
    });
    (any_text(), any_text(), prop::collection::vec(step, 0..12), any::<bool>()).prop_map(
        |(system, first, steps, tools)| {
            let mut turns = if system.is_empty() { vec![] } else { vec![Turn::System(system)] };
            turns.push(user(&first));
            turns.extend(steps.into_iter().flatten());
            if tools {
                turns.extend([calling(vec![call("z", "read", "")]), result("z")]);
            } else {
                turns.push(user("and now?"));
            }
            turns
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn the_strictest_server_takes_any_conversation(turns in any_history()) {
        for profile in ["default", "mistral", "deepseek", "openai", "anthropic", "default:system_role=developer"] {
            let sent = sent(turns.clone(), json!({ "max_tokens": 5 }), profile);
            prop_assert_eq!(strict::check(&sent), Ok(()), "{}: {:#}", profile, sent);
        }
    }

    #[test]
    fn no_word_is_lost(turns in any_history()) {
        let said: String = turns.iter().filter_map(|turn| match turn {
            Turn::User(Content::Text(text)) => Some(format!("{text} ")),
            _ => None,
        }).collect();
        let sent = sent(turns, json!({}), "default");
        let all: String = sent["messages"].to_string().split("\\n").collect();
        for word in said.split_whitespace() {
            prop_assert!(all.contains(&word.replace('\n', "")), "{} is not in {}", word, all);
        }
    }
}
