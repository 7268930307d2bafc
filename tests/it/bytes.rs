//! What a prompt, a page and a reply cost is bounded in bytes, and nobody waits for a
//! stranger's.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use rill::domain::{ConversationId, MessageId, TaskId};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use uuid::Uuid;

use crate::scale::{append_to_all, running_tasks};
use crate::support::{
    App, Cut, Posted, PrivateRedis, Process, Provider, Reader, eventually, stream, within,
};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Adds messages to a conversation's end, each of a role and so many bytes; their IDs.
async fn add(pool: &PgPool, conversation: &str, messages: &[(&str, usize)]) -> Vec<MessageId> {
    let ids: Vec<Uuid> = messages.iter().map(|_| Uuid::now_v7()).collect();
    let roles: Vec<_> = messages.iter().map(|(role, _)| (*role).to_owned()).collect();
    let sizes: Vec<_> =
        messages.iter().map(|(_, size)| i32::try_from(*size).expect("small")).collect();
    sqlx::query(
        "WITH place AS (
             SELECT next_position, last_message_id FROM conversations WHERE id = $1::uuid
         ), new AS (
             SELECT *, lag(id, 1, (SELECT last_message_id FROM place)) OVER (ORDER BY n) AS parent
             FROM unnest($2::uuid[], $3::text[], $4::int[]) WITH ORDINALITY AS new (id, role, size, n)
         ), said AS (
             INSERT INTO messages (id, conversation_id, parent_id, position, role, content, answer)
             SELECT id, $1::uuid, parent, next_position + n - 1, role,
                    CASE role WHEN 'user' THEN to_json(left(repeat(md5(n::text), size / 32 + 1), size))
                    WHEN 'tool' THEN json_build_array(json_build_object(
                        'tool_call_id', 'c', 'content', repeat('t', size))) END,
                    CASE role WHEN 'assistant' THEN left(repeat(md5(n::text), size / 32 + 1), size) END
             FROM new, place
         )
         UPDATE conversations SET next_position = next_position + cardinality($2::uuid[]),
                                  last_message_id = ($2::uuid[])[cardinality($2::uuid[])]
         WHERE id = $1::uuid",
    )
    .bind(conversation)
    .bind(&ids)
    .bind(roles)
    .bind(sizes)
    .execute(pool)
    .await
    .expect("inserts");
    ids.into_iter().map(MessageId).collect()
}

/// A conversation of so many exchanges of so many bytes.
async fn conversation_of(app: &App, exchanges: usize, size: usize) -> String {
    let conversation = app.conversation().await;
    let messages = [("user", size), ("assistant", 10)].repeat(exchanges);
    add(&app.pool, &conversation, &messages).await;
    conversation
}

/// A line of `/proc/<pid>/status`, in bytes.
fn memory(process: &Process, line: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()));
    let status = status.expect("/proc (Linux)");
    let line = status.lines().find_map(|found| found.strip_prefix(line)).expect("the line");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok());
    kib.expect("a number") * KIB
}

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

/// All pages of a list: the size of each, and the items.
async fn pages(app: &App, path: &str) -> (Vec<usize>, Vec<Value>) {
    let (mut sizes, mut items, mut cursor) = (Vec::new(), Vec::new(), String::new());
    loop {
        let url = format!("{}{path}?limit=100&cursor={cursor}", app.url);
        let response = app.client.get(url).send().await.expect("answers");
        assert_eq!(response.status(), 200);
        let length = response.content_length();
        let text = response.text().await.expect("text");
        assert_eq!(length, Some(text.len() as u64));
        sizes.push(text.len());
        let page: Value = serde_json::from_str(&text).expect("JSON");
        items.extend(page["items"].as_array().expect("items").iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return (sizes, items),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_end_at_a_mebibyte_and_together_have_everything_once() {
    const LARGEST: usize = 3 * MIB;
    let app = App::builder().workers(0).start().await;
    let conversation = app.conversation().await;
    let mut messages = [("user", 100_000), ("assistant", 50_000)].repeat(30);
    messages.extend([("user", 10); 150]);
    messages.push(("assistant", LARGEST));
    messages.extend([("user", 10); 3]);
    let ids = add(&app.pool, &conversation, &messages).await;
    let (sizes, items) = pages(&app, &format!("/v1/conversations/{conversation}/messages")).await;
    println!("bytes of the pages: {sizes:?}");
    let found: Vec<_> = items.iter().map(|item| item["id"].as_str().expect("an ID")).collect();
    assert_eq!(found, ids.iter().map(ToString::to_string).collect::<Vec<_>>());
    // What is beside the texts comes on top.
    let large: Vec<_> = sizes.iter().filter(|size| **size > MIB + 50_000).collect();
    assert!(large.len() == 1 && *large[0] < LARGEST + 1_000, "{sizes:?}");
    assert!(sizes.len() < 12, "{sizes:?}");

    let mut ids = vec![conversation];
    for n in 0..30 {
        let body = json!({ "title": format!("{n}"), "instructions": "i".repeat(200_000) });
        ids.push(app.post("/v1/conversations", body).await.1["id"].as_str().expect("an ID").into());
    }
    ids.reverse();
    let (sizes, items) = pages(&app, "/v1/conversations").await;
    let found: Vec<_> = items.iter().map(|item| item["id"].as_str().expect("an ID")).collect();
    assert_eq!(found, ids);
    assert!(sizes.iter().all(|size| *size < MIB + 50_000) && sizes.len() < 9, "{sizes:?}");
}

/// Asks, and reads nothing: how many stay open, and how many were refused.
async fn ask(app: &App, path: &str) -> TcpStream {
    let address: SocketAddr = app.url.trim_start_matches("http://").parse().expect("an address");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut socket = socket.connect(address).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("asks");
    socket
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_of_lists_cost_a_bounded_memory_and_small_pages_wait_for_nobody() {
    const SLOW: usize = 60;
    let app = App::builder()
        .workers(0)
        .with("RILL_RESPONSE_MEMORY", &(4 * MIB).to_string())
        .start()
        .await;
    let large = conversation_of(&app, 100, 250_000).await;
    let small = conversation_of(&app, 2, 100).await;
    let before = memory(&app.api, "VmRSS");
    let path = format!("/v1/conversations/{large}/messages?limit=100");
    let slow = join_all((0..SLOW).map(|_| ask(&app, &path))).await;
    // Who gets no room is told so, and what is small needs none.
    within("one is refused", async {
        loop {
            let response = app.client.get(format!("{}{path}", app.url)).send().await;
            let response = response.expect("answers");
            if response.status() == 503 {
                assert_eq!(response.headers()["retry-after"], "1");
                // On a busy machine, a connection to PostgreSQL may be waited for in vain.
                if response.json::<Value>().await.expect("JSON")["code"] == "busy" {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let path_of_small = format!("/v1/conversations/{small}/messages");
    eventually("a small page needs no room", || async {
        let (status, page) = app.get(&path_of_small).await;
        status == 200 && page["items"].as_array().map(Vec::len) == Some(4)
    })
    .await;
    let grown = memory(&app.api, "VmHWM").saturating_sub(before);
    println!("{SLOW} slow readers of pages of 25 MB: the API grew by {} KiB", grown / KIB);
    assert!(grown < 150 * MIB, "{grown}");
    // Room comes back when they leave.
    drop(slow);
    eventually("there is room again", || async {
        let response = app.client.get(format!("{}{path}", app.url)).send().await;
        response.expect("answers").status() == 200
    })
    .await;
    assert!(app.metric("rill_responses_refused_total", "").await > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_of_ended_streams_cost_a_bounded_memory() {
    const SLOW: usize = 100;
    const ANSWER: usize = 3 * MIB;
    let app = App::builder()
        .workers(0)
        .with("RILL_RESPONSE_MEMORY", &(8 * MIB).to_string())
        .start()
        .await;
    // Redis doesn't hold its end: PostgreSQL has the answer.
    let task = running_tasks(&app, 1).await[0];
    sqlx::query(
        "WITH ended AS (
             UPDATE tasks SET status = 'done', final_id = '1-9', final_event = 'done',
                              final_data = json_build_object('type', 'done', 'message_id', message_id,
                                                             'finish_reason', 'stop', 'usage', NULL)::text
             WHERE id = $1 RETURNING message_id)
         UPDATE messages SET answer = repeat('x', $2) FROM ended WHERE id = message_id",
    )
    .bind(task.0)
    .bind(i32::try_from(ANSWER).expect("small"))
    .execute(&app.pool)
    .await
    .expect("ends");
    let before = memory(&app.api, "VmRSS");
    let path = format!("/v1/tasks/{task}/stream");
    let slow = join_all((0..SLOW).map(|_| ask(&app, &path))).await;
    eventually("all of them are served, or sent away", || async {
        app.metric("rill_streams_opened_total", "").await as usize >= SLOW
            && app.metric("rill_responses_refused_total", "").await > 0.0
    })
    .await;
    let grown = memory(&app.api, "VmHWM").saturating_sub(before);
    println!("{SLOW} slow readers of an answer of 3 MiB: the API grew by {} KiB", grown / KIB);
    assert!(grown < 150 * MIB, "{grown}");
    drop(slow);
    let mut reader = Reader::new(app.client.clone(), format!("{}{path}", app.url));
    within("who reads has all of it", reader.follow([])).await;
    assert_eq!(reader.answer.text.len(), ANSWER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_is_whole_however_slowly_it_is_read() {
    let app = App::builder().workers(0).start().await;
    let conversation = conversation_of(&app, 4, 250_000).await;
    let path = format!("/v1/conversations/{conversation}/messages");
    let (_, page) = app.get(&path).await;
    let mut socket = ask(&app, &path).await;
    let (mut read, mut piece) = (Vec::new(), [0; 2048]);
    loop {
        match socket.read(&mut piece).await.expect("reads") {
            0 => break,
            bytes => read.extend_from_slice(&piece[..bytes]),
        }
        tokio::task::yield_now().await;
    }
    let text = String::from_utf8(read).expect("text");
    let (_, body) = text.split_once("\r\n\r\n").expect("a head");
    assert_eq!(serde_json::from_str::<Value>(body).expect("JSON"), page);
}

/// Redis closes a connection with subscriptions whose reply is too large: at 32 MiB by
/// default, here at as much as one entry of half of the streams has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bursts_of_many_streams_are_read_without_breaking_the_connection_of_hints() {
    const STREAMS: usize = 600;
    const ENTRIES: usize = 10;
    const BYTES: usize = 16 * KIB;
    let server = PrivateRedis::start().await;
    let app = App::builder().redis(server.url()).workers(0).start().await;
    let mut redis = app.redis().await;
    let limit = format!("pubsub {} 0 0", 300 * BYTES);
    let _: () = redis::cmd("CONFIG")
        .arg(&["SET", "client-output-buffer-limit", &limit])
        .query_async(&mut redis)
        .await
        .expect("CONFIG SET");
    let tasks = running_tasks(&app, STREAMS).await;
    let readers = join_all(tasks.iter().map(async |task| {
        let url = format!("{}/v1/tasks/{task}/stream", app.url);
        let mut reader = Reader::new(app.client.clone(), url);
        reader.connect(Cut::AfterEvents(1)).await.expect("connects");
        reader
    }));
    let readers = within("all streams are opened", readers).await;
    let read = join_all(readers.into_iter().map(async |mut reader| {
        reader.follow([]).await;
        reader.answer.text.len()
    }));
    let mut subscribed = BTreeSet::new();
    let write = async {
        eventually("all readers are back", || async {
            app.metric("rill_readers_open", "").await as usize == STREAMS
        })
        .await;
        let data = json!({ "type": "delta", "text": "x".repeat(BYTES) }).to_string();
        for seq in 1..=ENTRIES {
            burst(&app, &mut redis, &tasks, seq, &data).await;
            eventually("all of it is read", || async {
                app.metric("rill_events_sent_total", "").await as usize >= STREAMS * (1 + seq)
            })
            .await;
            subscribed.extend(subscribers(&mut redis).await);
        }
        let failed =
            r#"{"message_id":"00000000-0000-0000-0000-000000000000","code":"x","message":"y"}"#;
        append_to_all(&app, &mut redis, &tasks, ENTRIES + 1, "failed", failed).await;
    };
    let (lengths, ()) = within("all is read", async { tokio::join!(read, write) }).await;
    assert!(lengths.iter().all(|length| *length == ENTRIES * BYTES), "{lengths:?}");
    println!("connections of hints while {STREAMS} streams were busy: {subscribed:?}");
    // The first reply of that size may be a surprise.
    assert!((1..=2).contains(&subscribed.len()), "{subscribed:?}");
}

/// An event of each stream, and then the hints for all of them at once.
async fn burst(
    app: &App,
    redis: &mut redis::aio::MultiplexedConnection,
    tasks: &[TaskId],
    seq: usize,
    data: &str,
) {
    let (mut commands, mut hints, id) = (redis::pipe(), String::new(), format!("1-{seq}"));
    for task in tasks {
        let key = format!("{}:{{{}}}:task:{task}", app.name, task.partition());
        commands.xadd(key, &id, &[("e", "delta"), ("d", data)]).ignore();
        hints += &format!("{task} {id}\n");
    }
    commands.publish(format!("{}:wake", app.name), hints).ignore();
    let _: () = commands.query_async(redis).await.expect("appends");
}

/// The IDs of the connections that are subscribed to something.
async fn subscribers(redis: &mut redis::aio::MultiplexedConnection) -> Vec<String> {
    let list: String = redis::cmd("CLIENT")
        .arg(&["LIST", "TYPE", "pubsub"])
        .query_async(redis)
        .await
        .expect("CLIENT LIST");
    list.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}
