//! Prompts: what is told, what is left out, and who waits.

use futures_util::future::join_all;
use rill::domain::ConversationId;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{KIB, MIB, add, conversation_of, memory};
use crate::support::{App, Posted, Provider, eventually, stream};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_has_as_many_whole_exchanges_as_fit() {
    let app = App::builder().workers(0).start().await;
    let conversation = app.conversation().await;
    let messages = [
        ("user", 3_000),
        ("assistant", 2_000),
        ("user", 1_000),
        ("assistant", 10),
        // Not to be parted.
        ("tool", 4_000),
        ("assistant", 10),
        ("tool", 1_000),
        ("assistant", 500),
        ("user", 2_000),
        ("user", 700),
        ("assistant", 0),
    ];
    let ids = add(&app.pool, &conversation, &messages).await;
    let (store, place) = (app.store(), ids[10]);
    let conversation: ConversationId = conversation.parse().expect("an ID");
    let whole = store.small_prompt(conversation, place).await.expect("reads").expect("small");
    assert_eq!((whole.turns.len(), whole.begins_with), (10, None));
    // From the whole down to where nothing fits.
    let (mut budget, mut begin_with) = (whole.bytes, Vec::new());
    while let Some(prompt) = store.large_prompt(conversation, place, budget).await.expect("reads") {
        assert_eq!(prompt.bytes, budget);
        assert_eq!(prompt.turns[..], whole.turns[whole.turns.len() - prompt.turns.len()..]);
        begin_with.push(prompt.begins_with);
        // The largest budget that it doesn't fit.
        let less = store.large_prompt(conversation, place, budget - 1).await.expect("reads");
        let Some(less) = less else { break };
        assert!(less.bytes < budget);
        budget = less.bytes;
    }
    assert_eq!(begin_with, [None, Some(ids[2]), Some(ids[8]), Some(ids[9])]);
    // Instructions count, and are kept.
    let instructions = "i".repeat(500);
    sqlx::query("UPDATE conversations SET instructions = $2 WHERE id = $1")
        .bind(conversation.0)
        .bind(&instructions)
        .execute(&app.pool)
        .await
        .expect("instructs");
    let prompt = store.large_prompt(conversation, place, 702 + 500).await.expect("reads");
    let prompt = prompt.expect("fits");
    assert_eq!((prompt.turns.len(), prompt.bytes), (2, 702 + 500));
    assert_eq!(prompt.turns[0], rill::domain::message::Turn::System(instructions));
    assert_eq!(store.large_prompt(conversation, place, 702 + 499).await.expect("reads"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_out_of_a_prompt_is_told_and_what_must_be_told_is_not_left_out() {
    let done = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"},\
                \"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let provider = Provider::start(vec![stream(done)]).await;
    let app = App::builder()
        .with("OPENAI_BASE_URL", &provider.url)
        .with("RILL_MAX_PROMPT_BYTES", "65536")
        .start()
        .await;
    let conversation = app.conversation().await;
    let exchanges = [("user", 20_000), ("assistant", 10)].repeat(5);
    let ids = add(&app.pool, &conversation, &exchanges).await;
    let posted = app.say_in(&conversation, json!({ "content": "and now?" })).await;
    let reader = app.read(&posted).await;
    assert_eq!(reader.answer.text, "hello");
    let started: Value = serde_json::from_str(&reader.events[0].data).expect("JSON");
    assert_eq!(started["prompt_begins_with"], json!(ids[4].to_string()), "{started}");
    let told = provider.asked()[0].json();
    let told = told["messages"].as_array().expect("messages").clone();
    assert_eq!(told.len(), 7);
    assert_eq!(told[6]["content"], "and now?");
    app.workers[0].logged("oldest messages are left out").await;
    // All of a smaller one is told.
    let posted = app.say("hi").await;
    let reader = app.read(&posted).await;
    assert!(!reader.events[0].data.contains("prompt_begins_with"), "{:?}", reader.events[0]);
    // A message that doesn't fit.
    let posted = app.say_in(&conversation, json!({ "content": "x".repeat(70_000) })).await;
    let task = app.reaches(&posted, "failed").await;
    assert_eq!(task["error"]["code"], "prompt_too_large", "{task}");
    assert_eq!(provider.asked().len(), 2);
    // The conversation goes on.
    let posted = app.say_in(&conversation, json!({ "content": "shorter" })).await;
    app.reaches(&posted, "done").await;
}

/// A worker whose metrics can be asked for.
fn with_metrics(app: &mut App, options: &[(&str, &str)]) {
    let all = [options, &[("RILL_METRICS_LISTEN", "127.0.0.1:0")]].concat();
    app.start_worker_with(&all);
}

/// A metric of the last worker.
async fn worker_metric(app: &App, name: &str) -> f64 {
    let worker = app.workers.last().expect("a worker");
    let line = worker.logged("metrics at").await;
    let url = line.split("metrics at ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let text = app.client.get(url.expect("a URL")).send().await.expect("answers").text().await;
    let text = text.expect("text");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().expect("a number"))
}

/// Messages that follow the same answer of a conversation, as many as are asked for.
async fn ask_beside(app: &App, conversation: &str, content: &str, count: usize) -> Vec<Posted> {
    let (parent,): (Uuid,) =
        sqlx::query_as("SELECT last_message_id FROM conversations WHERE id = $1::uuid")
            .bind(conversation)
            .fetch_one(&app.pool)
            .await
            .expect("reads");
    let body = json!({ "content": content, "parent_id": parent.to_string() });
    join_all((0..count).map(|_| app.say_in(conversation, body.clone()))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_prompts_wait_for_room_and_leave_it_when_the_model_answers() {
    const TASKS: usize = 12;
    let mut app = App::builder().workers(0).start().await;
    let conversation = conversation_of(&app, 60, 250_000).await;
    let options = [("RILL_MAX_PROMPT_BYTES", "1000000"), ("RILL_PROMPT_MEMORY", "2000000")];
    with_metrics(&mut app, &options);
    let content = "[[ttft=300ms]] [[tokens=100000]] [[rate=20]]";
    let posted = ask_beside(&app, &conversation, content, TASKS).await;
    eventually("all are answered at once", || async {
        worker_metric(&app, "rill_tasks_running").await as usize == TASKS
            && worker_metric(&app, "rill_time_to_first_token_seconds_count").await as usize == TASKS
    })
    .await;
    assert!(worker_metric(&app, "rill_prompt_waits_total").await > 0.0);
    assert!(worker_metric(&app, "rill_prompts_cut_total").await as usize == TASKS);
    assert!(worker_metric(&app, "rill_prompt_bytes").await == 0.0, "it is held while they talk");
    let peak = memory(&app.workers[0], "VmHWM");
    println!("peak of a worker with {TASKS} tasks of a conversation of 15 MB: {} KiB", peak / KIB);
    assert!(peak < 150 * MIB, "{peak}");
    for posted in &posted {
        let path = format!("/v1/tasks/{}/cancel", posted.task);
        assert!(app.post(&path, json!({})).await.0 < 300);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_task_does_not_wait_for_large_conversations() {
    const LARGE: usize = 30;
    let mut app = App::builder().workers(0).start().await;
    let large = conversation_of(&app, 400, 250_000).await;
    let quick = "[[tokens=1]] [[rate=0]]";
    let strangers = ask_beside(&app, &large, quick, LARGE).await;
    let small = app.say(quick).await;
    with_metrics(&mut app, &[("RILL_MAX_PROMPT_BYTES", "1000000")]);
    app.reaches(&small, "done").await;
    for stranger in &strangers {
        app.reaches(stranger, "done").await;
    }
    // Whatever the machine does meanwhile: the last to come is not the last to end.
    let (before,): (i64,) = sqlx::query_as(
        "SELECT count(*) FROM tasks
         WHERE finished_at < (SELECT finished_at FROM tasks WHERE id = $1::uuid)",
    )
    .bind(&small.task)
    .fetch_one(&app.pool)
    .await
    .expect("reads");
    println!("large tasks that ended before the small one: {before} of {LARGE}");
    assert!(before < LARGE as i64 / 2, "{before} ended before it");
}
