//! Pages and large answers, and those who read them slowly.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::{KIB, MIB, add, conversation_of, memory};
use crate::scale::running_tasks;
use crate::support::{App, Reader, eventually, within};

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
