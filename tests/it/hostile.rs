//! A request costs what its bytes cost: memory and CPU are bounded for each byte,
//! whatever the bytes say, and others are answered meanwhile.

#![cfg(target_os = "linux")]

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{App, Process, within};

/// The largest body that is taken.
const SIZE: usize = 256 * 1024;

/// Bytes of memory for a byte of request, of one that has the largest size. (Buffers
/// of the connection and of the body itself are among them.)
const MEMORY: f64 = 32.0;
/// Nanoseconds of CPU for a byte of request, in a build without optimization.
const CPU: f64 = 2_500.0;
/// The longest that a probe may wait meanwhile, on a machine that is busy.
const WAIT: Duration = Duration::from_secs(5);

/// One request, as it is written to the socket.
struct Hostile {
    name: &'static str,
    bytes: Vec<u8>,
}

/// A text of the largest size: `unit` repeated between the two others.
fn filled(start: &str, unit: &str, end: &str) -> String {
    let room = SIZE - start.len() - end.len();
    let mut text = start.to_owned();
    text.extend(std::iter::repeat_n(unit, room / unit.len()));
    text.trim_end_matches(',').to_owned() + end
}

/// The same with a number in each unit.
fn counted(start: &str, unit: impl Fn(usize) -> String, end: &str) -> String {
    let mut text = start.to_owned();
    for n in 0.. {
        let unit = unit(n);
        if text.len() + unit.len() + end.len() > SIZE {
            break;
        }
        text += &unit;
    }
    text.trim_end_matches(',').to_owned() + end
}

fn bodies() -> Vec<(&'static str, String)> {
    let parameters = |inner: (&str, &str, &str)| {
        let start = r#"{"content":"x","tools":[{"type":"function","function":{"name":"a","parameters":{"x":["#;
        filled(&format!("{start}{}", inner.0), inner.1, &format!("{}]}}}}}}]}}", inner.2))
    };
    let slashes = "/".repeat(SIZE / 2);
    vec![
        ("NUL below a long name", filled(&format!("{{\"{slashes}\":["), r#""\u0000","#, "]}")),
        (
            "NUL at great depth",
            filled(
                &format!("{{\"a\":{}", "[".repeat(120)),
                r#""\u0000","#,
                &format!("{}}}", "]".repeat(120)),
            ),
        ),
        ("NUL in many names", counted("{", |n| format!("\"{n}\\u0000\":0,"), "}")),
        ("arrays, ever deeper", "[".repeat(SIZE)),
        ("objects, ever deeper", filled("", "{\"\":", "")),
        ("empty arrays", filled("{\"x\":[", "[],", "]}")),
        ("empty objects", filled("{\"x\":[", "{},", "]}")),
        ("small objects", filled("{\"x\":[", "{\"\":0},", "]}")),
        ("numbers", filled("{\"x\":[", "0,", "]}")),
        ("one number", filled("{\"x\":", "1", "}")),
        ("one fraction", filled("{\"x\":0.", "1", "}")),
        ("exponents", filled("{\"x\":[", "1e308,", "]}")),
        ("an exponent without end", filled("{\"x\":1e", "9", "}")),
        ("many fields", counted("{\"x\":{", |n| format!("\"{n:x}\":0,"), "}}")),
        ("many fields with escapes", counted("{\"x\":{", |n| format!("\"\\t{n:x}\":0,"), "}}")),
        ("a field twice, at the end", counted("{\"0\":1,", |n| format!("\"{n:x}\":0,"), "}")),
        (
            "a long field twice",
            filled(&format!("{{\"{}\":1,\"", "a".repeat(SIZE / 2 - 16)), "a", "\":1}"),
        ),
        ("an unknown field", filled("{\"", "é", "\":1}")),
        ("an unknown field of escapes", filled("{\"", "\\u001b", "\":1}")),
        ("a text for a number", filled("{\"content\":\"x\",\"temperature\":\"", "\\u200b", "\"}")),
        ("many texts for a number", filled("{\"content\":\"x\",\"max_tokens\":[", "\"a\",", "]}")),
        ("an unknown role of parts", filled("{\"content\":[{\"type\":\"", "x", "\"}]}")),
        ("empty parts", filled("{\"content\":[", r#"{"type":"text","text":""},"#, "]}")),
        (
            "small parts",
            filled("{\"content\":[", r#"{"type":"text","text":"a"},"#, "],\"model\":\"nobody\"}"),
        ),
        (
            "parts of no URL",
            filled("{\"content\":[", r#"{"type":"image_url","image_url":{"url":""}},"#, "]}"),
        ),
        (
            "a part's tree, before its type",
            filled("{\"content\":[{\"x\":[", "[],", "],\"type\":\"text\"}]}"),
        ),
        (
            "a part's tree, after its type",
            filled("{\"content\":[{\"type\":\"text\",\"text\":[", "0,", "]}]}"),
        ),
        ("many stops", filled("{\"content\":\"x\",\"stop\":[", "\"\",", "]}")),
        (
            "many tools without a name",
            filled(
                "{\"content\":\"x\",\"tools\":[",
                r#"{"type":"function","function":{"name":""}},"#,
                "]}",
            ),
        ),
        ("a tool's tree of arrays", parameters(("", "[],", ""))),
        ("a tool's tree of numbers", parameters(("", "1,", ""))),
        ("a tool's tree of fields", parameters(("", "{\"\":0},", ""))),
        ("a tool's deep trees", parameters(("", "[[[[[[[[0]]]]]]]],", ""))),
        (
            "a format's tree",
            filled(
                r#"{"content":"x","response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"x":["#,
                "{\"\":0},",
                "]}}}}",
            ),
        ),
        (
            "a format's tree, before its type",
            filled(
                "{\"content\":\"x\",\"response_format\":{\"x\":[",
                "0,",
                "],\"type\":\"text\"}}",
            ),
        ),
        (
            "results of one call",
            filled("{\"tool_results\":[", r#"{"tool_call_id":"a","content":""},"#, "]}"),
        ),
        (
            "results of many calls",
            counted(
                "{\"tool_results\":[",
                |n| format!("{{\"tool_call_id\":\"{n}\",\"content\":\"\"}},"),
                "]}",
            ),
        ),
        ("a text of escapes", filled("{\"content\":\"", "\\u00e9", "\"}")),
        ("a text of pairs", filled("{\"content\":\"", "\\ud83d\\ude00", "\"}")),
        ("a text of line separators", filled("{\"content\":\"", "\u{2028}", "\"}")),
        ("a model's name", filled("{\"content\":\"x\",\"model\":\"", "\u{7f}", "\"}")),
        ("white space", " ".repeat(SIZE)),
        ("white space before an end", filled("{\"content\":\"x\"", "\n", "]")),
        ("a text without end", filled("{\"content\":\"", "\\\\", "")),
    ]
}

fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn get(path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
        .into_bytes()
}

fn corpus(conversation: &str) -> Vec<Hostile> {
    let messages = format!("/v1/conversations/{conversation}/messages");
    let mut corpus = Vec::new();
    for (name, body) in bodies() {
        // With a key, so that what is sound is hashed as well.
        let key = format!("Idempotency-Key: {}\r\n", uuid::Uuid::new_v4());
        corpus.push(Hostile { name, bytes: post(&messages, &key, body.as_bytes()) });
    }
    let invalid =
        [filled("{\"content\":\"", "é", "   ").trim_end().as_bytes(), b"\xff\"}"].concat();
    corpus.push(Hostile { name: "no UTF-8, at the end", bytes: post(&messages, "", &invalid) });
    let title = filled("{\"title\":\"", "ü", "\"}");
    corpus
        .push(Hostile { name: "a title", bytes: post("/v1/conversations", "", title.as_bytes()) });
    // The body a byte at a time: four bytes of frame for each.
    let mut chunked = format!(
        "POST {messages} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    for _ in 0..SIZE / 8 {
        let _ = write!(chunked, "1\r\n[\r\n");
    }
    chunked += "0\r\n\r\n";
    corpus.push(Hostile { name: "a byte a chunk", bytes: chunked.into_bytes() });
    // What has no body is bounded by what a head may have.
    const HEAD: usize = 48 * 1024;
    let stream = format!("/v1/tasks/{}/stream", uuid::Uuid::new_v4());
    for (name, bytes) in [
        ("a query of many names", get(&format!("/v1/conversations?{}", "a&".repeat(HEAD / 2)), "")),
        (
            "a query of escapes",
            get(&format!("/v1/conversations?cursor={}", "%41".repeat(HEAD / 3)), ""),
        ),
        (
            "a query of one name, often",
            get(&format!("/v1/conversations?{}", "limit=1&".repeat(HEAD / 8)), ""),
        ),
        ("a long path", get(&format!("/v1/tasks/{}", "a".repeat(HEAD)), "")),
        ("a path of many steps", get(&"/a".repeat(HEAD / 2), "")),
        ("a path of escapes", get(&format!("/v1/tasks/{}", "%41".repeat(HEAD / 3)), "")),
        ("many cursors", get(&stream, &format!("Last-Event-ID: {}\r\n", "1-2,".repeat(HEAD / 4)))),
        ("cursors of commas", get(&stream, &format!("Last-Event-ID: {}\r\n", ",".repeat(HEAD)))),
        (
            "a key",
            post(
                &messages,
                &format!("Idempotency-Key: {}\r\n", "k".repeat(HEAD)),
                b"{\"content\":\"x\"}",
            ),
        ),
        (
            "many fields of the head",
            get("/v1/models", &"Origin: https://evil.example\r\n".repeat(90)),
        ),
        ("a host", get("/v1/models", &format!("Host: {}\r\n", "a.".repeat(HEAD / 2)))),
        (
            "an origin",
            post(
                "/v1/conversations",
                &format!("Origin: https://{}\r\n", "a.".repeat(HEAD / 2)),
                b"{}",
            ),
        ),
        (
            "many encodings",
            post(
                "/v1/conversations",
                &format!("Content-Encoding: {}\r\n", "gzip,".repeat(HEAD / 5)),
                b"{}",
            ),
        ),
        (
            "a media type",
            post(
                "/v1/conversations",
                &format!("Content-Type: application/json{}\r\n", ";a=b".repeat(HEAD / 4)),
                b"{}",
            ),
        ),
    ] {
        corpus.push(Hostile { name, bytes });
    }
    corpus
}

/// What the kernel has counted of a process.
struct Counted {
    resident: u64,
    highest: u64,
    cpu: Duration,
}

impl Counted {
    fn of(process: &Process) -> Self {
        let folder = std::path::PathBuf::from(format!("/proc/{}", process.pid()));
        let status = std::fs::read_to_string(folder.join("status")).expect("the process runs");
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
        };
        // Nanoseconds on a CPU, of each thread: `utime` and `stime` are in hundredths of a second.
        let threads = std::fs::read_dir(folder.join("task")).expect("threads").flatten();
        let ran = threads.filter_map(|thread| {
            let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        });
        Self {
            resident: kib("VmRSS:"),
            highest: kib("VmHWM:"),
            cpu: Duration::from_nanos(ran.sum()),
        }
    }

    /// The highest is counted from here.
    fn reset(process: &Process) {
        std::fs::write(format!("/proc/{}/clear_refs", process.pid()), "5").expect("it is ours");
    }
}

/// Sends the bytes, and reads to the connection's end.
async fn answer(address: &str, bytes: &[u8]) -> Vec<u8> {
    let socket = TcpStream::connect(address).await.expect("a connection");
    let (mut reader, mut writer) = socket.into_split();
    let send = async {
        // Refused early, the rest is not read.
        let _ = writer.write_all(bytes).await;
        writer
    };
    let mut answer = Vec::new();
    let read = async {
        // A reset after the answer ends it as well.
        let _ = reader.read_to_end(&mut answer).await;
    };
    within("an answer", async { tokio::join!(send, read) }).await;
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_request_costs_no_more_than_its_bytes_and_nobody_waits_for_it() {
    // Freed memory is given back at once: otherwise the next request would find it there.
    let app = App::builder().workers(0).with("MIMALLOC_PURGE_DELAY", "0").start().await;
    let conversation = app.conversation().await;
    let address = app.url.strip_prefix("http://").expect("an address").to_owned();

    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let watching = tokio::spawn({
        let (over, asked, address) = (over.clone(), asked.clone(), address.clone());
        async move {
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let began = Instant::now();
                let health = answer(&address, &get("/healthz", "")).await;
                assert!(
                    health.starts_with(b"HTTP/1.1 200"),
                    "{}",
                    String::from_utf8_lossy(&health)
                );
                longest = longest.max(began.elapsed());
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            longest
        }
    });

    let mut figures = Vec::new();
    for hostile in corpus(&conversation) {
        Counted::reset(&app.api);
        let before = Counted::of(&app.api);
        let answered = answer(&address, &hostile.bytes).await;
        let after = Counted::of(&app.api);
        let status = String::from_utf8_lossy(answered.get(9..12).unwrap_or_default()).into_owned();
        assert!(
            (200..500).contains(&status.parse::<u16>().unwrap_or(0)),
            "{}: {}",
            hostile.name,
            String::from_utf8_lossy(&answered)
        );
        assert!(answered.len() < 32 * 1024, "{}: {} bytes of answer", hostile.name, answered.len());
        let bytes = hostile.bytes.len() as f64;
        let memory = after.highest.saturating_sub(before.resident) as f64 / bytes;
        let cpu = after.cpu.saturating_sub(before.cpu).as_nanos() as f64 / bytes;
        println!("{:<36} {status} {memory:>8.1} bytes, {cpu:>8.1} ns a byte", hostile.name);
        figures.push((hostile.name, memory, cpu));
    }
    over.store(true, Ordering::Relaxed);
    let longest = watching.await.expect("healthz is answered");
    let highest = |of: fn(&(&'static str, f64, f64)) -> f64| {
        *figures.iter().max_by(|one, other| of(one).total_cmp(&of(other))).expect("some")
    };
    let (memory, cpu) = (highest(|figure| figure.1), highest(|figure| figure.2));
    println!("highest: {:.1} bytes of memory a byte ({})", memory.1, memory.0);
    println!("highest: {:.1} ns of CPU a byte ({})", cpu.2, cpu.0);
    println!("healthz: {} times, the slowest took {longest:?}", asked.load(Ordering::Relaxed));
    assert!(memory.1 <= MEMORY, "{memory:?}");
    assert!(cpu.2 <= CPU, "{cpu:?}");
    assert!(longest <= WAIT, "healthz took {longest:?}");
    assert!(app.log_is_clean(), "{}", app.api.log());
}
