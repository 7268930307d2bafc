//! What the API holds for a stream on which nothing happens.
//!
//! Anonymous memory, which is this process' own: what the binary's pages count
//! depends on who else runs it. And without huge pages: where the kernel gives
//! them, memory grows by 2 MiB, which is 4 KiB for each of 500 streams, and a
//! figure that is another each time (about 5 KiB more).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::bounds::{Figures, not_measured};
use crate::counted;
use crate::support::{App, PATIENCE, eventually};

/// Opened at a time, each on a task of its own.
const STREAMS: usize = 500;
/// The middle one of these counts: the allocator takes memory in large pieces.
const ROUNDS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "counts: make guard"]
async fn bytes_a_stream() {
    let app = counted().workers(0).with("MIMALLOC_ALLOW_THP", "0").start().await;
    if anonymous_kib(app.api.pid()).is_none() {
        return not_measured("KiB an idle stream", "there is no /proc/<pid>/smaps_rollup");
    }
    let tasks = queued_tasks(&app, STREAMS * (ROUNDS + 1)).await;
    let mut open: Vec<TcpStream> = Vec::new();
    let mut growth = Vec::new();
    // The first round warms up: buffers, tables, connections to the servers.
    for round in tasks.chunks(STREAMS) {
        let before = settled(&app).await;
        for task in round {
            open.push(follow(&app.url, task));
        }
        eventually("all streams are open", || async {
            app.metric("rill_readers_open", "").await as usize == open.len()
        })
        .await;
        growth.push((settled(&app).await as f64 - before as f64) / STREAMS as f64);
    }
    println!(
        "guard: KiB an idle stream, {STREAMS} at a time: {growth:.2?} (the first is to warm up)"
    );
    let mut counted = growth.split_off(1);
    counted.sort_by(f64::total_cmp);
    let mut figures = Figures::default();
    figures.add("KiB an idle stream", counted[ROUNDS / 2]);
    figures.hold();
}

/// Tasks that nobody runs.
async fn queued_tasks(app: &App, count: usize) -> Vec<uuid::Uuid> {
    sqlx::query_scalar(
        "WITH m AS (
             INSERT INTO messages (id, conversation_id, position, role)
             SELECT gen_random_uuid(), $1::uuid, n, 'assistant' FROM generate_series(1, $2) n RETURNING id)
         INSERT INTO tasks (id, account_id, conversation_id, message_id, model, parameters,
                            status, attempt, claim_id, worker_id, deadline_at, enqueued_at)
         SELECT gen_random_uuid(), '00000000-0000-0000-0000-000000000000', $1::uuid, id, 'simulator',
                '{}', 'running', 1, gen_random_uuid(), gen_random_uuid(), now() + interval '1 hour', now()
         FROM m RETURNING id",
    )
    .bind(app.conversation().await)
    .bind(i32::try_from(count).expect("small"))
    .fetch_all(&app.pool)
    .await
    .expect("inserts")
}

/// Opens a stream, up to its greeting.
fn follow(url: &str, task: &uuid::Uuid) -> TcpStream {
    let address = url.strip_prefix("http://").expect("a URL");
    let mut socket = TcpStream::connect(address).expect("connects");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = format!(
        "GET /v1/tasks/{task}/stream HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).expect("writes");
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    while !answer.windows(6).any(|at| at == b"retry:") {
        let length = socket.read(&mut piece).expect("the API answers");
        assert!(length > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..length]);
    }
    socket
}

/// Once it doesn't change any more.
async fn settled(app: &App) -> u64 {
    let mut last = anonymous_kib(app.api.pid()).expect("it runs");
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = anonymous_kib(app.api.pid()).expect("it runs");
        if now == last {
            break;
        }
        last = now;
    }
    last
}

fn anonymous_kib(pid: i32) -> Option<u64> {
    let memory = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = memory.lines().find_map(|line| line.strip_prefix("Anonymous:"))?;
    line.split_whitespace().next()?.parse().ok()
}
