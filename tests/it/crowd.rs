//! More clients than an API may have.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::support::{App, eventually, within};

fn address(app: &App) -> &str {
    app.url.strip_prefix("http://").expect("a URL")
}

async fn connect(app: &App) -> TcpStream {
    TcpStream::connect(address(app)).await.expect("connects")
}

/// A problem, with the status and the headers that it came with.
async fn problem(answer: reqwest::Response) -> (u16, reqwest::header::HeaderMap, Value) {
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    (status, headers, answer.json().await.expect("JSON"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_keep_nobody_out() {
    const SLOTS: usize = 50;
    let app =
        App::builder().workers(0).with("RILL_MAX_CONNECTIONS", &SLOTS.to_string()).start().await;
    let mut silent = Vec::new();
    for _ in 0..SLOTS {
        silent.push(connect(&app).await);
    }
    for probe in ["/healthz", "/readyz", "/metrics"] {
        let asked = Instant::now();
        let answer = app.client.get(format!("{}{probe}", app.url)).send().await.expect("answers");
        assert_eq!(answer.status(), 200, "{probe}");
        println!("{SLOTS} silent connections of {SLOTS}: {probe} after {:?}", asked.elapsed());
    }
    // And others, once one of the silent has been idle for a second.
    eventually("a request is served", || async { app.get("/v1/models").await.0 == 200 }).await;
    assert!(app.metric("rill_connections_closed_total", "evicted").await >= 1.0);
    // The rest end by themselves.
    let ends = futures_util::future::join_all(silent.iter_mut().map(|silent| async {
        let _ = silent.read_to_end(&mut Vec::new()).await;
    }));
    within("all silent connections end", ends).await;
    let ended = app.metric("rill_connections_closed_total", "").await;
    assert!(ended >= SLOTS as f64, "{ended}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_beyond_the_connections_is_told_and_probes_are_answered() {
    let app = App::builder().workers(0).with("RILL_MAX_CONNECTIONS", "3").start().await;
    let posted = app.say("for nobody").await;
    let mut streams = Vec::new();
    // What asked before may be there still.
    let opened = async {
        while streams.len() < 3 {
            let stream = app.client.get(format!("{}{}", app.url, posted.stream_url)).send();
            let stream = stream.await.expect("a head");
            if stream.status() == 200 {
                streams.push(stream);
            }
        }
    };
    within("three streams", opened).await;
    let before = app.metric("rill_http_overloaded_total", "connections").await;
    for path in ["/v1/models", &posted.stream_url] {
        let answer = app.client.get(format!("{}{path}", app.url)).send().await.expect("answers");
        let (status, headers, body) = problem(answer).await;
        assert_eq!((status, body["code"].as_str()), (503, Some("overloaded")), "{body}");
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(headers["retry-after"], "5");
        assert_eq!(headers["connection"], "close");
        assert!(headers.contains_key("x-request-id"));
        assert!(body["detail"].as_str().is_some_and(|text| text.contains("--max-connections")));
    }
    for probe in ["/healthz", "/readyz"] {
        assert_eq!(app.get(probe).await.0, 200);
    }
    let refused = app.metric("rill_http_overloaded_total", "connections").await - before;
    assert_eq!(refused, 2.0);
    assert!(app.api.log().contains("all connections are taken"), "{}", app.api.log());
    drop(streams.pop());
    eventually("its slot is free", || async { app.get("/v1/models").await.0 == 200 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_http_2_are_bounded() {
    let app = App::builder().workers(0).with("RILL_MAX_STREAMS", "5").start().await;
    let posted = app.say("for nobody").await;
    let url = format!("{}{}", app.url, posted.stream_url);
    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build();
    let client = client.expect("a client");
    let mut streams = Vec::new();
    for _ in 0..5 {
        let stream = client.get(&url).send().await.expect("a head");
        assert_eq!(stream.status(), 200);
        streams.push(stream);
    }
    eventually("one connection, and that of who asks", || async {
        app.metric("rill_connections_open", "").await == 2.0
    })
    .await;
    let (status, headers, body) = problem(client.get(&url).send().await.expect("a head")).await;
    assert_eq!((status, body["code"].as_str()), (503, Some("overloaded")), "{body}");
    assert_eq!(headers["retry-after"], "5");
    assert!(body["detail"].as_str().is_some_and(|text| text.contains("--max-streams")), "{body}");
    let probe = client.get(format!("{}/readyz", app.url)).send().await.expect("answers");
    assert_eq!(probe.status(), 200);
    assert_eq!(app.metric("rill_http_overloaded_total", "requests").await, 1.0);
    drop(streams.pop());
    eventually("a stream's end makes place", || async {
        let answer = client.get(format!("{}/v1/models", app.url)).send().await;
        answer.expect("answers").status() == 200
    })
    .await;
}

/// Each says nothing and stays, faster than they are cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_silent_clients_keeps_no_probe_out() {
    const SILENT: usize = 800;
    let app = App::builder().workers(0).with("RILL_MAX_CONNECTIONS", "20").start().await;
    let address = address(&app).to_owned();
    let flood = tokio::spawn(async move {
        let mut held = Vec::new();
        for _ in 0..SILENT {
            held.push(TcpStream::connect(&address).await.expect("connects"));
        }
        held
    });
    let mut longest = Duration::ZERO;
    let mut probed = 0;
    while !flood.is_finished() || probed < 20 {
        let asked = Instant::now();
        assert_eq!(app.get("/healthz").await.0, 200);
        longest = longest.max(asked.elapsed());
        probed += 1;
    }
    println!("{probed} probes during the flood, the longest took {longest:?}");
    let held = flood.await.expect("connects");
    assert_eq!(held.len(), SILENT);
    assert!(app.metric("rill_connections_closed_total", "crowded").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_at_a_worker_s_metrics_keeps_no_probe_out() {
    let mut app = App::builder().workers(0).start().await;
    app.start_worker_with(&[("RILL_METRICS_LISTEN", "127.0.0.1:0")]);
    let address = app.workers[0].address("metrics at").await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(&address).await.expect("connects"));
    }
    for probe in ["/healthz", "/readyz", "/metrics"] {
        let answer = app.client.get(format!("http://{address}{probe}")).send().await;
        assert_eq!(answer.expect("answers").status(), 200, "{probe}");
    }
}

/// Each says nothing and goes; those who follow find everything as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_connects_leaves_nothing_behind() {
    let app = App::builder().workers(0).with("RILL_MAX_CONNECTIONS", "100").start().await;
    let address = address(&app).to_owned();
    let flood = tokio::spawn(async move {
        for _ in 0..5_000 {
            let client = TcpStream::connect(&address).await.expect("connects");
            let _ = client.set_zero_linger();
        }
    });
    let mut probed = 0;
    while !flood.is_finished() {
        assert_eq!(app.get("/healthz").await.0, 200);
        probed += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("{probed} probes during the flood");
    eventually("all are gone", || async { app.metric("rill_connections_open", "").await <= 1.0 })
        .await;
    assert_eq!(app.get("/v1/models").await.0, 200);
}
