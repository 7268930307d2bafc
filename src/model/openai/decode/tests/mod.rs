//! What servers send, by the rows of the reports in which it was first seen.

mod calls;
mod ends;
mod fields;

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
