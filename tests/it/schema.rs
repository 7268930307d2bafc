//! What PostgreSQL keeps of a request, of an answer and of every attempt.

use std::sync::Arc;

use rill::domain::message::{Content, Turn};
use serde_json::{Value, json};
use sqlx::Row;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::{App, Posted, within};

/// A model that gives one answer to everybody; the bodies that it is sent.
async fn model(answer: &str) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
    let (asked, bodies) = mpsc::unbounded_channel();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let answer: Arc<str> = format!("{head}{answer}").into();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (asked, answer) = (asked.clone(), answer.clone());
            tokio::spawn(async move {
                let mut request = Vec::new();
                let body = loop {
                    let mut piece = [0; 16 * 1024];
                    let read = socket.read(&mut piece).await.expect("a request");
                    request.extend_from_slice(&piece[..read]);
                    let text = String::from_utf8_lossy(&request);
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length = head.lines().find_map(|line| {
                        line.to_ascii_lowercase()
                            .strip_prefix("content-length: ")?
                            .parse::<usize>()
                            .ok()
                    });
                    if length == Some(body.len()) {
                        break body.to_owned();
                    }
                };
                let _ = asked.send(body);
                let _ = socket.write_all(answer.as_bytes()).await;
                let _ = socket.shutdown().await;
                let _ = socket.read(&mut [0; 16]).await;
            });
        }
    });
    (url, bodies)
}

const STOP: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

async fn app_with(answer: &str) -> (App, mpsc::UnboundedReceiver<String>) {
    let (url, bodies) = model(&format!("{answer}{STOP}")).await;
    (App::builder().with("OPENAI_BASE_URL", &url).start().await, bodies)
}

/// Posts a body as it is written.
async fn post(app: &App, conversation: &str, key: Option<&str>, body: &str) -> (u16, Value) {
    let url = format!("{}/v1/conversations/{conversation}/messages", app.url);
    let mut request = app.client.post(url).header("content-type", "application/json");
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    let response = request.body(body.to_owned()).send().await.expect("answers");
    (response.status().as_u16(), response.json().await.expect("JSON"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_reach_the_model_and_the_database_as_they_were_written() {
    let (app, mut bodies) = app_with("").await;
    let conversation = app.conversation().await;
    let parameters = r#""temperature":1.0,"response_format": {"type":"json_schema","json_schema":{"name":"n","schema":{"properties":{"zeta":{},"alpha":{"maximum":12345678901234567890123},"mid":{"minimum":0.10}}}}},
        "tools":[{"type":"function","function":{"name":"ask","parameters":{"properties":{"question":{},"answer":{}}}}}]"#;
    let body = format!(r#"{{"content":"hello",{parameters}}}"#);
    let (status, accepted) = post(&app, &conversation, None, &body).await;
    assert_eq!(status, 202, "{accepted}");
    let asked = within("a call", bodies.recv()).await.expect("a body");
    let schema = &parameters
        [parameters.find("{\"type\"").expect("a schema")..parameters.find(",\n").expect("an end")];
    for written in ["\"temperature\":1.0", schema] {
        assert!(asked.contains(written), "{written} is not in {asked}");
    }
    let tools = parameters.split_once("\"tools\":").expect("tools").1;
    assert!(asked.contains(tools), "{tools} is not in {asked}");
    let stored: String = sqlx::query_scalar("SELECT parameters::text FROM tasks")
        .fetch_one(&app.pool)
        .await
        .expect("reads");
    assert!(stored.contains(tools) && stored.contains("12345678901234567890123"), "{stored}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_kept_once_and_its_hash_only_with_a_key() {
    let app = App::builder().workers(0).start().await;
    let conversation = app.conversation().await;
    let one = r#"{"content":"a secret","temperature":1,"seed":7}"#;
    let (_, first) = post(&app, &conversation, Some("k"), one).await;
    // The order of fields, and white space, don't count.
    let (status, again) = post(
        &app,
        &conversation,
        Some("k"),
        "{ \"seed\": 7, \"temperature\": 1.0, \"content\": \"a secret\" }",
    )
    .await;
    assert_eq!((status, &again), (202, &first));
    for other in
        [r#"{"content":"another secret"}"#, r#"{"content":"a secret","temperature":1,"seed":8}"#]
    {
        let (status, problem) = post(&app, &conversation, Some("k"), other).await;
        assert_eq!((status, &problem["code"]), (422, &"idempotency_key_reused".into()));
    }
    post(&app, &conversation, None, one).await;
    let rows = sqlx::query("SELECT idempotency_key IS NOT NULL, octet_length(request_hash), tasks::text FROM tasks ORDER BY created_at")
        .fetch_all(&app.pool)
        .await
        .expect("reads");
    let kept: Vec<(bool, Option<i32>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(kept, [(true, Some(32)), (false, None)]);
    for row in rows {
        let row: String = row.get(2);
        assert!(!row.contains("a secret"), "the request is stored a second time: {row}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_caller_s_key_can_be_one_of_rill_s_own() {
    let app = App::builder().workers(0).start().await;
    let conversation = app.conversation().await;
    let key: String = sqlx::query_scalar("SELECT gen_random_uuid()::text")
        .fetch_one(&app.pool)
        .await
        .expect("reads");
    let body = r#"{"content":"hello"}"#;
    // HTTP takes the blank before a value away; one inside is refused.
    let (status, problem) = post(&app, &conversation, Some(&format!(" requeue {key}")), body).await;
    assert_eq!((status, &problem["code"]), (400, &"invalid_parameter".into()));
    let (status, _) = post(&app, &conversation, Some(&format!("requeue:{key}")), body).await;
    assert_eq!(status, 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_is_the_path_from_the_root_to_the_named_parent() {
    let app = App::start().await;
    let conversation = app.conversation().await;
    let say = |body: Value| {
        let (app, conversation) = (&app, &conversation);
        async move {
            let posted = app.say_in(conversation, body).await;
            app.reaches(&posted, "done").await;
            posted
        }
    };
    let quick = |text: &str| format!("{text} [[tokens=1]] [[rate=0]]");
    let first = say(json!({ "content": quick("one") })).await;
    let second = say(json!({ "content": quick("two") })).await;
    let other = say(json!({ "content": quick("other two"), "parent_id": first.message })).await;
    let behind = say(json!({ "content": quick("three"), "parent_id": second.message })).await;
    let newest = say(json!({ "content": quick("four") })).await;
    let root = say(json!({ "content": quick("anew"), "parent_id": null })).await;
    let store = app.store();
    let said = async |posted: &Posted| -> Vec<String> {
        let conversation = conversation.parse().expect("an ID");
        let message = posted.message.parse().expect("an ID");
        let prompt = store.small_prompt(conversation, message).await.expect("a prompt");
        let user = |turn: Turn| match turn {
            Turn::User(Content::Text(text)) => text.split(" [[").next().map(str::to_owned),
            _ => None,
        };
        prompt.expect("a small one").turns.into_iter().filter_map(user).collect()
    };
    assert_eq!(said(&first).await, ["one"]);
    assert_eq!(said(&second).await, ["one", "two"]);
    assert_eq!(said(&other).await, ["one", "other two"]);
    assert_eq!(said(&behind).await, ["one", "two", "three"]);
    assert_eq!(said(&newest).await, ["one", "two", "three", "four"]);
    assert_eq!(said(&root).await, ["anew"]);

    // Only an answer of this conversation is a parent.
    let elsewhere = app.say(&quick("elsewhere")).await;
    let (_, messages) = app.get(&format!("/v1/conversations/{conversation}/messages")).await;
    let question = messages["items"][0]["id"].clone();
    assert_eq!(messages["items"][4]["parent_id"], first.message.as_str());
    for odd in [json!(elsewhere.message), question, json!(uuid::Uuid::new_v4())] {
        let path = format!("/v1/conversations/{conversation}/messages");
        let (status, problem) = app.post(&path, json!({ "content": "x", "parent_id": odd })).await;
        assert_eq!((status, &problem["code"]), (422, &"unknown_parent".into()), "{problem}");
        assert_eq!(problem["errors"][0]["pointer"], "/parent_id");
    }
    let (status, _) = app
        .post(
            "/v1/conversations/00000000-0000-7000-8000-000000000000/messages",
            json!({ "content": "x", "parent_id": first.message }),
        )
        .await;
    assert_eq!(status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_answer_the_calls_of_the_parent_that_they_name() {
    let app = App::start().await;
    let conversation = app.conversation().await;
    let tools = json!([{ "type": "function", "function": { "name": "clock" } }]);
    let asked = app
        .say_in(&conversation, json!({ "content": "[[tool=clock]] [[rate=0]]", "tools": tools }))
        .await;
    app.reaches(&asked, "done").await;
    let calls = app.stored(&asked).await.tool_calls;
    let id = calls[0].id.clone().expect("an ID");
    let results = json!([{ "tool_call_id": id, "content": "12:00" }]);
    let later =
        app.say_in(&conversation, json!({ "content": "never mind [[tokens=1]] [[rate=0]]" })).await;
    app.reaches(&later, "done").await;
    let path = format!("/v1/conversations/{conversation}/messages");
    // The newest answer has no such call; the one that is named has.
    let (status, _) = app.post(&path, json!({ "tool_results": results })).await;
    assert_eq!(status, 422);
    let body = json!({ "tool_results": results, "parent_id": asked.message });
    let answered = app.say_in(&conversation, body).await;
    app.reaches(&answered, "done").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_attempt_is_a_row_that_outlives_its_conversation_and_holds_no_text() {
    let app = App::start().await;
    let posted = app.say("a secret [[tokens=20]] [[rate=0]] [[cut=5*1]]").await;
    app.read(&posted).await;
    let cancelled = app.say("[[tokens=500]] [[rate=20]]").await;
    app.reaches(&cancelled, "running").await;
    app.post(&format!("/v1/tasks/{}/cancel", cancelled.task), json!({})).await;
    app.read(&cancelled).await;
    sqlx::query("DELETE FROM conversations").execute(&app.pool).await.expect("deletes");
    let tasks: i64 =
        sqlx::query_scalar("SELECT count(*) FROM tasks").fetch_one(&app.pool).await.expect("reads");
    assert_eq!(tasks, 0);
    let rows = sqlx::query(
        "SELECT number, outcome, error_code, usage_source, (usage->>'completion_tokens')::int,
                ended_at >= begun_at, worker_id IS NOT NULL, conversation_id::text, model, attempts::text
         FROM attempts WHERE task_id = $1::uuid ORDER BY number",
    )
    .bind(&posted.task)
    .fetch_all(&app.pool)
    .await
    .expect("reads");
    assert_eq!(rows.len(), 2);
    for row in &rows {
        assert!(row.get::<bool, _>(5) && row.get::<bool, _>(6));
        assert_eq!(row.get::<String, _>(7), posted.conversation);
        assert_eq!(row.get::<String, _>(8), "simulator");
        assert!(!row.get::<String, _>(9).contains("secret"));
    }
    let attempt = |n: usize| {
        let row = &rows[n];
        let (outcome, code): (String, Option<String>) = (row.get(1), row.get(2));
        let (source, tokens): (Option<String>, Option<i32>) = (row.get(3), row.get(4));
        (row.get::<i64, _>(0), outcome, code, source, tokens)
    };
    let failed = Some("upstream_unavailable".to_owned());
    assert_eq!(attempt(0), (1, "retried".to_owned(), failed, None, None));
    assert_eq!(attempt(1), (2, "done".to_owned(), None, Some("reported".to_owned()), Some(20)));
    let outcome: String =
        sqlx::query_scalar("SELECT outcome FROM attempts WHERE task_id = $1::uuid")
            .bind(&cancelled.task)
            .fetch_one(&app.pool)
            .await
            .expect("reads");
    assert_eq!(outcome, "cancelled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_wants_back_is_kept_and_no_client_sees_it() {
    let says = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\",\"reasoning_details\":[{\"data\":\"signed  1.0\"}]}}]}\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"},\"extra_content\":{\"google\":{\"thought_signature\":\"signed\"}}}]}}]}\n\n";
    let (app, _bodies) = app_with(says).await;
    let posted = app.say("hello").await;
    let reader = app.read(&posted).await;
    assert_eq!(reader.end.as_ref().map(|sse| sse.event.as_str()), Some("done"));
    let opaque: Value = sqlx::query_scalar("SELECT opaque FROM messages WHERE id = $1::uuid")
        .bind(&posted.message)
        .fetch_one(&app.pool)
        .await
        .expect("reads");
    let expected = json!([
        { "name": "reasoning_details", "json": "[{\"data\":\"signed  1.0\"}]" },
        { "call": 0, "name": "extra_content", "json": "{\"google\":{\"thought_signature\":\"signed\"}}" },
    ]);
    assert_eq!(opaque, expected);
    let (_, messages) =
        app.get(&format!("/v1/conversations/{}/messages", posted.conversation)).await;
    assert!(!messages.to_string().contains("signed"), "{messages}");
    assert!(reader.events.iter().all(|sse| !sse.data.contains("signed")), "{reader:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_keeps_the_trace_of_its_request_and_the_subject_of_its_conversation() {
    let app = App::builder().workers(0).start().await;
    let conversation = app.conversation().await;
    sqlx::query("UPDATE conversations SET subject = 'ann'")
        .execute(&app.pool)
        .await
        .expect("updates");
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (header, key) in [(trace, "a"), ("rubbish", "b")] {
        let url = format!("{}/v1/conversations/{conversation}/messages", app.url);
        let request =
            app.client.post(url).header("traceparent", header).header("Idempotency-Key", key);
        let response = request.json(&json!({ "content": "x" })).send().await.expect("answers");
        assert_eq!(response.status().as_u16(), 202);
    }
    let rows: Vec<(Option<String>, String)> =
        sqlx::query_as("SELECT traceparent, subject FROM tasks ORDER BY created_at")
            .fetch_all(&app.pool)
            .await
            .expect("reads");
    assert_eq!(rows, [(Some(trace.to_owned()), "ann".to_owned()), (None, "ann".to_owned())]);
    // The same key of another subject is another key.
    let other = app.conversation().await;
    let (status, _) = post(&app, &other, Some("a"), r#"{"content":"x"}"#).await;
    assert_eq!(status, 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_s_account_is_its_conversation_s() {
    let app = App::builder().workers(0).start().await;
    let posted = app.say("x").await;
    sqlx::query("INSERT INTO accounts (id, name) VALUES (gen_random_uuid(), 'other')")
        .execute(&app.pool)
        .await
        .expect("inserts");
    let moved = sqlx::query(
        "UPDATE tasks SET account_id = (SELECT id FROM accounts WHERE name = 'other') WHERE id = $1::uuid",
    )
    .bind(&posted.task)
    .execute(&app.pool)
    .await;
    let error = moved.expect_err("a task of one account in a conversation of another").to_string();
    assert!(error.contains("foreign key"), "{error}");
}

/// Released migrations are never changed: databases out there were made by them.
#[test]
fn released_migrations_are_what_they_were() {
    const RELEASED: &[(&str, &str)] =
        &[("0001_init.sql", include_str!("released/0001_init.sha256"))];
    for (name, hash) in RELEASED {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(name);
        let bytes = std::fs::read(path).expect("the migration");
        let now: String = sha256(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(now, hash.trim(), "{name} was released: write a further migration instead");
    }
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_before_the_first_release_is_refused_with_what_to_do() {
    let app = App::builder().workers(0).start().await;
    sqlx::query("UPDATE _sqlx_migrations SET checksum = '\\x00'")
        .execute(&app.pool)
        .await
        .expect("updates");
    let environment = |role: &str| {
        let mut environment = vec![
            ("DATABASE_URL".to_owned(), app.database_url()),
            ("REDIS_URL".to_owned(), app.redis_url.clone()),
            ("RILL_REDIS_PREFIX".to_owned(), app.name.clone()),
        ];
        if role != "migrate" {
            environment.push(("RILL_LISTEN".to_owned(), "127.0.0.1:0".to_owned()));
            environment.push(("OPENAI_BASE_URL".to_owned(), app.model_url.clone()));
            environment.push(("RILL_MODELS".to_owned(), "simulator".to_owned()));
        }
        environment
    };
    for role in ["migrate", "up", "api", "worker"] {
        let mut process = crate::support::Process::start(&[role], &environment(role));
        assert!(!process.ended().await.success(), "{role} started");
        let log = process.log();
        assert!(log.contains("make forget") && log.contains("empty database"), "{role}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_of_two_thousand_messages_is_a_prompt_and_a_longer_one_loses_its_oldest() {
    let app = App::builder().workers(0).start().await;
    let conversation = app.conversation().await;
    let last: uuid::Uuid = sqlx::query_scalar(
        "WITH RECURSIVE ids AS MATERIALIZED (
             SELECT n, gen_random_uuid() AS id FROM generate_series(0, 2100) n
         ), chain AS (
             INSERT INTO messages (id, conversation_id, parent_id, position, role, content, answer)
             SELECT i.id, $1::uuid, p.id, i.n, CASE WHEN i.n % 2 = 0 THEN 'user' ELSE 'assistant' END,
                    CASE WHEN i.n % 2 = 0 THEN to_json('m' || i.n) END,
                    CASE WHEN i.n % 2 = 1 THEN 'm' || i.n END
             FROM ids i LEFT JOIN ids p ON p.n = i.n - 1
         )
         SELECT id FROM ids WHERE n = 2100",
    )
    .bind(&conversation)
    .fetch_one(&app.pool)
    .await
    .expect("inserts");
    let conversation = conversation.parse().expect("an ID");
    let last = rill::domain::MessageId(last);
    let prompt = app.store().small_prompt(conversation, last).await.expect("a prompt");
    let turns = prompt.expect("a small one").turns;
    assert_eq!(turns.len(), 2_000);
    assert!(format!("{:?}", turns[0]).contains("m100"), "{:?}", turns[0]);
    assert!(format!("{:?}", turns[1_999]).contains("m2099"), "{:?}", turns[1_999]);
}
