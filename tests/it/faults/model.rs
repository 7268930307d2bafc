//! A model that sends rubbish, floods, or takes for ever: what of it reaches
//! readers is exact, and every task ends with the right code.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::in_both_modes;
use crate::support::{App, Builder, Cut, Posted, Reader};

/// One HTTP response of the model's server, whole.
type Response = Vec<u8>;

/// A model's server that answers its calls with `responses`, the last of them
/// again and again. It understands nothing of what it is asked.
async fn model(responses: Vec<Response>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let responses = Arc::new(responses);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let call = counted.fetch_add(1, Ordering::SeqCst);
            let responses = responses.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 64 * 1024];
                // The prompts here are small: one read has all of it.
                let _ = socket.read(&mut request).await;
                let response = &responses[call.min(responses.len() - 1)];
                let _ = socket.write_all(response).await;
                let _ = socket.shutdown().await;
                // Until the client has read it.
                let _ = socket.read(&mut request).await;
            });
        }
    });
    (url, calls)
}

fn response(kind: &str, body: &[u8]) -> Response {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn events(body: &[u8]) -> Response {
    response("text/event-stream", body)
}

fn chunk(delta: &Value, finish: Option<&str>) -> Vec<u8> {
    let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
    let chunk = json!({ "id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice] });
    format!("data: {chunk}\n\n").into_bytes()
}

fn says(text: &str) -> Vec<u8> {
    chunk(&json!({ "content": text }), None)
}

fn ends() -> Vec<u8> {
    [chunk(&json!({}), Some("stop")), b"data: [DONE]\n\n".to_vec()].concat()
}

fn whole(text: &str) -> Response {
    events(&[says(text), ends()].concat())
}

async fn app_with(responses: Vec<Response>) -> (App, Arc<AtomicUsize>) {
    let (url, calls) = model(responses).await;
    let app =
        App::builder().with("OPENAI_BASE_URL", &url).with("RILL_RETRY_BASE", "20ms").start().await;
    (app, calls)
}

fn code(reader: &Reader) -> Value {
    let end = reader.end.as_ref().expect("ended");
    serde_json::from_str::<Value>(&end.data).expect("JSON")["code"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_retried_and_never_passed_on() {
    let html = b"<html><body>502 Bad Gateway</body></html>";
    let kinds: [(&str, Response); 10] = [
        ("not JSON", events(b"data: {\"choices\": oops}\n\n")),
        ("cut JSON", events(b"data: {\"choices\":[{\"index\":0,\"del\n\n")),
        ("an error in words", events(b"data: Internal server error\n\n")),
        ("an HTML page", response("text/html", html)),
        ("an HTML page that says it is a stream", events(html)),
        ("JSON", response("application/json", b"{\"choices\":[]}")),
        ("bytes", response("application/octet-stream", &[0, 159, 146, 150].repeat(5000))),
        ("other JSON", events(b"data: [1, 2, 3]\n\ndata: \"text\"\n\n")),
        ("nothing", events(b"")),
        ("not HTTP", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
    ];
    let all = kinds.into_iter().map(|(kind, garbage)| async move {
        let after_text = match garbage.starts_with(b"HTTP") {
            true => {
                let body = garbage.windows(4).position(|at| at == b"\r\n\r\n").expect("a head") + 4;
                events(&[&says("half an ")[..], &garbage[body..]].concat())
            }
            false => garbage.clone(),
        };
        let responses = vec![garbage, after_text, whole("exactly é this")];
        let (app, calls) = app_with(responses).await;
        let posted = app.say("well?").await;
        let reader = app.read(&posted).await;
        assert_eq!(
            reader.end.as_ref().expect("ended").event,
            "done",
            "{kind}: {:?}",
            reader.events
        );
        assert_eq!(reader.answer.text, "exactly é this", "{kind}");
        assert_eq!(reader.answer, app.stored(&posted).await, "{kind}");
        assert_eq!(calls.load(Ordering::SeqCst), 3, "{kind}");
        assert!(app.log_is_clean() && !app.workers[0].log().contains("ERROR"), "{kind}");
    });
    futures_util::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_without_end_fails_with_its_code() {
    let (app, calls) = app_with(vec![events(b"data: {oops\n\n")]).await;
    let reader = app.read(&app.say("well?").await).await;
    assert_eq!(code(&reader), "upstream_malformed");
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

/// A NUL is JSON's to carry, and PostgreSQL's to refuse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_with_a_nul_is_streamed_and_kept() {
    let (app, calls) = app_with(vec![whole("before\0after")]).await;
    let posted = app.say("well?").await;
    let reader = app.read(&posted).await;
    assert_eq!(reader.answer.text, "before\u{fffd}after");
    assert_eq!(reader.answer, app.stored(&posted).await);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_ten_megabytes_fails_with_its_code() {
    let text = "0123456789".repeat(1_000_000);
    // A line that never ends, and one that does.
    let endless = events(&[b"data: ".as_slice(), text.as_bytes()].concat());
    let (app, calls) = app_with(vec![events(&says(&text)), endless]).await;
    let posted = app.say("well?").await;
    let reader = app.read(&posted).await;
    assert_eq!(code(&reader), "upstream_malformed");
    assert_eq!(reader.answer, app.stored(&posted).await);
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_in_two_large_events_is_exact() {
    let text = "0123456é ".repeat(150_000);
    let more = "9876543ö\n".repeat(150_000);
    let body = [says(&text), says(""), says(&more), ends()].concat();
    let (app, calls) = app_with(vec![events(&body)]).await;
    let posted = app.say("well?").await;
    let reader = app.read(&posted).await;
    assert_eq!(reader.end.as_ref().expect("ended").event, "done");
    assert!(reader.answer.text == format!("{text}{more}"), "{} bytes", reader.answer.text.len());
    assert!(app.stored(&posted).await == reader.answer, "PostgreSQL's text differs");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

in_both_modes! {
    async fn five_thousand_tokens_a_second_are_exact(builder: Builder) {
        let app = builder.start().await;
        let posted = app.say("[[tokens=15000]] [[rate=5000]]").await;
        let mut cut = app.reader(&posted);
        let cuts = [Cut::AfterBytes(10_000), Cut::AfterBytes(77_777), Cut::AfterEvents(100)];
        let (whole, ()) = tokio::join!(app.read(&posted), cut.follow(cuts));
        let stored = app.stored(&posted).await;
        assert_eq!(whole.end.as_ref().expect("ended").event, "done");
        assert!(whole.answer == stored && cut.answer == stored, "a text differs from PostgreSQL's");
        let state = app.task(&posted).await;
        assert_eq!((&state["attempts"], &state["usage"]["completion_tokens"]), (&1.into(), &15_000.into()));
        println!("15,000 tokens at 5,000 a second: {} events", whole.events.len());
    }

    /// Hours, scaled down: the answer takes many leases, stream TTLs and idle
    /// time-outs.
    async fn an_answer_that_outlives_every_timeout_is_whole(builder: Builder) {
        let app = builder
            .workers(2)
            .with("RILL_LEASE", "600ms")
            .with("RILL_HEARTBEAT", "150ms")
            .with("RILL_MODEL_IDLE_TIMEOUT", "1s")
            .with("RILL_RETRY_MAX", "500ms")
            .with("RILL_STREAM_TTL", "3s")
            .with("RILL_PING_INTERVAL", "100ms")
            .with("RILL_STREAM_MAXLEN", "100")
            .start()
            .await;
        let posted = app.say("[[tokens=32]] [[rate=4]]").await;
        let live = app.read(&posted);
        let often = follow_often(&app, &posted);
        let (live, often) = tokio::join!(live, often);
        let stored = app.stored(&posted).await;
        assert_eq!(live.end.as_ref().expect("ended").event, "done");
        assert!(live.answer == stored && often.answer == stored, "a text differs from PostgreSQL's");
        let state = app.task(&posted).await;
        assert_eq!((&state["attempts"], &state["failures"]), (&1.into(), &0.into()), "{state}");
    }
}

/// Comes back after every fifth event.
async fn follow_often(app: &App, posted: &Posted) -> Reader {
    let mut reader = app.reader(posted);
    reader.follow(std::iter::repeat_n(Cut::AfterEvents(5), 100)).await;
    reader
}
