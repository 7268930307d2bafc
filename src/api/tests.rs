//! The API without its stores: every way to ask wrongly, and what an outage
//! answers. What is right, the integration tests show.

mod client;

use std::sync::OnceLock;

use metrics_exporter_prometheus::PrometheusBuilder;
use poem::http::{Method, StatusCode};
use serde_json::{Value, json};

use self::client::{TestClient, TestResponse};
use super::*;
use crate::model::catalog;
use crate::store::Store;
use crate::streams::Streams;

/// A component's options, as the command line would have them.
fn options<O: clap::Args>(arguments: &[&str]) -> O {
    let command = O::augment_args(clap::Command::new("rill").no_binary_name(true));
    O::from_arg_matches(&command.get_matches_from(arguments)).expect("options")
}

/// An API whose PostgreSQL and Redis are not there: nobody listens on port 1.
fn client(arguments: &[&str]) -> TestClient<impl Endpoint<Output = Response>> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let stop = CancellationToken::new();
    let store = Store::new(&options(&["--database-url=postgres://rill@127.0.0.1:1/none"]));
    let streams = Streams::start(&options(&["--redis-url=redis://127.0.0.1:1"]), stop.clone());
    let models = ["--openai-base-url=http://127.0.0.1:1/v1", "--model=small", "--model=large"];
    let catalog = options::<catalog::Options>(&models).catalog();
    let tasks = Tasks::new(store.expect("a URL"), streams.expect("a URL"), None, &options(&[]));
    TestClient::new(endpoint(State {
        tasks,
        catalog: Arc::new(catalog.expect("models")),
        metrics: PrometheusBuilder::new().build_recorder().handle(),
        responses: super::Responses::new(1024 * 1024),
        shutdown: stop,
        listening: "127.0.0.1:8080".parse().expect("an address"),
        options: Arc::new(options(&[&["--max-body=2048"], arguments].concat())),
    }))
}

const ID: &str = "01990000-0000-7000-8000-000000000000";

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| serde_json::from_str(&openapi_document()).expect("JSON"))
}

/// The problem has this status and code, and everything that all problems have.
async fn problem(response: TestResponse, status: u16, code: &str) -> Value {
    let id = response.0.header("x-request-id").expect("an ID").to_owned();
    let (media_type, got) = (response.0.content_type().map(str::to_owned), response.0.status());
    let text = response.0.into_body().into_string().await.expect("a body");
    assert_eq!(
        (got.as_u16(), media_type.as_deref()),
        (status, Some("application/problem+json")),
        "{text}"
    );
    let body: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(body["code"], code, "{body}");
    assert_eq!(body["status"], status);
    assert_eq!(body["request_id"], id);
    assert_eq!(body["type"], format!("urn:rill:problem:{code}"));
    for text in ["title", "detail"] {
        assert!(body[text].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    }
    body
}

/// The document says that this operation can answer so.
fn assert_documented(method: &Method, path: &str, status: u16, code: &str) {
    let path = path.split('?').next().unwrap_or_default().replace("/not-a-uuid", &format!("/{ID}"));
    let parameter = if path.starts_with("/v1/tasks") { "{task_id}" } else { "{conversation_id}" };
    let operation =
        &document()["paths"][path.replace(ID, parameter)][method.as_str().to_lowercase()];
    let description = &operation["responses"][status.to_string()]["description"];
    let described = description.as_str().unwrap_or_default();
    assert!(
        described.contains(&format!("`{code}`")),
        "{method} {path}: {status} {code}: {description}"
    );
}

#[tokio::test]
async fn every_bad_body_is_refused_with_its_code() {
    let client = client(&[]);
    let messages = format!("/v1/conversations/{ID}/messages");
    let conversation = format!("/v1/conversations/{ID}");
    let post = Method::POST;
    let patch = Method::PATCH;
    let long = "x".repeat(501);
    let cases: Vec<(&Method, &str, Value, &str)> = vec![
        (&post, "/v1/conversations", json!({"title": 5}), "invalid_body"),
        (&post, "/v1/conversations", json!({"titel": "x"}), "invalid_body"),
        (&post, "/v1/conversations", json!([]), "invalid_body"),
        (&post, "/v1/conversations", json!(null), "invalid_body"),
        (&post, "/v1/conversations", json!({"title": ""}), "invalid_body"),
        (&post, "/v1/conversations", json!({"title": long}), "invalid_body"),
        (&post, "/v1/conversations", json!({"title": "a\0"}), "invalid_text"),
        (&patch, &conversation, json!({"instructions": ""}), "invalid_body"),
        (&patch, &conversation, json!({"instructions": "\0"}), "invalid_text"),
        (&post, &messages, json!({}), "invalid_body"),
        (&post, &messages, json!({"content": null}), "invalid_body"),
        (&post, &messages, json!({"content": 5}), "invalid_body"),
        (&post, &messages, json!({"content": "x", "tool_results": []}), "invalid_body"),
        (&post, &messages, json!({"content": ""}), "empty_content"),
        (&post, &messages, json!({"content": []}), "empty_content"),
        (&post, &messages, json!({"content": [{"type": "text", "text": ""}]}), "empty_content"),
        (&post, &messages, json!({"content": [{"type": "video"}]}), "invalid_body"),
        (&post, &messages, json!({"content": [{"type": "text", "txt": "x"}]}), "invalid_body"),
        (
            &post,
            &messages,
            json!({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
            "invalid_body",
        ),
        (&post, &messages, json!({"content": "a\0b"}), "invalid_text"),
        (&post, &messages, json!({"content": "x", "tools": [{"\0": 1}]}), "invalid_text"),
        (&post, &messages, json!({"content": "x", "temprature": 1}), "invalid_body"),
        (&post, &messages, json!({"content": "x", "temperature": 2.5}), "invalid_body"),
        (&post, &messages, json!({"content": "x", "temperature": "hot"}), "invalid_body"),
        (&post, &messages, json!({"content": "x", "max_tokens": -1}), "invalid_body"),
        (&post, &messages, json!({"content": "x", "stop": 5}), "invalid_body"),
        (
            &post,
            &messages,
            json!({"content": "x", "response_format": {"type": "xml"}}),
            "invalid_body",
        ),
        (&post, &messages, json!({"content": "x", "model": "huge"}), "unknown_model"),
        (&post, &messages, json!({"tool_results": [{"tool_call_id": "a"}]}), "invalid_body"),
        (&post, &messages, json!({"tool_results": []}), "invalid_body"),
    ];
    for (method, path, body, code) in cases {
        let response = client.request(method.clone(), path).body_json(&body).send().await;
        let refused = problem(response, 422, code).await;
        assert!(refused["errors"].as_array().is_some_and(|errors| !errors.is_empty()), "{refused}");
        assert_documented(method, path, 422, code);
    }
}

#[tokio::test]
async fn a_refusal_says_where_and_what_would_be_right() {
    let client = client(&[]);
    let messages = format!("/v1/conversations/{ID}/messages");
    let refuse = async |body: Value| {
        let response = client.post(&messages).body_json(&body).send().await;
        let body: Value =
            serde_json::from_slice(&response.0.into_body().into_bytes().await.expect("a body"))
                .expect("JSON");
        (
            body["errors"][0]["pointer"].clone(),
            body["errors"][0]["detail"].as_str().expect("text").to_owned(),
        )
    };
    let (_, detail) = refuse(json!({"content": "x", "temprature": 1})).await;
    assert!(detail.contains("`temprature`") && detail.contains("`temperature`"), "{detail}");
    let (pointer, detail) = refuse(json!({"content": "x", "model": "huge"})).await;
    assert_eq!(pointer, "/model");
    assert!(detail.contains("small, large"), "{detail}");
    let tools = json!([{"type": "function", "function": {"name": 5}}]);
    let (pointer, _) = refuse(json!({"content": "x", "tools": tools})).await;
    assert_eq!(pointer, "/tools/0/function/name");
    let (pointer, detail) = refuse(json!({"content": [{"type": "text", "text": 5}]})).await;
    assert_eq!(pointer, "/content/0/text");
    assert!(detail.contains("expected a string"), "{detail}");
    let (_, detail) = refuse(json!({"content": "x", "stop": {"long": "x".repeat(1500)}})).await;
    assert!(detail.len() < 1100);
}

#[tokio::test]
async fn what_is_not_even_json_is_refused() {
    let client = client(&[]);
    let post = |body: Vec<u8>, media_type: &str| {
        client.post("/v1/conversations").header("content-type", media_type).body(body).send()
    };
    let json = "application/json; charset=utf-8";
    for odd in ["", "{", "{\"title\": \"\\ud800\"}", "{} {}", &"[".repeat(1000)] {
        problem(post(odd.into(), json).await, 400, "invalid_json").await;
    }
    problem(post(b"{\"title\": \"\xff\"}".to_vec(), json).await, 400, "invalid_json").await;
    problem(post(b"{}".to_vec(), "text/plain").await, 415, "unsupported_media_type").await;
    problem(
        client.post("/v1/conversations").body("{}").send().await,
        415,
        "unsupported_media_type",
    )
    .await;
    problem(post(vec![b' '; 2049], json).await, 413, "body_too_large").await;
    for (status, code) in [
        (400, "invalid_json"),
        (415, "unsupported_media_type"),
        (413, "body_too_large"),
        (408, "body_timeout"),
    ] {
        assert_documented(&Method::POST, "/v1/conversations", status, code);
    }
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let client = client(&["--body-timeout=50ms"]);
    let never = poem::Body::from_bytes_stream(futures_util::stream::pending::<
        std::io::Result<bytes::Bytes>,
    >());
    let response =
        client.post("/v1/conversations").content_type("application/json").body(never).send().await;
    problem(response, 408, "body_timeout").await;
}

#[tokio::test]
async fn bodies_together_hold_no_more_than_is_allowed_and_give_it_back() {
    let client = client(&["--body-memory=3000"]);
    let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<bytes::Bytes>>(1);
    let pieces = futures_util::stream::unfold(receiver, async |mut receiver| {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    let slow = client.post("/v1/conversations").content_type("application/json");
    let slow = slow.body(poem::Body::from_bytes_stream(pieces)).send();
    let others = async {
        let piece = |bytes| sender.send(Ok(bytes::Bytes::from(vec![b' '; bytes])));
        piece(2_000).await.expect("it is read");
        // The channel holds one: that it takes a third means that the first was read.
        piece(0).await.expect("it is read");
        piece(0).await.expect("it is read");
        let post = |bytes: usize| {
            let request = client.post("/v1/conversations").content_type("application/json");
            request.body(vec![b'x'; bytes]).send()
        };
        let crowded = post(1_001).await;
        crowded.assert_header("retry-after", "1");
        problem(crowded, 503, "unavailable").await;
        problem(post(1_000).await, 400, "invalid_json").await;
        drop(sender);
    };
    let (slow, ()) = tokio::join!(slow, others);
    problem(slow, 400, "invalid_json").await;
    let last = client.post("/v1/conversations").content_type("application/json");
    problem(last.body(vec![b'x'; 2_048]).send().await, 400, "invalid_json").await;
}

#[tokio::test]
async fn every_bad_parameter_is_refused_with_its_code() {
    let client = client(&[]);
    let stream = format!("/v1/tasks/{ID}/stream");
    let cases = [
        (Method::GET, "/v1/conversations?limit=0".to_owned(), "invalid_parameter"),
        (Method::GET, "/v1/conversations?limit=101".to_owned(), "invalid_parameter"),
        (Method::GET, "/v1/conversations?limit=ten".to_owned(), "invalid_parameter"),
        (Method::GET, "/v1/conversations?cursor=xyz".to_owned(), "malformed_cursor"),
        (Method::GET, format!("/v1/conversations/{ID}/messages?cursor=-1"), "malformed_cursor"),
        (Method::GET, "/v1/conversations/not-a-uuid".to_owned(), "invalid_parameter"),
        (Method::DELETE, "/v1/conversations/not-a-uuid".to_owned(), "invalid_parameter"),
        (Method::GET, "/v1/tasks/not-a-uuid".to_owned(), "invalid_parameter"),
        (Method::POST, "/v1/tasks/not-a-uuid/cancel".to_owned(), "invalid_parameter"),
        (Method::GET, "/v1/tasks/not-a-uuid/stream".to_owned(), "invalid_parameter"),
        (Method::GET, format!("{stream}?last_event_id=abc"), "malformed_cursor"),
        (Method::GET, format!("{stream}?last_event_id=1-2-3"), "malformed_cursor"),
    ];
    for (method, path, code) in cases {
        problem(client.request(method.clone(), &path).send().await, 400, code).await;
        assert_documented(&method, &path, 400, code);
    }
    let response = client.get(&stream).header("Last-Event-ID", "1").send().await;
    problem(response, 400, "malformed_cursor").await;
    let messages = format!("/v1/conversations/{ID}/messages");
    for key in ["", "a b", &"k".repeat(256)] {
        let request = client.post(&messages).header("Idempotency-Key", key);
        let response = request.body_json(&json!({"content": "x"})).send().await;
        problem(response, 400, "invalid_parameter").await;
    }
}

#[tokio::test]
async fn a_bad_parameter_of_a_path_is_called_by_its_name() {
    let client = client(&[]);
    for (path, name) in [
        ("/v1/tasks/17", "task_id"),
        ("/v1/tasks/17/stream", "task_id"),
        ("/v1/conversations/17", "conversation_id"),
        ("/v1/conversations/17/messages", "conversation_id"),
    ] {
        let refused = problem(client.get(path).send().await, 400, "invalid_parameter").await;
        let detail = refused["detail"].as_str().expect("text");
        assert!(detail.starts_with(&format!("{name} in the path: ")), "{detail}");
    }
}

#[tokio::test]
async fn unknown_query_parameters_are_refused_with_the_names_that_are_known() {
    let client = client(&[]);
    let task = format!("/v1/tasks/{ID}");
    for (method, path, says) in [
        (Method::GET, "/v1/conversations?limit=5&page=2".to_owned(), "limit, cursor"),
        (Method::GET, "/v1/conversations?Limit=5".to_owned(), "limit, cursor"),
        (Method::GET, "/v1/conversations?".to_owned() + &"a&".repeat(1000), "limit, cursor"),
        (Method::GET, "/v1/conversations?limit=5&limit=6".to_owned(), "limit"),
        (Method::HEAD, "/v1/models?all".to_owned(), ""),
        (Method::GET, "/v1/models?all=1".to_owned(), "takes none"),
        (Method::POST, format!("{task}/cancel?now=1"), "takes none"),
        (Method::GET, format!("{task}/stream?last-event-id=1-2"), "last_event_id, lastEventId"),
        (Method::GET, format!("{task}/stream?lasteventid=1-2"), "last_event_id, lastEventId"),
    ] {
        let response = client.request(method.clone(), &path).send().await;
        let refused = problem(response, 400, "invalid_parameter").await;
        assert!(refused["detail"].as_str().is_some_and(|text| text.contains(says)), "{refused}");
        if method != Method::HEAD {
            assert_documented(&method, &path, 400, "invalid_parameter");
        }
    }
    // The same twice says nothing else; what is outside of /v1 takes no parameters and passes them over.
    for path in
        ["/v1/models?", "/healthz?verbose", "/?utm_source=x", "/metrics?a=1", "/openapi.json?v=2"]
    {
        client.get(path).send().await.assert_status_is_ok();
    }
    let twice = format!("{task}/stream?last_event_id=1-2&last_event_id=1-2");
    problem(client.get(&twice).send().await, 503, "unavailable").await;
    for cursor in ["last_event_id=1", "lastEventId=1", "last_event_id=1-2&lastEventId=1"] {
        let path = format!("{task}/stream?{cursor}");
        problem(client.get(&path).send().await, 400, "malformed_cursor").await;
    }
}

#[tokio::test]
async fn a_body_that_is_encoded_is_refused_and_told_so() {
    let client = client(&[]);
    let post = |name: &str, value: &str| {
        let request = client.post("/v1/conversations").content_type("application/json");
        request.header(name, value).body("{}").send()
    };
    for coding in ["gzip", "br", "deflate", "Zstd", "identity, gzip"] {
        let response = post("content-encoding", coding).await;
        response.assert_header("accept-encoding", "identity");
        let refused = problem(response, 415, "unsupported_content_encoding").await;
        assert!(
            refused["detail"].as_str().is_some_and(|text| text.contains("content-encoding")),
            "{refused}"
        );
    }
    problem(post("content-encoding", "identity").await, 503, "unavailable").await;
    assert_documented(&Method::POST, "/v1/conversations", 415, "unsupported_content_encoding");
    let json = |media_type: &str, body: &'static [u8]| {
        client.post("/v1/conversations").content_type(media_type).body(body).send()
    };
    let refused = json("application/json; charset=latin1", b"{}").await;
    let refused = problem(refused, 415, "unsupported_media_type").await;
    assert!(refused["detail"].as_str().is_some_and(|text| text.contains("UTF-8")), "{refused}");
    // A byte order mark is passed over; one of UTF-16 is not JSON in UTF-8.
    problem(json("application/json", b"\xef\xbb\xbf{}").await, 503, "unavailable").await;
    problem(json("application/json", b"\xff\xfe{\0}\0").await, 400, "invalid_json").await;
}

#[tokio::test]
async fn a_path_with_a_slash_too_many_is_told_so() {
    let client = client(&[]);
    for (path, says) in [("/v1/models/", "slash"), ("/v1/nothing/", "openapi.json")] {
        let refused = problem(client.get(path).send().await, 404, "unknown_path").await;
        assert!(refused["detail"].as_str().is_some_and(|text| text.contains(says)), "{refused}");
    }
    let long = format!("/{}", "x".repeat(10_000));
    let refused = problem(client.get(&long).send().await, 404, "unknown_path").await;
    assert!(refused.to_string().len() < 1_000);
}

#[tokio::test]
async fn the_base_path_is_in_every_reference() {
    let client = client(&["--public-url=https://example.com/chat/"]);
    for prefix in ["", "/chat"] {
        for path in ["/", "/assets/app.js", "/docs", "/v1/models", "/healthz", "/openapi.json"] {
            client.get(format!("{prefix}{path}")).send().await.assert_status_is_ok();
        }
    }
    let response = client.get("/chat").send().await;
    response.assert_status(StatusCode::PERMANENT_REDIRECT);
    response.assert_header("location", "/chat/");
    let text = async |path: &str| {
        client.get(path).send().await.0.into_body().into_string().await.expect("text")
    };
    let document: Value = serde_json::from_str(&text("/openapi.json").await).expect("JSON");
    assert_eq!(document["servers"][0]["url"], "https://example.com/chat");
    assert!(text("/docs").await.contains("https://example.com/chat"));
    // What the page loads stands beside it, wherever it is.
    let page = text("/").await;
    let references =
        ["href=\"", "src=\""].map(|name| page.split(name).skip(1)).into_iter().flatten();
    for reference in references.map(|rest| rest.split('"').next().expect("a reference")) {
        assert!(!reference.starts_with('/'), "{reference}");
    }
}

#[tokio::test]
async fn a_foreign_page_is_refused_with_the_option_that_would_allow_it() {
    let client = client(&[]);
    let refused = client.get("/v1/models").header("host", "evil.example").send().await;
    let refused = problem(refused, 421, "unknown_host").await;
    assert!(
        refused["detail"].as_str().is_some_and(|text| text.contains("--public-url")),
        "{refused}"
    );
    for (method, path) in [
        (Method::POST, "/v1/conversations".to_owned()),
        (Method::PATCH, format!("/v1/conversations/{ID}")),
        (Method::DELETE, format!("/v1/conversations/{ID}")),
        (Method::POST, format!("/v1/conversations/{ID}/messages")),
        (Method::POST, format!("/v1/tasks/{ID}/cancel")),
    ] {
        let request = client.request(method.clone(), &path).content_type("text/plain");
        let request =
            request.header("host", "127.0.0.1:8080").header("origin", "https://evil.example");
        let refused = problem(request.send().await, 403, "foreign_origin").await;
        assert!(
            refused["detail"].as_str().is_some_and(|text| text.contains("--cors-origin")),
            "{refused}"
        );
        assert_documented(&method, &path, 403, "foreign_origin");
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let client = client(&[]);
    for path in ["/nothing", "/v1/nothing", "/v1/conversations/", "/assets/nothing.js", "/v1"] {
        problem(client.get(path).send().await, 404, "unknown_path").await;
    }
    for (method, path, allow) in [
        (Method::PUT, "/v1/conversations", "POST, GET, HEAD"),
        (Method::GET, &*format!("/v1/tasks/{ID}/cancel"), "POST"),
        (Method::POST, "/docs", "GET, HEAD"),
        (Method::DELETE, "/", "GET, HEAD"),
        (Method::OPTIONS, "/v1/models", "GET, HEAD"),
    ] {
        let response = client.request(method, path).send().await;
        assert_eq!(response.0.header("allow"), Some(allow), "{path}");
        problem(response, 405, "method_not_allowed").await;
    }
}

#[tokio::test]
async fn without_postgresql_everything_that_needs_it_is_unavailable() {
    let client = client(&[]);
    let messages = format!("/v1/conversations/{ID}/messages");
    let task = format!("/v1/tasks/{ID}");
    let asked = [
        (Method::GET, "/v1/conversations".to_owned(), None),
        (Method::POST, "/v1/conversations".to_owned(), Some(json!({}))),
        (Method::GET, messages.clone(), None),
        (Method::POST, messages, Some(json!({"content": "x"}))),
        (Method::GET, task.clone(), None),
        (Method::POST, format!("{task}/cancel"), None),
        (Method::GET, format!("{task}/stream"), None),
    ];
    let answers = asked.into_iter().map(async |(method, path, body)| {
        let mut request = client.request(method.clone(), &path);
        if let Some(body) = &body {
            request = request.body_json(body);
        }
        let response = request.send().await;
        response.assert_header("retry-after", "1");
        let body = problem(response, 503, "unavailable").await;
        assert!(!body.to_string().contains("127.0.0.1"), "{body}");
        assert_documented(&method, &path, 503, "unavailable");
        body
    });
    let answers = futures_util::future::join_all(answers).await;
    assert!(
        answers[3]["detail"].as_str().is_some_and(|detail| detail.contains("same Idempotency-Key"))
    );
    let readiness = client.get("/readyz").send().await;
    let readiness = problem(readiness, 503, "not_ready").await;
    let detail = readiness["detail"].as_str().expect("a detail");
    for what in ["PostgreSQL: ", "Redis: commands: "] {
        assert!(detail.contains(what), "{detail}");
    }
    assert!(!detail.contains("127.0.0.1"), "{detail}");
    client.get("/healthz").send().await.assert_status_is_ok();
}

#[tokio::test]
async fn what_needs_no_store_is_served() {
    let client = client(&[]);
    for path in ["/", "/assets/app.js", "/openapi.json", "/docs", "/metrics", "/healthz"] {
        let response = client.get(path).header("x-request-id", "mine-1").send().await;
        assert_eq!(response.0.status(), StatusCode::OK, "{path}");
        response.assert_header("x-request-id", "mine-1");
        response.assert_header("x-content-type-options", "nosniff");
        client.head(path).send().await.assert_status_is_ok();
    }
    let models = client.get("/v1/models").send().await;
    models
        .assert_json(json!({"items": [
            {"id": "small", "upstream": "openai", "default": true},
            {"id": "large", "upstream": "openai", "default": false},
        ]}))
        .await;
    let docs = client.get("/docs").send().await.0.into_body().into_string().await.expect("HTML");
    assert!(!docs.contains("fonts.googleapis"));
}

#[tokio::test]
async fn only_listed_origins_are_permitted_and_nobody_is_refused() {
    let client = client(&["--cors-origin=https://chat.example"]);
    let preflight = |origin: &'static str| {
        client
            .request(Method::OPTIONS, "/v1/conversations")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .send()
    };
    let permitted = preflight("https://chat.example").await;
    permitted.assert_status(StatusCode::NO_CONTENT);
    permitted.assert_header("access-control-allow-origin", "https://chat.example");
    permitted.assert_header("vary", "Origin");
    let other = preflight("https://evil.example").await;
    other.assert_status(StatusCode::METHOD_NOT_ALLOWED);
    other.assert_header_is_not_exist("access-control-allow-origin");
    let get = client.get("/v1/models").header("origin", "http://127.0.0.1:8080").send().await;
    get.assert_status_is_ok();
    get.assert_header_is_not_exist("access-control-allow-origin");
    let refused = client.get("/nothing").header("origin", "https://chat.example").send().await;
    refused.assert_header("access-control-allow-origin", "https://chat.example");
}
