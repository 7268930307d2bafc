//! Requests in odd forms that HTTP allows: each is answered, rightly, and the
//! connection goes on.

use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{App, within};

/// Sends a text, and gives what comes until `done` says that it is all.
async fn exchange(app: &App, request: &str, done: impl Fn(&str) -> bool) -> String {
    let address = app.url.strip_prefix("http://").expect("an address");
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let read = async {
        while !done(&String::from_utf8_lossy(&answer)) {
            if socket.read_buf(&mut answer).await.expect("bytes") == 0 {
                break;
            }
        }
    };
    within("an answer", read).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Everything up to the connection's end.
async fn last(app: &App, request: &str) -> String {
    exchange(app, request, |_| false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_stands_there_twice_counts_once() {
    let app = App::start().await;
    let posted = app.say("[[tokens=5]]").await;
    let whole = app.read(&posted).await;
    assert!(!whole.answer.text.is_empty());
    let ask = |headers: &str| {
        let path = &posted.stream_url;
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
    };
    for same in [
        "Last-Event-ID: 1-2\r\nLast-Event-ID: 1-2\r\n",
        "Last-Event-ID: 1-2, 1-2\r\n",
        "last-event-id: 1-2\r\nLAST-EVENT-ID:1-2,1-2\r\n",
        "Last-Event-ID: \r\nLast-Event-ID:  1-2 \r\n",
    ] {
        let answer = last(&app, &ask(same)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let first = answer.lines().find(|line| line.starts_with("id: ")).expect("an event");
        assert_eq!(first, "id: 1-3", "{same}");
        assert!(answer.contains("event: done"), "{answer}");
        assert!(answer.contains("cache-control: no-store, no-transform\r\n"), "{answer}");
    }
    let answer = last(&app, &ask("Last-Event-ID: 1-2\r\nLast-Event-ID: 1-3\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("they differ"), "{answer}");
    for none in
        ["Last-Event-ID: \r\n", "Last-Event-ID:\r\nLast-Event-ID:\r\n", "Last-Event-ID: ,\r\n"]
    {
        let answer = last(&app, &ask(none)).await;
        assert!(answer.contains("event: started"), "{none} {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_odd_body_is_taken_or_refused_with_what_to_send() {
    let app = App::builder().workers(0).start().await;
    let post = |headers: &str, body: &str| {
        format!(
            "POST /v1/conversations HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n{body}"
        )
    };
    let json = "Content-Type: application/json\r\n";
    for (headers, body, status, code) in [
        ("Content-Length: 2\r\n", "{}", 201, ""),
        ("Transfer-Encoding: chunked\r\n", "1\r\n{\r\n1;x=y\r\n}\r\n0\r\nx: y\r\n\r\n", 201, ""),
        ("Content-Encoding: identity\r\nContent-Length: 2\r\n", "{}", 201, ""),
        ("Content-Length: 5\r\n", "\u{feff}{}", 201, ""),
        (
            "Content-Encoding: gzip\r\nContent-Length: 2\r\n",
            "\x1f\x08",
            415,
            "unsupported_content_encoding",
        ),
        (
            "Transfer-Encoding: gzip, chunked\r\n",
            "1\r\nx\r\n0\r\n\r\n",
            415,
            "unsupported_content_encoding",
        ),
        ("Content-Length: 0\r\n", "", 400, "invalid_json"),
        ("", "", 400, "invalid_json"),
    ] {
        let answer = last(&app, &post(&format!("{json}{headers}"), body)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{headers}: {answer}");
        assert!(answer.contains(code), "{headers}: {answer}");
    }
    // Refused by what it says of itself: nobody is asked to send it.
    let expecting = "Expect: 100-continue\r\nContent-Length: 2\r\n";
    let refused = post(&format!("Content-Type: text/plain\r\n{expecting}"), "");
    let answer = last(&app, &refused).await;
    assert!(answer.starts_with("HTTP/1.1 415"), "{answer}");
    let large = post(&format!("{json}Expect: 100-continue\r\nContent-Length: 9999999\r\n"), "");
    assert!(last(&app, &large).await.starts_with("HTTP/1.1 413"));
    let asked = post(&format!("{json}{expecting}"), "");
    let answer = exchange(&app, &asked, |answer| answer.ends_with("\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 100"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_head_and_options_and_keeps_its_connection() {
    let app = App::start().await;
    let posted = app.say("[[tokens=3]]").await;
    app.reaches(&posted, "done").await;
    let (_, document) = app.get("/openapi.json").await;
    let mut paths =
        vec!["/".to_owned(), "/docs".into(), "/assets/app.js".into(), "/metrics".into()];
    paths.extend(document["paths"].as_object().expect("paths").keys().cloned());
    let next = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for path in paths {
        let path = path.replace("{task_id}", &posted.task);
        let path = path.replace("{conversation_id}", &posted.conversation);
        let url = format!("{}{path}", app.url);
        let get = app.client.get(&url).send().await.expect("an answer").status();
        let head = app.client.head(&url).send().await.expect("an answer");
        assert_eq!(head.status(), get, "{path}");
        // A body would be taken for the next answer.
        let request = format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n{next}");
        let answers = last(&app, &request).await;
        let (_, after) = answers.split_once("\r\n\r\n").expect("a head");
        assert!(
            after.starts_with("HTTP/1.1 200") && after.contains("simulator"),
            "{path}: {answers}"
        );
        let options = app.client.request(Method::OPTIONS, &url).send().await.expect("an answer");
        assert_eq!(options.status(), 405, "{path}");
        assert!(options.headers().contains_key("allow"), "{path}");
        let problem: Value = options.json().await.expect("JSON");
        assert_eq!(problem["code"], "method_not_allowed");
    }
}
