//! What may be said to a model: calls of tools and their results in pairs.
//!
//! OpenAI's servers refuse a prompt in which an assistant's tool call has no
//! result right behind it, and one in which a result answers no call. A
//! conversation has such holes wherever a caller went on without answering,
//! or the prompt was cut at its oldest end; they must not make the
//! conversation unusable.

use std::collections::HashSet;

use super::answer::ToolCall;
use super::message::Turn;

/// Keeps an answer's tool calls only where the results right behind it answer
/// all of them, and results only where they answer a call that is kept, once.
/// An answer that said nothing but calls that are not kept goes too.
pub fn tidy(turns: Vec<Turn>) -> Vec<Turn> {
    let mut tidied = Vec::with_capacity(turns.len());
    let mut turns = turns.into_iter().peekable();
    while let Some(turn) = turns.next() {
        match turn {
            Turn::Assistant { text, tool_calls } => {
                let mut results = Vec::new();
                while let Some(Turn::Tool(result)) =
                    turns.next_if(|next| matches!(next, Turn::Tool(_)))
                {
                    results.push(result);
                }
                let mut open: HashSet<&str> = HashSet::new();
                let distinct =
                    tool_calls.iter().all(|call| id(call).is_some_and(|id| open.insert(id)));
                results.retain(|result| open.remove(result.tool_call_id.as_str()));
                if distinct && open.is_empty() && !tool_calls.is_empty() {
                    tidied.push(Turn::Assistant { text, tool_calls });
                    tidied.extend(results.into_iter().map(Turn::Tool));
                } else if !text.is_empty() {
                    tidied.push(Turn::Assistant { text, tool_calls: Vec::new() });
                }
            }
            Turn::Tool(_) => {}
            Turn::System(_) | Turn::User(_) => tidied.push(turn),
        }
    }
    tidied
}

/// A call can be answered, and told to a model again, only with an ID and a name.
fn id(call: &ToolCall) -> Option<&str> {
    call.name.as_ref().and(call.id.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::{Content, ToolResult};
    use proptest::prelude::*;

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
        Turn::Assistant {
            text: text.into(),
            tool_calls: calls.iter().enumerate().map(call).collect(),
        }
    }

    fn tool(id: &str) -> Turn {
        Turn::Tool(ToolResult { tool_call_id: id.into(), content: "12:00".into() })
    }

    #[test]
    fn answered_calls_stay_with_their_results() {
        let turns =
            vec![user(), assistant("", &["a", "b"]), tool("b"), tool("a"), assistant("noon", &[])];
        assert_eq!(tidy(turns.clone()), turns);
    }

    #[test]
    fn calls_that_are_not_all_answered_go_with_their_results() {
        let turns = vec![user(), assistant("let me see", &["a", "b"]), tool("a"), user()];
        assert_eq!(tidy(turns), [user(), assistant("let me see", &[]), user()]);
    }

    #[test]
    fn an_answer_of_nothing_but_unanswered_calls_goes() {
        assert_eq!(tidy(vec![user(), assistant("", &["a"]), user()]), [user(), user()]);
    }

    #[test]
    fn results_that_answer_nothing_go() {
        let turns = vec![
            tool("a"),
            user(),
            tool("a"),
            assistant("x", &["b"]),
            tool("b"),
            tool("b"),
            tool("c"),
        ];
        assert_eq!(tidy(turns), [user(), assistant("x", &["b"]), tool("b")]);
    }

    #[test]
    fn a_call_without_an_id_or_a_name_cannot_be_told() {
        let nameless = ToolCall { id: Some("a".into()), ..ToolCall::default() };
        let turns =
            vec![Turn::Assistant { text: "x".into(), tool_calls: vec![nameless] }, tool("a")];
        assert_eq!(tidy(turns), [assistant("x", &[])]);
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
            let tidied = tidy(turns);
            let mut open: HashSet<String> = HashSet::new();
            for turn in &tidied {
                match turn {
                    Turn::Tool(result) => prop_assert!(open.remove(&result.tool_call_id)),
                    Turn::Assistant { tool_calls, .. } => {
                        prop_assert!(open.is_empty());
                        open = tool_calls.iter().filter_map(|call| call.id.clone()).collect();
                        prop_assert_eq!(open.len(), tool_calls.len());
                    }
                    _ => prop_assert!(open.is_empty()),
                }
            }
            prop_assert!(open.is_empty());
            prop_assert_eq!(tidy(tidied.clone()), tidied);
        }
    }
}
