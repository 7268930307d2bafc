//! Behind other people's proxies, as Debian has them: what they do to tokens with their
//! defaults, and as `docs/proxies.md` recommends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::net::{TcpListener, TcpStream};

use crate::support::{App, Posted, Process, SseParser, eventually, within};

/// A proxy before the API, with its files in a directory of its own.
struct InFront {
    url: String,
    directory: PathBuf,
    _process: Process,
}

impl Drop for InFront {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Where Debian and Homebrew have them; not all of it is on everybody's `PATH`.
fn program(name: &str) -> String {
    let folders =
        std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin:/opt/homebrew/bin";
    let found = folders.split(':').map(|folder| format!("{folder}/{name}"));
    let found = found.into_iter().find(|path| std::path::Path::new(path).is_file());
    found.unwrap_or_else(|| panic!("there is no {name}: scripts/install {name}"))
}

/// `make_config` is given the addresses to listen on and to ask, and a directory.
async fn start(
    name: &str,
    arguments: &[&str],
    api: &str,
    make_config: impl Fn(SocketAddr, &str, &str) -> String,
) -> InFront {
    let directory = std::env::temp_dir().join(format!("rill-proxy-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&directory).expect("a directory");
    let free = TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr());
    let address = free.expect("a free port");
    let folder = directory.to_str().expect("text");
    let config = directory.join("config");
    let text = make_config(address, api.trim_start_matches("http://"), folder);
    std::fs::write(&config, text).expect("written");
    let config = config.to_str().expect("text");
    let arguments: Vec<_> =
        arguments.iter().map(|&a| if a == "CONFIG" { config } else { a }).collect();
    let process = Process::start_program(&program(name), &arguments, &[]);
    eventually(&format!("{name} listens"), || async { TcpStream::connect(address).await.is_ok() })
        .await;
    InFront { url: format!("http://{address}"), directory, _process: process }
}

/// nginx, with these lines in its `location`.
async fn nginx(api: &str, listen: &str, location: &str) -> InFront {
    start("nginx", &["-e", "stderr", "-c", "CONFIG"], api, |address, api, folder| {
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths = paths.map(|name| format!("{name}_temp_path {folder}/{name};")).concat();
        format!(
            "daemon off; master_process off; pid {folder}/pid; error_log stderr;
             events {{}}
             http {{
                 access_log off; {paths}
                 server {{
                     listen {address} {listen};
                     location / {{ proxy_pass http://{api}; {location} }}
                 }}
             }}"
        )
    })
    .await
}

/// HAProxy, with these lines in its `defaults`.
async fn haproxy(api: &str, bind: &str, defaults: &str) -> InFront {
    start("haproxy", &["-db", "-f", "CONFIG"], api, |address, api, _| {
        format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             {defaults}\nfrontend f\n bind {address} {bind}\n default_backend b\nbackend b\n server s {api}\n"
        )
    })
    .await
}

/// HTTP/1.1, or HTTP/2 in clear text.
fn client(http2: bool) -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy();
    let client = if http2 { client.http2_prior_knowledge() } else { client.http1_only() };
    client.build().expect("a client")
}

/// What came over one connection.
#[derive(Debug, Default)]
struct Arrivals {
    /// By the events' IDs.
    times: HashMap<String, Instant>,
    /// In how many pieces.
    pieces: usize,
    last: String,
}

/// Reads an answer to its end over one connection.
async fn arrivals(client: reqwest::Client, url: String) -> Arrivals {
    let response = client.get(url).send().await.expect("the proxy answers");
    assert_eq!(response.status(), 200);
    let (mut body, mut parser) = (response.bytes_stream(), SseParser::default());
    let mut seen = Arrivals::default();
    while let Some(piece) = body.next().await {
        let now = Instant::now();
        for event in parser.feed(&piece.expect("a piece")).into_iter().filter(|e| e.event != "ping")
        {
            seen.times.insert(event.id, now);
            seen.last = event.event;
        }
        seen.pieces += 1;
        if seen.last == "done" {
            break;
        }
    }
    assert_eq!(seen.last, "done", "the answer ended early");
    seen
}

/// Reads an answer directly and through a proxy; what the proxy adds to each token, sorted.
async fn delays(app: &App, name: &str, front: &InFront, http2: bool) -> Vec<Duration> {
    let posted = app.say("[[tokens=60]] [[rate=30]]").await;
    let url = |base: &str| format!("{base}{}", posted.stream_url);
    let both = async {
        tokio::join!(
            arrivals(client(false), url(&app.url)),
            arrivals(client(http2), url(&front.url))
        )
    };
    let (direct, through) = within("both readers are done", both).await;
    let mut added: Vec<_> = through
        .times
        .iter()
        .map(|(id, time)| time.saturating_duration_since(direct.times[id]))
        .collect();
    added.sort_unstable();
    assert_eq!(added.len(), direct.times.len());
    let ms = |share: usize| added[(added.len() - 1) * share / 100].as_secs_f64() * 1000.0;
    println!(
        "| {name} | {:.1} | {:.1} | {} of {} |",
        ms(50),
        ms(99),
        through.pieces,
        direct.pieces
    );
    // One by one, not when a buffer is full, or at the end. (A busy machine joins some.)
    assert!(through.pieces * 4 > direct.pieces, "{name}: {} pieces", through.pieces);
    let first = through.times.values().min().expect("events");
    let end = direct.times.values().max().expect("events");
    assert!(first < end, "{name}: everything came at the end");
    added
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_come_one_by_one_through_nginx_and_haproxy() {
    let app = App::start().await;
    println!("| proxy | median, ms | 99th percentile | pieces |\n|---|---|---|---|");
    let front = nginx(&app.url, "", "").await;
    delays(&app, "nginx, its defaults (HTTP/1.0 to rill)", &front, false).await;
    let keepalive = "proxy_http_version 1.1; proxy_set_header Connection '';";
    let front = nginx(&app.url, "", keepalive).await;
    delays(&app, "nginx, `proxy_http_version 1.1`", &front, false).await;
    let front = nginx(&app.url, "http2", keepalive).await;
    delays(&app, "nginx, HTTP/2 to the client", &front, true).await;
    let front = haproxy(&app.url, "", "").await;
    let default = delays(&app, "HAProxy, its defaults", &front, false).await;
    let front = haproxy(&app.url, "", " option http-no-delay").await;
    let no_delay = delays(&app, "HAProxy, `option http-no-delay`", &front, false).await;
    let front = haproxy(&app.url, "proto h2", "").await;
    delays(&app, "HAProxy, HTTP/2 to the client", &front, true).await;
    // What the document says; it would hold if they were far closer.
    let median = |delays: &[Duration]| delays[delays.len() / 2];
    assert!(median(&no_delay) < median(&default), "{no_delay:?} {default:?}");
}

/// Whether an answer that is silent for so long comes over one connection.
async fn survives_silence(app: &App, front: &InFront) {
    let posted: Posted = app.say("[[ttft=5s]] [[tokens=3]] [[rate=0]]").await;
    let url = format!("{}{}", front.url, posted.stream_url);
    within("the answer", arrivals(client(false), url)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_keep_a_silent_stream_open_through_proxies_with_idle_timeouts() {
    let app = App::builder().with("RILL_PING_INTERVAL", "500ms").start().await;
    let nginx = nginx(&app.url, "", "proxy_read_timeout 3s; send_timeout 3s;").await;
    let haproxy = haproxy(&app.url, "", " timeout client 3s\n timeout server 3s").await;
    tokio::join!(survives_silence(&app, &nginx), survives_silence(&app, &haproxy));
}
