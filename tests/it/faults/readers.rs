//! Clients that read or send slowly, or never: they cost little, they are cut
//! off, and nobody else notices.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use rill::domain::{Answer, Event, TaskId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::scale::{append_to_all, running_tasks};
use crate::support::{App, PrivateRedis, Process, SseParser, eventually, within};

const STUCK: usize = 1_000;
const STREAMS: usize = 250;
/// Readers that do read, one a stream.
const OTHERS: usize = 40;
/// Every so many rounds, all streams get something large.
const LARGE: usize = 20;
/// What one stuck reader may cost.
const KIB_EACH: u64 = 256;

fn address(app: &App) -> SocketAddr {
    app.url.trim_start_matches("http://").parse().expect("an address")
}

/// Asks for a stream, with hardly any room for what comes.
async fn ask(app: &App, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut socket = socket.connect(address(app)).await.expect("connects");
    // HTTP/1.0, so that the body comes as it is.
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("asks");
    socket
}

/// Resident memory of a process, in KiB.
fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()));
    let status = status.expect("/proc (Linux)");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Reads to the end; when each delta arrived after it was written.
async fn measure(app: &App, task: String, start: Instant) -> Vec<(String, Duration)> {
    let request = app.client.get(format!("{}/v1/tasks/{task}/stream", app.url));
    let mut body = request.send().await.expect("answers").bytes_stream();
    let (mut parser, mut seen) = (SseParser::default(), Vec::new());
    while let Some(piece) = body.next().await {
        for event in parser.feed(&piece.expect("a piece")) {
            let written = event
                .data
                .strip_prefix(r#"{"type":"delta","text":""#)
                .and_then(|t| t.split(' ').next());
            if let Some(written) = written.and_then(|micros| micros.parse().ok()) {
                let took = start.elapsed().saturating_sub(Duration::from_micros(written));
                seen.push((event.id, took));
            }
        }
    }
    seen
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// Writes rounds of small events to the others' streams, 20 a second, and now and
/// then a large one to every stream.
async fn write(app: &App, tasks: &[TaskId], rounds: std::ops::Range<usize>, start: Instant) {
    let mut redis = app.redis().await;
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    for round in rounds {
        tick.tick().await;
        let event = |size| {
            let written = start.elapsed().as_micros();
            format!(r#"{{"text":"{written} {}"}}"#, "x".repeat(size))
        };
        if round % LARGE == 0 {
            append_to_all(app, &mut redis, tasks, round, "delta", &event(8_000)).await;
        } else {
            append_to_all(app, &mut redis, &tasks[..OTHERS], round, "delta", &event(20)).await;
        }
    }
}

/// Wall time is printed and not asserted on: machines are busy. What is: memory,
/// that the stuck are cut off, and that the others get everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_that_never_read_harm_nobody() {
    /// Enough to fill what is between a server and a client that doesn't read.
    const BACKLOG: usize = 40;
    const CONTROL: usize = BACKLOG + 100;
    const ROUNDS: usize = CONTROL + 100;
    let redis = PrivateRedis::start_with(&[], &[]).await;
    let app =
        App::builder().redis(redis.url()).workers(0).with("RILL_WRITE_TIMEOUT", "6s").start().await;
    let tasks = running_tasks(&app, STREAMS).await;
    let start = Instant::now();
    let large = format!(r#"{{"text":"0 {}"}}"#, "x".repeat(8_000));
    for round in 1..BACKLOG {
        append_to_all(&app, &mut app.redis().await, &tasks, round, "delta", &large).await;
    }
    let others = tasks[..OTHERS].iter().map(|task| measure(&app, task.to_string(), start));
    let readers = || async { app.metric("rill_readers_open", "").await as usize };
    // The first may be cut off before the last has come.
    let opened = || async { app.metric("rill_streams_opened_total", "").await as usize };
    let writing = async {
        eventually("the others are there", || async { readers().await == OTHERS }).await;
        write(&app, &tasks, BACKLOG..CONTROL, start).await;
        let (before, mut stuck) = (resident(&app.api), Vec::new());
        for number in 0..STUCK {
            let task = tasks[number % STREAMS];
            stuck.push(ask(&app, &format!("/v1/tasks/{task}/stream")).await);
            // Not so many at once that they are refused.
            eventually("it is there", || async {
                number % 20 > 0 || opened().await + 20 > OTHERS + number
            })
            .await;
        }
        eventually("they are there", || async { opened().await == OTHERS + STUCK }).await;
        let mut peak = resident(&app.api);
        let half = usize::midpoint(CONTROL, ROUNDS);
        for rounds in [CONTROL..half, half..ROUNDS] {
            write(&app, &tasks, rounds, start).await;
            peak = peak.max(resident(&app.api));
        }
        eventually("the stuck are cut off", || async { readers().await == OTHERS }).await;
        drop(stuck);
        let end =
            r#"{"message_id":"00000000-0000-0000-0000-000000000000","code":"x","message":"y"}"#;
        let mut redis = app.redis().await;
        append_to_all(&app, &mut redis, &tasks, ROUNDS, "failed", end).await;
        peak.saturating_sub(before)
    };
    let (seen, grown) =
        within("everybody is served", async { tokio::join!(join_all(others), writing) }).await;
    let all: Vec<String> = (1..ROUNDS).map(|seq| format!("1-{seq}")).collect();
    let (mut control, mut beside) = (Vec::new(), Vec::new());
    for reader in seen {
        let (ids, times): (Vec<_>, Vec<_>) = reader.into_iter().unzip();
        assert_eq!(ids, all, "somebody else missed events");
        control.extend_from_slice(&times[BACKLOG..CONTROL - 1]);
        beside.extend_from_slice(&times[CONTROL..]);
    }
    println!(
        "others' p99: {:?} alone, {:?} beside {STUCK} stuck readers; each of these cost {} KiB",
        p99(control),
        p99(beside),
        grown / STUCK as u64
    );
    assert!(grown <= KIB_EACH * STUCK as u64, "{grown} KiB for {STUCK} stuck readers");
}

/// Slow is not stuck: whoever reads at all, is served for as long as it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_one_byte_at_a_time_is_served_exactly() {
    let app = App::builder().with("RILL_WRITE_TIMEOUT", "2s").start().await;
    let posted = app.say("[[tokens=20000]] [[rate=0]] [[chunk=40]]").await;
    app.reaches(&posted, "done").await;
    let mut socket = ask(&app, &posted.stream_url).await;
    let (mut parser, mut answer, mut head) = (SseParser::default(), Answer::default(), Vec::new());
    let started = Instant::now();
    let mut count = 0_usize;
    let mut byte = [0];
    while within("a byte", socket.read(&mut byte)).await.expect("reads") > 0 {
        count += 1;
        if !head.ends_with(b"\r\n\r\n") {
            head.push(byte[0]);
            continue;
        }
        for sse in parser.feed(&byte) {
            let name = sse.event.parse().expect("a name");
            answer.apply(&Event::decode(name, sse.data.as_bytes()).expect("an event"));
        }
        // 50 KiB a second: a socket that is always full.
        if count.is_multiple_of(1024) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    println!("{count} bytes, one at a time, in {:?}", started.elapsed());
    assert!(answer == app.stored(&posted).await, "the text differs from PostgreSQL's");
}

/// A body that never comes. (Heads: `http::tests::who_sends_no_request_in_time_is_cut_off`,
/// since their limit, which idle connections share, is no option.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_slowly_is_cut_off_and_others_are_served() {
    const SLOW: usize = 200;
    let app = App::builder().with("RILL_BODY_TIMEOUT", "1s").start().await;
    let slow = (0..SLOW).map(|_| async {
        let mut socket = TcpStream::connect(address(&app)).await.expect("connects");
        let head = "POST /v1/conversations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                    Content-Length: 100000\r\n\r\n{";
        socket.write_all(head.as_bytes()).await.expect("asks");
        let (mut from, mut to) = socket.split();
        let trickle = async {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if to.write_all(b" ").await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut answer = Vec::new();
        tokio::select! {
            _ = from.read_to_end(&mut answer) => {}
            () = trickle => {}
        }
        String::from_utf8(answer).expect("HTTP")
    });
    let served = async {
        for _ in 0..5 {
            let posted = app.say("[[tokens=20]] [[rate=50]]").await;
            assert_eq!(app.read(&posted).await.answer, app.stored(&posted).await);
        }
    };
    let all = async { tokio::join!(join_all(slow), served) };
    let (answers, ()) = within("the slow are cut off", all).await;
    for answer in answers {
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
}
