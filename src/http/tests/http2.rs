//! HTTP/2: many streams on a connection, each counted.

use futures_util::FutureExt;
use h2::client::{self, SendRequest};
use poem::http;

use super::*;

/// A connection, its requests sent by hand; nothing is read from its streams.
async fn connect(server: &TestServer) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let socket = TcpStream::connect(server.address).await.expect("a connection");
    let (sender, connection) = client::handshake(socket).await.expect("a handshake");
    (sender.ready().await.expect("ready"), tokio::spawn(connection))
}

/// The answer's head.
async fn ask(
    sender: &mut SendRequest<Bytes>,
    path: &str,
) -> Result<http::Response<h2::RecvStream>, h2::Error> {
    let request = http::Request::get(format!("http://x{path}")).body(()).expect("a request");
    let (answer, _) = sender.send_request(request, true)?;
    timeout(SOON, answer).await.expect("in time")
}

#[tokio::test]
async fn streams_of_http_2_are_counted_and_refused_beyond_the_limit() {
    let limits = Limits { max_requests: 3, probes: &["/healthz"], ..Limits::default() };
    let server = TestServer::start(limits).await;
    let (mut one, _one) = connect(&server).await;
    let (mut other, _other) = connect(&server).await;
    let mut open = Vec::new();
    for at in 0..3 {
        let sender = if at % 2 == 0 { &mut one } else { &mut other };
        let answer = ask(sender, "/idle").await.expect("a head");
        assert_eq!(answer.status(), StatusCode::OK);
        open.push(answer);
    }
    for sender in [&mut one, &mut other] {
        let refused = ask(sender, "/idle").await.expect("a head");
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let probe = ask(sender, "/healthz").await.expect("a head");
        assert_eq!(probe.status(), StatusCode::OK);
    }
    // The connection goes on, and a stream that ends makes place.
    drop(open.pop());
    let served = async {
        while ask(&mut other, "/idle").await.expect("a head").status() != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, served).await.expect("a place");
}

#[tokio::test]
async fn an_idle_http_2_connection_ends_and_one_with_a_stream_does_not() {
    let limits = Limits { keep_alive: Duration::from_millis(500), ..Limits::default() };
    let server = TestServer::start(limits).await;
    let (mut idle, ended) = connect(&server).await;
    assert_eq!(ask(&mut idle, "/hello").await.expect("a head").status(), StatusCode::OK);
    let (mut busy, mut running) = connect(&server).await;
    let stream = ask(&mut busy, "/idle").await.expect("a head");
    let end = timeout(SOON, ended).await.expect("an end").expect("no panic");
    // Asked to go, and not broken off.
    assert!(end.is_ok(), "{end:?}");
    assert!(timeout(Duration::from_secs(1), &mut running).await.is_err());
    drop(stream);
    timeout(SOON, running).await.expect("an end").expect("no panic").expect("asked to go");
}

#[tokio::test]
async fn an_idle_http_2_connection_gives_its_slot() {
    let server = TestServer::start(Limits { max_connections: 1, ..Limits::default() }).await;
    let (mut idle, ended) = connect(&server).await;
    assert_eq!(ask(&mut idle, "/hello").await.expect("a head").status(), StatusCode::OK);
    server.until_answered("hello").await;
    let end = timeout(SOON, ended).await.expect("an end").expect("no panic");
    assert!(end.is_ok(), "{end:?}");
}

#[tokio::test]
async fn beyond_the_slots_an_http_2_client_is_refused_and_asked_to_go() {
    let server = TestServer::start(Limits { max_connections: 1, ..Limits::default() }).await;
    let mut stream = server.connect(&get("/idle")).await;
    read_until(&mut stream, "first\n\r\n").await;
    let (mut refused, ended) = connect(&server).await;
    let answer = ask(&mut refused, "/hello").await.expect("a head");
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let mut body = answer.into_body();
    let text = timeout(SOON, body.data()).await.expect("in time").expect("a body").expect("bytes");
    assert_eq!(text, "refused: Connections");
    drop(body);
    timeout(SOON, ended).await.expect("an end").expect("no panic").expect("asked to go");
}

/// A window that takes anything, and a socket that is read no further than its
/// first bytes.
#[tokio::test]
async fn who_opens_every_stream_and_never_reads_its_socket_is_cut_off() {
    let limits = Limits { write_timeout: Duration::from_secs(1), ..Limits::default() };
    let max = limits.max_streams;
    let mut server = TestServer::start(limits).await;
    let (near, far) = tokio::io::duplex(1024 * 1024);
    let (mut sender, connection) = client::Builder::new()
        .initial_window_size(1024 * 1024)
        .initial_connection_window_size(64 * 1024 * 1024)
        .handshake::<_, Bytes>(near)
        .await
        .expect("a handshake");
    let connection = tokio::spawn(connection);
    // What the client writes goes through; of what it is sent, 64 KiB.
    let socket = TcpStream::connect(server.address).await.expect("a connection");
    let (mut from_server, mut to_server) = socket.into_split();
    let (mut from_client, mut to_client) = tokio::io::split(far);
    let sending = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        to_server
    });
    let mut answers = Vec::new();
    for _ in 0..max {
        let request = http::Request::get("http://x/endless").body(()).expect("a request");
        sender = sender.ready().await.expect("ready");
        answers.push(sender.send_request(request, true).expect("sent"));
    }
    let _ = tokio::io::copy(&mut (&mut from_server).take(64 * 1024), &mut to_client).await;
    for _ in 0..max {
        assert_eq!(server.sees().await, Seen::Dropped);
    }
    connection.abort();
    sending.abort();
}

/// It answers pings and takes other streams' bytes, but none of this one's.
#[tokio::test]
async fn a_stream_that_nobody_reads_ends_and_its_connection_goes_on() {
    let limits = Limits { write_timeout: Duration::from_millis(500), ..Limits::default() };
    let mut server = TestServer::start(limits).await;
    let socket = TcpStream::connect(server.address).await.expect("a connection");
    let (mut sender, connection) = client::Builder::new()
        .initial_window_size(16 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .handshake::<_, Bytes>(socket)
        .await
        .expect("a handshake");
    let running = tokio::spawn(connection);
    // One on which little happens, of which all was taken.
    let idle = ask(&mut sender, "/idle").await.expect("a head");
    assert_eq!(server.sees().await, Seen::Opened);
    let mut unread = ask(&mut sender, "/endless").await.expect("a head").into_body();
    assert_eq!(server.sees().await, Seen::Dropped);
    let reset = async {
        loop {
            match unread.data().await.expect("no clean end") {
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    };
    assert!(timeout(SOON, reset).await.expect("in time").is_reset());
    assert_eq!(ask(&mut sender, "/hello").await.expect("a head").status(), StatusCode::OK);
    assert!(server.seen.try_recv().is_err(), "the idle stream was dropped");
    drop(idle);
    assert_eq!(server.sees().await, Seen::Dropped);
    assert!(!running.is_finished());
}

#[tokio::test]
async fn bodies_that_nobody_reads_are_bounded_for_a_stream_and_a_connection() {
    let server = TestServer::start(Limits::default()).await;
    let (mut sender, _running) = connect(&server).await;
    let mut sent = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..10 {
        let request = http::Request::post("http://x/held").body(()).expect("a request");
        let (answer, mut body) = sender.send_request(request, false).expect("sent");
        timeout(SOON, answer).await.expect("in time").expect("a head");
        body.reserve_capacity(1024 * 1024);
        let mut bytes = 0;
        let capacity = |body: &mut h2::SendStream<Bytes>| {
            let next = std::future::poll_fn(|cx| body.poll_capacity(cx));
            next.now_or_never().flatten().map(|capacity| capacity.expect("open"))
        };
        // The server's SETTINGS, and what it grants, are there with the head.
        while let Some(granted) = capacity(&mut body) {
            body.send_data(vec![b'x'; granted].into(), false).expect("sent");
            bytes += granted;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        sent.push(bytes);
        streams.push(body);
    }
    let all: usize = sent.iter().sum();
    assert!(sent.iter().all(|bytes| *bytes <= 64 * 1024), "{sent:?}");
    assert!((64 * 1024..=256 * 1024).contains(&all), "{sent:?}");
}
