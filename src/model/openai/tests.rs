//! The adapter against the simulator and against hand-written answers, over
//! real sockets.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::decode::sloppy::Outcome;
use super::*;
use crate::domain::message::{AssistantTurn, Content, Parameters, ToolResult, Turn};
use crate::domain::task::code;
use crate::model::testing::{TestSimulator, install_crypto};

const SOON: Duration = Duration::from_secs(30);

fn model(base_url: &str, key: Option<&str>) -> OpenAi {
    install_crypto();
    let key = key.map(|key| ApiKey::fixed(key.into()).expect("a key")).unwrap_or_default();
    OpenAi::new(http_client(HttpOptions::default()).expect("a client"), base_url, key)
}

fn request(turns: Vec<Turn>) -> ChatRequest {
    ChatRequest { model: "simulator".into(), turns, parameters: Parameters::default() }
}

fn user(prompt: &str) -> ChatRequest {
    request(vec![Turn::User(Content::Text(prompt.to_owned()))])
}

async fn ask(model: &OpenAi, request: ChatRequest) -> Outcome {
    let mut outcome = Outcome::default();
    let asked = async {
        let mut deltas = match model.answer(request.into()).await {
            Ok(deltas) => deltas,
            Err(error) => return outcome.error = Some(error),
        };
        while let Some(delta) = deltas.next().await {
            match delta {
                Ok(delta) => outcome.take(delta),
                Err(error) => {
                    outcome.error = Some(error);
                    assert!(deltas.next().await.is_none(), "an error is the end");
                    return;
                }
            }
        }
    };
    timeout(SOON, asked).await.expect("in time");
    outcome
}

/// The next delta that says something.
async fn next(deltas: &mut DeltaStream) -> Delta {
    loop {
        match deltas.next().await.expect("a delta").expect("no error") {
            Delta::Alive => {}
            delta => return delta,
        }
    }
}

async fn simulated(prompt: &str) -> Outcome {
    let simulator = TestSimulator::start().await;
    ask(&model(&simulator.url("/v1"), None), user(prompt)).await
}

/// A server that gives `answer` to one request and closes; the request is the
/// task's result.
async fn answering(answer: impl Into<Vec<u8>>) -> (String, tokio::task::JoinHandle<String>) {
    let answer = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
    let served = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let mut request = vec![0; 64 * 1024];
        let mut length = 0;
        while !request[..length].ends_with(b"}") {
            length += socket.read(&mut request[length..]).await.expect("a request");
        }
        let _ = socket.write_all(&answer).await;
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    (url, served)
}

fn events(chunks: &[&str]) -> String {
    let events: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{events}"
    )
}

fn error_of(outcome: &Outcome) -> (&'static str, bool) {
    let error = outcome.error.as_ref().expect("an error");
    (error.code, error.retryable)
}

#[tokio::test]
async fn text_finish_and_usage_arrive() {
    let outcome = simulated("hello [[tokens=50]]").await;
    assert!(outcome.answer.text.starts_with("I am a simulator; these words mean nothing."));
    assert_eq!(outcome.finish.as_deref(), Some("stop"));
    assert_eq!(outcome.usage.map(|usage| usage.completion_tokens), Some(50));
    assert_eq!(outcome.error, None);
}

#[tokio::test]
async fn any_text_in_any_pieces_is_exact() {
    let text = " \"quotes\"\r\n\u{2028}\t\\ 👩‍🚀🇪🇺 \u{85}é\r data: x\n\n[DONE]".repeat(100);
    for chunk in [1, 7, 0] {
        let outcome = simulated(&format!("[[chunk={chunk}]] [[echo]]{text}")).await;
        assert!(outcome.answer.text == text, "in chunks of {chunk}");
        assert_eq!(outcome.finish.as_deref(), Some("stop"));
    }
}

#[tokio::test]
async fn a_large_chunk_arrives_whole() {
    let text = "x".repeat(2 * 1024 * 1024);
    let outcome = simulated(&format!("[[chunk=0]][[echo]]{text}")).await;
    assert!(outcome.answer.text == text);
}

#[tokio::test]
async fn nul_is_replaced() {
    assert_eq!(simulated("[[echo]]a\0b").await.answer.text, "a\u{fffd}b");
}

#[tokio::test]
async fn reasoning_and_tool_calls_arrive() {
    let simulator = TestSimulator::start().await;
    let model = model(&simulator.url("/v1"), None);
    let prompt = "[[reasoning=9]][[tool=search]]";
    let outcome = ask(&model, user(prompt)).await;
    assert!(outcome.answer.reasoning.starts_with("Hmm, "));
    assert_eq!(outcome.answer.text, "");
    assert_eq!(outcome.finish.as_deref(), Some("tool_calls"));
    let [call] = &outcome.answer.tool_calls[..] else { panic!("one call: {outcome:?}") };
    assert_eq!(call.name.as_deref(), Some("search"));
    assert!(serde_json::from_str::<serde_json::Value>(&call.arguments).is_ok());

    let tool_call_id = call.id.clone().expect("an ID");
    let result = ToolResult { tool_call_id, content: "found".into() };
    let outcome = ask(
        &model,
        request(vec![
            Turn::User(Content::Text(prompt.into())),
            Turn::Assistant(AssistantTurn {
                tool_calls: outcome.answer.tool_calls,
                ..AssistantTurn::default()
            }),
            Turn::Tool(result),
        ]),
    )
    .await;
    assert_eq!(outcome.finish.as_deref(), Some("stop"));
    assert_ne!(outcome.answer.text, "");
}

#[tokio::test]
async fn a_busy_server_says_when_to_come_back_and_is_asked_once() {
    let simulator = TestSimulator::start().await;
    let model = model(&simulator.url("/v1"), None);
    let prompt = "[[fail=429*1]][[retry-after=2]]";
    let outcome = ask(&model, user(prompt)).await;
    assert_eq!(error_of(&outcome), (code::UPSTREAM_RATE_LIMITED, true));
    let error = outcome.error.expect("an error");
    assert_eq!(error.retry_after, Some(Duration::from_secs(2)));
    assert!(error.message.contains("the prompt asked for status 429"), "{error}");
    assert_eq!(ask(&model, user(prompt)).await.error, None);
    let stats = reqwest::Client::builder().no_proxy().build().expect("a client");
    let stats = stats.get(simulator.url("/stats?prompt=fail")).send().await.expect("an answer");
    let stats: serde_json::Value = stats.json().await.expect("JSON");
    assert_eq!(stats["calls"], 2);
    assert_eq!(stats["prompts"][0]["calls"], 2);
}

#[tokio::test]
async fn statuses_say_whether_repeating_helps() {
    for (status, expected) in [
        (500, (code::UPSTREAM_ERROR, true)),
        (503, (code::UPSTREAM_ERROR, true)),
        (408, (code::UPSTREAM_ERROR, true)),
        (400, (code::UPSTREAM_REJECTED, false)),
        (401, (code::UPSTREAM_REJECTED, false)),
    ] {
        assert_eq!(error_of(&simulated(&format!("[[fail={status}]]")).await), expected);
    }
    let simulator = TestSimulator::start().await;
    let outcome = ask(&model(&simulator.url("/wrong"), None), user("")).await;
    assert_eq!(error_of(&outcome), (code::UPSTREAM_REJECTED, false));
    assert!(outcome.error.expect("an error").message.contains("404"));
}

#[tokio::test]
async fn a_cut_is_an_error_and_what_came_before_is_kept() {
    let outcome = simulated("[[cut=3]]").await;
    assert_eq!(outcome.answer.text, "I am a");
    assert_eq!(outcome.finish, None);
    assert_eq!(error_of(&outcome), (code::UPSTREAM_UNAVAILABLE, true));
}

#[tokio::test]
async fn a_clean_end_without_a_reason_has_no_finish() {
    let outcome = simulated("[[eof=3]]").await;
    assert_eq!(error_of(&outcome), (code::UPSTREAM_INCOMPLETE, true));
    assert_eq!((outcome.finish, outcome.answer.text.as_str()), (None, "I am a"));
}

#[tokio::test]
async fn garbage_is_an_error_that_does_not_repeat_it() {
    let outcome = simulated("[[garbage=3]]").await;
    assert_eq!(error_of(&outcome), (code::UPSTREAM_MALFORMED, true));
    assert!(!outcome.error.expect("an error").message.contains("conte"));
    let mut no_text = events(&[]).into_bytes();
    no_text.extend(b"data: {\"choices\":[\xff]}\n\n");
    let (url, _) = answering(no_text).await;
    let outcome = ask(&model(&url, None), user("")).await;
    assert_eq!(error_of(&outcome), (code::UPSTREAM_MALFORMED, true));
}

#[tokio::test]
async fn a_chunk_of_another_form_is_not_repeated_either() {
    // serde's message has the whole text in it, however long.
    let secret = "what the user said".repeat(1000);
    let (url, _) = answering(events(&[&format!("{{\"choices\":\"{secret}\"}}")])).await;
    let outcome = ask(&model(&url, None), user("")).await;
    assert_eq!(error_of(&outcome), (code::UPSTREAM_INCOMPLETE, true));
    let message = outcome.error.expect("an error").message;
    assert!(!message.contains("the user said") && message.len() < 200, "{message}");
}

#[tokio::test]
async fn a_stall_is_silence_and_leaving_it_drops_the_connection() {
    let simulator = TestSimulator::start().await;
    let model = model(&simulator.url("/v1"), None);
    let mut deltas = model.answer(user("[[stall=2]]").into()).await.expect("an answer");
    for _ in 0..2 {
        timeout(SOON, next(&mut deltas)).await.expect("in time");
    }
    assert!(timeout(Duration::from_millis(200), next(&mut deltas)).await.is_err());
    drop(deltas);
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let stopped = async {
        loop {
            let stats = http.get(simulator.url("/stats")).send().await.expect("an answer");
            if stats.json::<serde_json::Value>().await.expect("JSON")["running"] == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, stopped).await.expect("the simulator noticed");
}

#[tokio::test]
async fn who_does_not_read_holds_the_server_up() {
    // More than the sockets hold; nothing of it may pile up here.
    let text = "x".repeat(12 * 1024 * 1024);
    let simulator = TestSimulator::start().await;
    let model = model(&simulator.url("/v1"), None);
    let prompt = format!("[[chunk=10000]][[ttft=100ms]][[echo]]{text}");
    let mut deltas = model.answer(user(&prompt).into()).await.expect("an answer");
    // Someone who waited for more, and then had other things to do.
    assert!(timeout(Duration::from_millis(10), next(&mut deltas)).await.is_err());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let stats = http.get(simulator.url("/stats")).send().await.expect("an answer");
    assert_eq!(stats.json::<serde_json::Value>().await.expect("JSON")["running"], 1);
    // And it goes on when there is time for it.
    let some = async {
        let mut length = 0;
        while length < 1024 * 1024 {
            match deltas.next().await.expect("more").expect("no error") {
                Delta::Text(text) => length += text.len(),
                Delta::Alive => {}
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(SOON, some).await.expect("in time");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let outcome = ask(&model(&format!("http://{address}/v1"), None), user("")).await;
    assert_eq!(error_of(&outcome), (code::UPSTREAM_UNAVAILABLE, true));
    let message = outcome.error.expect("an error").message;
    assert!(message.contains("refused") && !message.contains("127.0.0.1:"), "{message}");
}

#[tokio::test]
async fn the_next_call_uses_the_same_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
    // One connection only; the body's end comes some time after [DONE].
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let mut request = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = socket.read(&mut request).await {
            if !request[..length].ends_with(b"}") {
                continue;
            }
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let chunk = r#"data: {"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
            let events = format!("{chunk}\n\ndata: [DONE]\n\n");
            let done = format!("{head}{:x}\r\n{events}\r\n", events.len());
            socket.write_all(done.as_bytes()).await.expect("sent");
            tokio::time::sleep(Duration::from_millis(20)).await;
            socket.write_all(b"0\r\n\r\n").await.expect("sent");
        }
    });
    let model = model(&url, None);
    for _ in 0..3 {
        let outcome = ask(&model, user("")).await;
        assert_eq!((outcome.finish.as_deref(), outcome.error), (Some("stop"), None));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn an_error_inside_the_stream_ends_it() {
    let text = r#"{"choices":[{"delta":{"content":"so"}}]}"#;
    let error = r#"{"error":{"message":"overloaded","code":"server_error"}}"#;
    let (url, _) = answering(events(&[text, error, text])).await;
    let outcome = ask(&model(&url, None), user("")).await;
    assert_eq!(outcome.answer.text, "so");
    assert_eq!(error_of(&outcome), (code::UPSTREAM_ERROR, true));
}

#[tokio::test]
async fn what_is_no_event_stream_is_malformed() {
    let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: 8\r\n\r\n<p>hi</p";
    let (url, _) = answering(page).await;
    let outcome = ask(&model(&url, None), user("")).await;
    assert_eq!(error_of(&outcome), (code::UPSTREAM_MALFORMED, true));
    assert!(outcome.error.expect("an error").message.contains("base URL"));
}

#[tokio::test]
async fn an_event_without_end_is_given_up() {
    let mut endless = events(&[]);
    endless.push_str("data: ");
    endless.push_str(&"x".repeat(9 * 1024 * 1024));
    let (url, _) = answering(endless).await;
    let outcome = ask(&model(&url, None), user("")).await;
    assert_eq!(error_of(&outcome), (code::UPSTREAM_MALFORMED, true));
}

#[tokio::test]
async fn the_key_goes_to_the_server_and_into_no_message() {
    let echo = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 45\r\n\r\n\
                {\"error\":{\"message\":\"bad key sk-verysecret\"}}";
    let (url, served) = answering(echo).await;
    let model = model(&url, Some("sk-verysecret"));
    let outcome = ask(&model, user("hi")).await;
    let sent = served.await.expect("a request").to_lowercase();
    assert!(sent.starts_with("post /v1/chat/completions "), "{sent}");
    assert!(sent.contains("authorization: bearer sk-verysecret"));
    assert!(sent.contains(r#""include_usage":true"#) && sent.contains(r#""stream":true"#));
    assert!(!format!("{outcome:?} {model:?}").contains("verysecret"));
    assert_eq!(outcome.error.expect("an error").message, "401 Unauthorized: bad key [secret]");

    let (url, served) = answering(events(&[])).await;
    ask(&self::model(&url, None), user("hi")).await;
    assert!(!served.await.expect("a request").to_lowercase().contains("authorization"));
}
