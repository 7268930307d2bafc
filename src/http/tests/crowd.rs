//! More clients than there are slots.

use super::*;

fn slots(count: usize) -> Limits {
    Limits { max_connections: count, probes: &["/healthz"], ..Limits::default() }
}

impl TestServer {
    /// One request on a connection of its own; its answer, to the end of `body`.
    async fn ask(&self, path: &str) -> String {
        let mut client = self.connect(&get(path)).await;
        let mut answer = String::new();
        while !["hello", "Connections", "Requests"].iter().any(|end| answer.ends_with(end)) {
            match timeout(SOON, client.read_u8()).await.expect("in time") {
                Ok(byte) => answer.push(char::from(byte)),
                Err(_) => break,
            }
        }
        answer
    }

    /// Asks until it is served: a connection gives its slot when it has been
    /// idle for a second.
    pub(super) async fn until_answered(&self, path: &str) -> String {
        let served = async {
            loop {
                let answer = self.ask(&format!("/{path}")).await;
                if answer.starts_with("HTTP/1.1 200") {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(2 * SOON, served).await.expect("served in time")
    }

    /// Clients that connected, and say nothing.
    async fn silent(&self, count: usize) -> Vec<TcpStream> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(self.connect("").await);
        }
        clients
    }
}

#[tokio::test]
async fn probes_are_answered_when_silent_clients_hold_every_slot_and_every_place() {
    let server = TestServer::start(slots(3)).await;
    let _silent = server.silent(3 + 2 * SPARE).await;
    for _ in 0..3 {
        let answer = server.ask("/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // Others are served as well once the silent have been idle.
    server.until_answered("hello").await;
}

#[tokio::test]
async fn beyond_the_slots_a_request_is_refused_and_its_connection_ends() {
    let server = TestServer::start(slots(2)).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect(&get("/idle")).await;
        read_until(&mut stream, "first\n\r\n").await;
        streams.push(stream);
    }
    // A second request behind it isn't looked at.
    let mut refused = server.connect(&get("/hello").repeat(2)).await;
    let answer = read_all(&mut refused).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("connection: close") && answer.ends_with("Connections"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    let mut probe = server.connect(&get("/healthz")).await;
    let answer = read_all(&mut probe).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    // A stream that ends leaves its slot.
    drop(streams.pop());
    server.until_answered("hello").await;
}

/// The kernel resets a connection that is closed with bytes unread; more bytes
/// than its buffers hold.
#[tokio::test]
async fn who_sends_a_large_body_is_told_that_it_is_refused() {
    const BODY: usize = 32 * 1024 * 1024;
    let server = TestServer::start(Limits { max_body: BODY, ..slots(1) }).await;
    let mut stream = server.connect(&get("/idle")).await;
    read_until(&mut stream, "first\n\r\n").await;
    let head = format!("POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY}\r\n\r\n");
    let mut refused = server.connect(&head).await;
    refused.write_all(&vec![b'x'; BODY]).await.expect("sent");
    let answer = read_all(&mut refused).await;
    assert!(answer.ends_with("Connections"), "{answer}");
    // Who waits for leave is told before it sends.
    let mut waiting = server
        .connect(
            "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
        )
        .await;
    let answer = read_all(&mut waiting).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
}

#[tokio::test]
async fn the_longest_idle_connection_ends_for_a_new_one() {
    let server = TestServer::start(slots(3)).await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        let mut client = server.connect(&get("/hello")).await;
        read_until(&mut client, "hello").await;
        idle.push(client);
    }
    // The first one is used again, and so not the longest idle.
    idle[0].write_all(get("/hello").as_bytes()).await.expect("sent");
    read_until(&mut idle[0], "hello").await;
    server.until_answered("hello").await;
    assert_eq!(read_all(&mut idle[1]).await, "");
    for at in [0, 2] {
        idle[at].write_all(get("/hello").as_bytes()).await.expect("sent");
        read_until(&mut idle[at], "hello").await;
    }
}

#[tokio::test]
async fn thousands_of_connects_that_close_at_once_leave_every_slot_free() {
    let server = TestServer::start(slots(20)).await;
    for count in 0..3_000 {
        let client = TcpStream::connect(server.address).await.expect("a connection");
        if count % 2 == 0 {
            // Closes with a reset.
            client.set_zero_linger().expect("set");
        }
    }
    let mut streams = Vec::new();
    let opened = async {
        while streams.len() < 20 {
            let mut stream = server.connect(&get("/idle")).await;
            let head = read_until(&mut stream, "\r\n\r\n").await;
            if head.starts_with("HTTP/1.1 200") {
                streams.push(stream);
            }
        }
    };
    timeout(SOON, opened).await.expect("slots are free");
    assert!(server.ask("/hello").await.starts_with("HTTP/1.1 503"));
}

#[tokio::test]
async fn an_open_stream_never_ends_for_a_new_client() {
    let short = Duration::from_millis(700);
    let limits = Limits { keep_alive: short, first_request_timeout: short, ..slots(1) };
    let mut server = TestServer::start(limits).await;
    let mut stream = server.connect(&get("/idle")).await;
    read_until(&mut stream, "first\n\r\n").await;
    assert_eq!(server.sees().await, Seen::Opened);
    for _ in 0..8 {
        assert!(server.ask("/hello").await.starts_with("HTTP/1.1 503"));
        tokio::time::sleep(short / 3).await;
    }
    assert!(server.seen.try_recv().is_err(), "the stream was dropped");
}

#[test]
fn proxies_may_keep_connections_for_longer_than_a_minute() {
    assert!(Limits::default().keep_alive >= Duration::from_secs(75));
    assert!(Limits::default().first_request_timeout <= Duration::from_secs(10));
}
