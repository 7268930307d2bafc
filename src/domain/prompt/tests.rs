//! Prompts that the strictest server takes.

use super::*;
use crate::domain::message::{Content, ToolResult};
use proptest::prelude::*;

fn tidied(turns: Vec<Turn>) -> Vec<Turn> {
    tidy(turns, |_| true)
}

fn user() -> Turn {
    Turn::User(Content::Text("hello".into()))
}

fn assistant(text: &str, calls: &[&str]) -> Turn {
    let call = |(index, id): (usize, &&str)| ToolCall {
        index: u32::try_from(index).expect("small"),
        id: Some((*id).to_owned()),
        name: Some("clock".into()),
        arguments: "{}".into(),
    };
    let tool_calls = calls.iter().enumerate().map(call).collect();
    Turn::Assistant(AssistantTurn { text: text.into(), tool_calls, ..AssistantTurn::default() })
}

fn tool(id: &str) -> Turn {
    Turn::Tool(ToolResult { tool_call_id: id.into(), content: "12:00".into() })
}

#[test]
fn answered_calls_stay_with_their_results() {
    let turns =
        vec![user(), assistant("", &["a", "b"]), tool("b"), tool("a"), assistant("noon", &[])];
    assert_eq!(tidied(turns.clone()), turns);
}

#[test]
fn calls_that_are_not_all_answered_go_with_their_results() {
    let turns = vec![user(), assistant("let me see", &["a", "b"]), tool("a"), user()];
    assert_eq!(tidied(turns), [user(), assistant("let me see", &[]), user()]);
}

#[test]
fn an_answer_of_nothing_but_unanswered_calls_goes() {
    assert_eq!(tidied(vec![user(), assistant("", &["a"]), user()]), [user(), user()]);
}

#[test]
fn results_that_answer_nothing_go() {
    let turns =
        vec![tool("a"), user(), tool("a"), assistant("x", &["b"]), tool("b"), tool("b"), tool("c")];
    assert_eq!(tidied(turns), [user(), assistant("x", &["b"]), tool("b")]);
}

#[test]
fn a_call_without_an_id_or_a_name_cannot_be_told() {
    let nameless = ToolCall { id: Some("a".into()), ..ToolCall::default() };
    let turns = vec![
        Turn::Assistant(AssistantTurn { tool_calls: vec![nameless], ..AssistantTurn::from("x") }),
        tool("a"),
    ];
    assert_eq!(tidied(turns), [assistant("x", &[])]);
}

fn any_turn() -> impl Strategy<Value = Turn> {
    let ids = || prop::sample::select(vec!["a", "b", "c"]);
    prop_oneof![
        Just(user()),
        (prop::sample::select(vec!["", "x"]), prop::collection::vec(ids(), 0..3))
            .prop_map(|(text, calls)| assistant(text, &calls)),
        ids().prop_map(tool),
    ]
}

proptest! {
    #[test]
    fn every_call_is_answered_right_behind_it_and_every_result_answers_one(
        turns in prop::collection::vec(any_turn(), 0..12)
    ) {
        let tidied = super::tidy(turns, |_| true);
        let mut open: HashSet<String> = HashSet::new();
        for turn in &tidied {
            match turn {
                Turn::Tool(result) => prop_assert!(open.remove(&result.tool_call_id)),
                Turn::Assistant(AssistantTurn { tool_calls, .. }) => {
                    prop_assert!(open.is_empty());
                    open = tool_calls.iter().filter_map(|call| call.id.clone()).collect();
                    prop_assert_eq!(open.len(), tool_calls.len());
                }
                _ => prop_assert!(open.is_empty()),
            }
        }
        prop_assert!(open.is_empty());
        prop_assert_eq!(super::tidy(tidied.clone(), |_| true), tidied);
    }
}
