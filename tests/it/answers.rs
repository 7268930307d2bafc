//! What an answer can be: reasoning, tool calls, finish reasons, parameters.

use serde_json::{Value, json};

use crate::support::App;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reasoning_comes_before_the_answer_and_is_kept() {
    let app = App::start().await;
    let posted = app.say("[[reasoning=12]] [[tokens=8]] [[rate=0]]").await;
    let reader = app.read(&posted).await;
    let stored = app.stored(&posted).await;
    assert!(!stored.reasoning.is_empty() && !stored.text.is_empty());
    assert_eq!(reader.answer, stored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_call_is_answered_with_its_result() {
    let app = App::start().await;
    let tools = json!([{ "type": "function", "function": { "name": "weather", "parameters": { "type": "object" } } }]);
    let conversation = app.conversation().await;
    let posted = app
        .say_in(
            &conversation,
            json!({ "content": "[[tool=weather]] [[rate=0]] in Rome?", "tools": tools }),
        )
        .await;
    let reader = app.read(&posted).await;
    assert_eq!(reader.answer, app.stored(&posted).await);
    let call = reader.answer.tool_calls.first().expect("a tool call");
    assert_eq!(call.name.as_deref(), Some("weather"));
    serde_json::from_str::<Value>(&call.arguments).expect("whole arguments");
    let end: Value = serde_json::from_str(&reader.end.expect("ended").data).expect("JSON");
    assert_eq!(end["finish_reason"], "tool_calls");

    let path = format!("/v1/conversations/{conversation}/messages");
    let wrong = json!({ "tool_results": [{ "tool_call_id": "no-such-call", "content": "x" }] });
    let (status, problem) = app.post(&path, wrong).await;
    assert_eq!((status, &problem["code"]), (422, &json!("unknown_tool_call")), "{problem}");

    let id = call.id.clone().expect("an ID");
    let result =
        json!({ "tool_results": [{ "tool_call_id": id, "content": "sunny, 31 degrees" }] });
    let posted = app.say_in(&conversation, result).await;
    let reader = app.read(&posted).await;
    assert_eq!(reader.end.as_ref().expect("ended").event, "done");
    assert!(!reader.answer.text.is_empty());
    let (_, history) = app.get(&path).await;
    let roles: Vec<_> =
        history["items"].as_array().expect("items").iter().map(|m| m["role"].clone()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "assistant"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finish_reason_and_usage_are_the_models() {
    let app = App::start().await;
    let posted = app.say("[[tokens=7]] [[rate=0]] [[finish=length]]").await;
    let end = app.read(&posted).await.end.expect("ended");
    let done: Value = serde_json::from_str(&end.data).expect("JSON");
    assert_eq!(done["finish_reason"], "length");
    assert_eq!(done["usage"]["completion_tokens"], 7);
    assert_eq!(done["message_id"], posted.message);
    assert_eq!(app.task(&posted).await["usage"]["completion_tokens"], 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_remembers_what_was_said() {
    let app = App::start().await;
    let conversation = app.conversation().await;
    for n in 0..3 {
        let content = format!("[[tokens=4]] [[rate=0]] question {n}");
        let posted = app.say_in(&conversation, json!({ "content": content })).await;
        app.read(&posted).await;
    }
    let (_, history) = app.get(&format!("/v1/conversations/{conversation}/messages?limit=4")).await;
    let items = history["items"].as_array().expect("items");
    assert_eq!(items.len(), 4);
    assert_eq!(items[1]["parent_id"], items[0]["id"]);
    let next = history["next_cursor"].as_str().expect("a cursor");
    let (_, rest) =
        app.get(&format!("/v1/conversations/{conversation}/messages?limit=4&cursor={next}")).await;
    assert_eq!(rest["items"].as_array().expect("items").len(), 2);
    assert_eq!(rest["next_cursor"], Value::Null);
    assert_eq!(rest["items"][1]["task"]["status"], "done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_and_body_is_one_task_however_often_it_is_posted() {
    let app = App::start().await;
    let conversation = app.conversation().await;
    let url = format!("{}/v1/conversations/{conversation}/messages", app.url);
    let post = |content: &'static str| {
        let request = app
            .client
            .post(&url)
            .header("Idempotency-Key", "k1")
            .json(&json!({ "content": content }));
        async move {
            let response = request.send().await.expect("answers");
            (response.status().as_u16(), response.json::<Value>().await.expect("JSON"))
        }
    };
    let answers = futures_util::future::join_all((0..8).map(|_| post("[[tokens=3]] once"))).await;
    for (status, body) in &answers {
        assert_eq!((*status, body), (202, &answers[0].1));
    }
    let (status, problem) = post("[[tokens=3]] something else").await;
    assert_eq!((status, &problem["code"]), (422, &json!("idempotency_key_reused")), "{problem}");
    let tasks: i64 = sqlx::query_scalar("SELECT count(*) FROM tasks")
        .fetch_one(&app.pool)
        .await
        .expect("counts");
    assert_eq!(tasks, 1);
}
