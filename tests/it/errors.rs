//! Bad input gets a clear error, and nothing is lost.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::App;

/// Status and code of a request that is refused; every refusal has its form.
async fn refused(app: &App, request: reqwest::RequestBuilder) -> (u16, String) {
    let response = request.send().await.expect("the API answers");
    let status = response.status().as_u16();
    let header = |name: &str| {
        response.headers().get(name).map(|value| value.to_str().expect("text").to_owned())
    };
    assert_eq!(header("content-type").as_deref(), Some("application/problem+json"), "{status}");
    let request_id = header("x-request-id").expect("a request ID");
    let problem: Value = response.json().await.expect("JSON");
    assert_eq!(problem["status"], status, "{problem}");
    assert_eq!(problem["request_id"], request_id, "{problem}");
    for field in ["type", "title", "detail"] {
        assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {problem}");
    }
    assert!(app.log_is_clean(), "{}", app.api.log());
    (status, problem["code"].as_str().expect("a code").to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_with_what_to_do() {
    let app = App::builder().workers(0).start().await;
    let conversation = app.conversation().await;
    let messages = format!("/v1/conversations/{conversation}/messages");
    let nobody = uuid::Uuid::new_v4();
    let ask = |method: Method, path: &str| app.client.request(method, format!("{}{path}", app.url));
    let say = |body: &str| {
        ask(Method::POST, &messages)
            .header("Content-Type", "application/json")
            .body(body.to_owned())
    };
    let large = format!(r#"{{"content":"{}"}}"#, "x".repeat(300 * 1024));
    let stream = format!("/v1/tasks/{nobody}/stream");
    let posted = app.say("[[tokens=3]]").await;
    let cases: Vec<(&str, reqwest::RequestBuilder, u16, &str)> = vec![
        ("not JSON", say("{"), 400, "invalid_json"),
        ("nothing", say(""), 400, "invalid_json"),
        ("a wrong type", say(r#"{"content":5}"#), 422, "invalid_body"),
        ("an unknown field", say(r#"{"content":"x","temprature":1}"#), 422, "invalid_body"),
        ("both kinds", say(r#"{"content":"x","tool_results":[]}"#), 422, "invalid_body"),
        ("neither kind", say("{}"), 422, "invalid_body"),
        ("out of range", say(r#"{"content":"x","temperature":9}"#), 422, "invalid_body"),
        ("empty", say(r#"{"content":""}"#), 422, "empty_content"),
        ("U+0000", say(r#"{"content":"a\u0000b"}"#), 422, "invalid_text"),
        ("too large", say(&large), 413, "body_too_large"),
        ("an unknown model", say(r#"{"content":"x","model":"nobody"}"#), 422, "unknown_model"),
        (
            "no content type",
            ask(Method::POST, &messages).body(r#"{"content":"x"}"#),
            415,
            "unsupported_media_type",
        ),
        (
            "an unknown conversation",
            ask(Method::POST, &format!("/v1/conversations/{nobody}/messages"))
                .json(&json!({ "content": "x" })),
            404,
            "conversation_not_found",
        ),
        (
            "an unknown task",
            ask(Method::GET, &format!("/v1/tasks/{nobody}")),
            404,
            "task_not_found",
        ),
        ("an unknown stream", ask(Method::GET, &stream), 404, "task_not_found"),
        ("an ID that is none", ask(Method::GET, "/v1/tasks/17"), 400, "invalid_parameter"),
        (
            "a malformed cursor",
            ask(Method::GET, &posted.stream_url).header("Last-Event-ID", "1-x"),
            400,
            "malformed_cursor",
        ),
        (
            "a malformed cursor in the query",
            ask(Method::GET, &format!("{}?last_event_id=7", posted.stream_url)),
            400,
            "malformed_cursor",
        ),
        ("a wrong method", ask(Method::DELETE, "/v1/models"), 405, "method_not_allowed"),
        ("a wrong path", ask(Method::GET, "/v2/everything"), 404, "unknown_path"),
    ];
    for (what, request, status, code) in cases {
        assert_eq!(refused(&app, request).await, (status, code.to_owned()), "{what}");
    }
    let tasks: i64 = sqlx::query_scalar("SELECT count(*) FROM tasks")
        .fetch_one(&app.pool)
        .await
        .expect("counts");
    assert_eq!(tasks, 1, "something that was refused was accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_describes_what_is_served() {
    let app = App::builder().workers(0).start().await;
    let (status, document) = app.get("/openapi.json").await;
    assert_eq!(status, 200);
    for path in ["/v1/conversations", "/v1/tasks/{task_id}/stream", "/v1/models", "/healthz"] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    let (status, models) = app.get("/v1/models").await;
    assert_eq!(status, 200);
    assert_eq!(models["items"][0]["id"], "simulator");
    assert_eq!(models["items"][0]["default"], true);
    assert_eq!(app.get("/readyz").await.0, 200);
    let page = app.client.get(&app.url).send().await.expect("answers");
    assert!(
        page.headers()["content-security-policy"]
            .to_str()
            .expect("text")
            .contains("script-src 'self'")
    );
}
