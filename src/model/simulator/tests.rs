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
