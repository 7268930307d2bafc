//! Clients that say nothing, say it slowly, or not in HTTP.

use super::*;

/// Long enough for whoever sends at once, on a busy machine.
const SHORT: Duration = Duration::from_millis(700);

fn limits() -> Limits {
    Limits { first_request_timeout: SHORT, ..Limits::default() }
}

#[tokio::test]
async fn who_sends_no_request_in_time_is_cut_off() {
    let server = TestServer::start(limits()).await;
    let sent = [
        "",
        "P",
        "GET /hello HTTP/1.1\r\nHost: x\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        // An empty SETTINGS frame behind it: HTTP/2 is spoken.
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0",
    ];
    let clients = sent.map(|text| server.connect(text));
    for mut client in futures_util::future::join_all(clients).await {
        read_all(&mut client).await;
    }
    // Others are not affected.
    let mut client = server.connect(&get("/idle")).await;
    tokio::time::sleep(2 * SHORT).await;
    read_until(&mut client, "first\n\r\n").await;
    assert!(timeout(Duration::from_millis(100), client.read_u8()).await.is_err());
}

#[tokio::test]
async fn a_head_that_comes_drop_by_drop_is_as_silence() {
    let server = TestServer::start(limits()).await;
    let mut client = server.connect("GET /hello HTTP/1.1\r\nHost: x\r\n").await;
    let dripping = async {
        while client.write_all(b"X-Drop: 1\r\n").await.is_ok() {
            tokio::time::sleep(SHORT / 20).await;
        }
    };
    timeout(SOON, dripping).await.expect("an end");
}

#[tokio::test]
async fn an_idle_connection_ends_even_when_its_next_head_drips() {
    let limits = Limits { keep_alive: SHORT, write_timeout: SHORT, ..Limits::default() };
    let server = TestServer::start(limits).await;
    let mut idle = server.connect(&get("/hello")).await;
    read_until(&mut idle, "hello").await;
    let mut dripping = server.connect(&get("/hello")).await;
    read_until(&mut dripping, "hello").await;
    dripping.write_all(b"GET /hello HTTP/1.1\r\n").await.expect("sent");
    assert_eq!(read_all(&mut idle).await, "");
    assert_eq!(read_all(&mut dripping).await, "");
}

#[tokio::test]
async fn a_tls_hello_on_the_plain_port_ends_at_once() {
    let server = TestServer::start(Limits::default()).await;
    // A handshake record of 512 bytes, of which a few come.
    for hello in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"\x16"] {
        let mut client = server.connect("").await;
        client.write_all(hello).await.expect("sent");
        let mut answer = Vec::new();
        let _ = timeout(SOON, client.read_to_end(&mut answer)).await.expect("an end");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = TestServer::start(Limits { max_connections: 1, ..Limits::default() }).await;
    let mut client = server.connect(&[get("/hello"), get("/none")].concat().repeat(100)).await;
    for _ in 0..100 {
        read_until(&mut client, "hello").await;
        let next = read_until(&mut client, "\r\n\r\n").await;
        assert!(next.starts_with("HTTP/1.1 404"), "{next}");
    }
    // And the last one's end was noticed: the slot can be had.
    server.until_answered("hello").await;
}

#[tokio::test]
async fn sockets_are_set_to_notice_who_vanished() {
    use rustix::net::sockopt;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (_client, (socket, _)) = (client.expect("connects"), accepted.expect("accepted"));
    let limits = Limits::default().write_timeout(Duration::from_secs(5));
    // Not sooner than a network may fail for a moment.
    assert_eq!(limits.patience, Duration::from_secs(20));
    socket::prepare(&socket, limits.patience);
    assert!(sockopt::socket_keepalive(&socket).expect("told"));
    let after = sockopt::tcp_keepidle(&socket).expect("told");
    let interval = sockopt::tcp_keepintvl(&socket).expect("told");
    let probes = sockopt::tcp_keepcnt(&socket).expect("told");
    assert!(after <= Duration::from_secs(15), "{after:?}");
    assert_eq!(after + interval * probes, Duration::from_secs(20));
    #[cfg(target_os = "linux")]
    assert_eq!(sockopt::tcp_user_timeout(&socket).expect("told"), 20_000);
}
