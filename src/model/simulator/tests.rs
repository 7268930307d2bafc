use clap::Parser;

use super::*;
use crate::model::testing::{TestSimulator, install_crypto};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

async fn post(simulator: &TestSimulator, body: &Value) -> (StatusCode, String) {
    install_crypto();
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let request = client.post(simulator.url("/v1/chat/completions")).body(body.to_string());
    let response = request.send().await.expect("an answer");
    (response.status(), response.text().await.expect("text"))
}

fn asking(prompt: &str) -> Value {
    json!({ "model": "m", "messages": [{ "role": "user", "content": prompt }] })
}

#[test]
fn the_command_line_s_defaults_are_the_library_s() {
    let cli = Cli::try_parse_from(["rill"]).expect("nothing is required");
    assert_eq!(cli.options.defaults, Defaults::default());
    assert!(Cli::try_parse_from(["rill", "--rate", "-1"]).is_err());
}

#[tokio::test]
async fn a_stream_is_in_openai_s_format() {
    let simulator = TestSimulator::start().await;
    let mut body = asking("[[echo]]hé\n");
    body["stream"] = true.into();
    body["stream_options"] = json!({ "include_usage": true });
    let (status, text) = post(&simulator, &body).await;
    assert_eq!(status, StatusCode::OK);
    let events: Vec<&str> = text.split_terminator("\n\n").collect();
    let chunk = |at: usize| -> Value {
        serde_json::from_str(events[at].strip_prefix("data: ").expect("an event")).expect("JSON")
    };
    assert_eq!(events.len(), 5, "{text}");
    assert_eq!(chunk(0)["object"], "chat.completion.chunk");
    assert_eq!(chunk(0)["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    assert_eq!(chunk(1)["choices"][0]["delta"], json!({ "content": "hé\n" }));
    assert_eq!(chunk(1)["choices"][0]["finish_reason"], Value::Null);
    assert_eq!(chunk(2)["choices"][0]["finish_reason"], "stop");
    assert_eq!(chunk(3)["choices"], json!([]));
    assert_eq!(chunk(3)["usage"]["completion_tokens"], 1);
    assert_eq!(chunk(3)["model"], "m");
    assert_eq!(events[4], "data: [DONE]");
}

#[tokio::test]
async fn an_answer_need_not_be_streamed() {
    let simulator = TestSimulator::start().await;
    let (_, text) = post(&simulator, &asking("[[tool=f]][[tokens=3]][[reasoning=1]]")).await;
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], "I am a");
    assert_eq!(choice["message"]["reasoning_content"], "Hmm,");
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["name"], "f");
}

#[tokio::test]
async fn mistakes_are_answered_as_openai_would() {
    let simulator = TestSimulator::start().await;
    let (status, text) = post(&simulator, &json!({ "model": "m" })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let error: Value = serde_json::from_str(&text).expect("JSON");
    assert!(error["error"]["message"].as_str().is_some_and(|said| said.contains("messages")));

    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let models = client.get(simulator.url("/v1/models")).send().await.expect("an answer");
    assert_eq!(models.json::<Value>().await.expect("JSON")["data"][0]["id"], "simulator");
    let lost = client.get(simulator.url("/v2")).send().await.expect("an answer");
    assert_eq!(lost.status(), StatusCode::NOT_FOUND);
    assert!(lost.json::<Value>().await.expect("JSON")["error"]["message"].is_string());
}

#[tokio::test]
async fn tokens_come_at_the_rate_that_was_asked_for() {
    let simulator = TestSimulator::start().await;
    let mut body = asking("[[rate=50]][[tokens=20]][[ttft=100ms]]");
    body["stream"] = true.into();
    let began = std::time::Instant::now();
    post(&simulator, &body).await;
    let took = began.elapsed();
    // 100 ms, and 19 intervals of 20 ms.
    assert!(took >= Duration::from_millis(470), "{took:?}");
}

#[tokio::test]
async fn stamps_are_of_the_moment_at_which_a_chunk_is_written() {
    let simulator = TestSimulator::start().await;
    let micros = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        u64::try_from(now.as_micros()).expect("before the year 586,912")
    };
    let mut body = asking("[[stamped]][[rate=20]][[tokens=3]][[ttft=100ms]]");
    body["stream"] = true.into();
    let before = micros();
    let (_, text) = post(&simulator, &body).await;
    let after = micros();
    let stamps: Vec<(u64, u64)> = text
        .split("\"content\":\"")
        .filter_map(|rest| rest.split_once(" \"")?.0.split_once('@'))
        .map(|(n, at)| (n.parse().expect("a number"), at.parse().expect("a time")))
        .collect();
    assert_eq!(stamps.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 1, 2], "{text}");
    // Each is due 50 ms after the one before; a stamp that was taken when the
    // piece was made would be that much too early.
    for (n, at) in stamps {
        let due = before + 100_000 + 50_000 * n;
        assert!((due..=after).contains(&at), "{n} at {at}: not in {due}..={after}");
    }
}

/// The answer to a streamed request, without a network: its type and its body.
async fn streamed(prompt: &str) -> (String, String) {
    let defaults = Defaults { rate: 0.0, ttft: Duration::ZERO, ..Defaults::default() };
    let mut body = asking(prompt);
    body["stream"] = true.into();
    let mut response = direct(&Simulator::new(defaults), &body).await;
    let content_type = response.content_type().expect("a type").to_owned();
    (content_type, response.take_body().into_string().await.expect("text"))
}

async fn direct(simulator: &Simulator, body: &Value) -> Response {
    let uri = "/v1/chat/completions".parse().expect("a path");
    let request = Request::builder().method(Method::POST).uri(uri).body(body.to_string());
    simulator.call(request).await.expect("an answer")
}

#[tokio::test]
async fn strictness_says_what_and_where() {
    let mut body = asking("[[tokens=1]]");
    body["messages"][0]["id"] = 7.into();
    for (strict, expected) in [(false, StatusCode::OK), (true, StatusCode::BAD_REQUEST)] {
        let defaults = Defaults { strict, rate: 0.0, ttft: Duration::ZERO, ..Defaults::default() };
        let mut response = direct(&Simulator::new(defaults), &body).await;
        assert_eq!(response.status(), expected);
        let answer: Value = response.take_body().into_json().await.expect("JSON");
        let why = strict.then_some("messages[0]: extra field \"id\" is not permitted");
        assert_eq!(answer["error"]["message"].as_str(), why);
        assert_eq!(answer["error"]["type"].as_str(), strict.then_some("invalid_request_error"));
    }
    let cli = Cli::try_parse_from(["rill", "--strict"]).expect("a flag");
    assert!(cli.options.defaults.strict);
}

#[tokio::test]
async fn a_sloppy_stream_is_sent_as_such() {
    let (content_type, text) = streamed("[[sloppy=mislabelled+lf]][[numbered]][[tokens=2]]").await;
    assert_eq!(content_type, "application/json");
    assert_eq!(text.lines().filter(|line| line.starts_with("data: {")).count(), 4, "{text}");
    assert!(text.ends_with("}\ndata: [DONE]\n"), "{text}");
    let (_, text) = streamed("[[sloppy=lf]][[numbered]][[eof=1]]").await;
    assert_eq!(text.lines().count(), 2, "{text}");
    // Pieces of the arguments are held back, which mustn't end the body.
    let (_, text) = streamed("[[sloppy=odd-types]][[tool=f]][[rate=1000]]").await;
    assert!(text.contains("\"arguments\":{") && text.ends_with("[DONE]\n\n"), "{text}");
}

#[tokio::test]
async fn a_stream_can_be_a_whole_completion_after_all() {
    let (content_type, text) = streamed("[[sloppy=whole]][[echo]]hello").await;
    assert_eq!(content_type, "application/json");
    assert!(text.starts_with("{\n"), "{text}");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["content"], "hello");
    assert_eq!(streamed("[[sloppy=whole]][[eof=1]]").await.1, "");
    let (_, text) = streamed("[[sloppy=whole+odd-types]][[error=1]]").await;
    assert!(text.contains("\"message\": \"Provider overloaded\""), "{text}");
    assert!(text.contains("\"finish_reason\": \"error\""), "{text}");
    let (_, text) = streamed("[[sloppy=whole]][[error-event=1]]").await;
    assert_eq!(text, r#"{"error":{"message":"model crashed"}}"#);
}

#[tokio::test]
async fn an_error_within_a_stream_ends_it_cleanly() {
    let (_, text) = streamed("[[numbered]][[error=1]]").await;
    let events: Vec<_> = text.split_terminator("\n\n").collect();
    let failed = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\
                  \"finish_reason\":\"error\",\
                  \"error\":{\"message\":\"Provider overloaded\",\"code\":502}}]}";
    assert_eq!(events[2..], [failed, "data: [DONE]"], "{text}");

    let (_, text) = streamed("[[numbered]][[error-event=1]]").await;
    let events: Vec<_> = text.split_terminator("\n\n").collect();
    let crashed = "event: error\ndata: {\"message\":\"model crashed\"}";
    assert_eq!(events[2..], [crashed, "data: [DONE]"], "{text}");

    let (_, text) = streamed("[[sloppy=lf+unended+odd-types]][[error-event=1]]").await;
    assert!(text.ends_with("}\nevent: error\ndata: {\"message\":\"model crashed\"}"), "{text}");
    // On the first calls only, and at the very end too.
    let (_, text) = streamed("[[error=2*0]][[tokens=2]]").await;
    assert!(!text.contains("overloaded"), "{text}");
    let (_, text) = streamed("[[error=2*1]][[tokens=2]]").await;
    assert!(text.contains("overloaded") && !text.contains("\"stop\""), "{text}");
}
