//! Where a process listens.

use std::net::ToSocketAddrs;

use crate::support::{App, Process};

/// The port of `http://localhost:<port>` in the line with `text`.
async fn port(process: &Process, text: &str) -> u16 {
    let line = process.logged(text).await;
    let (_, rest) = line.split_once("http://localhost:").expect("the name, as it was written");
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a port")
}

async fn answers(app: &App, path: &str, port: u16) {
    for address in ("localhost", port).to_socket_addrs().expect("localhost is known") {
        let answer = app.client.get(format!("http://{address}{path}")).send().await;
        assert_eq!(answer.expect("answers").status(), 200, "{address}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_can_be_listened_on() {
    let mut app = App::builder().workers(0).start().await;
    let listen = |name: &str| (name.to_owned(), "localhost:0".to_owned());
    let environment =
        [&app.environment[..], &[listen("RILL_LISTEN"), listen("RILL_METRICS_LISTEN")]].concat();
    let api = Process::start(&["api"], &environment);
    answers(&app, "/healthz", port(&api, "rill is at").await).await;
    app.workers.push(Process::start(&["worker"], &environment));
    answers(&app, "/metrics", port(&app.workers[0], "metrics at").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_t_be_listened_on_is_refused_with_what_to_write() {
    for (option, role) in [("--listen", "api"), ("--listen", "up"), ("--metrics-listen", "worker")]
    {
        for bad in ["8080", "localhost", "http://localhost:8080", "::1:8080", "*:8080"] {
            let stores = ["DATABASE_URL", "REDIS_URL", "OPENAI_BASE_URL"]
                .map(|name| (name.to_owned(), "http://127.0.0.1:1/x".to_owned()));
            let mut process = Process::start(&[role, option, bad], &stores);
            assert!(!process.ended().await.success());
            let log = process.log();
            // As wide as a terminal may be.
            let log = log.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(log.contains(option) && log.contains("write 127.0.0.1:8080"), "{bad}: {log}");
        }
    }
}
