mod crowd;
mod http2;
mod slow;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use poem::http::StatusCode;
use poem::{Body, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

/// Longer than anything here takes, unless it is broken.
const SOON: Duration = Duration::from_secs(5);

/// What the test server's streams report.
#[derive(Debug, PartialEq)]
enum Seen {
    Opened,
    Dropped,
    Body(Result<usize, Option<BodyTooLarge>>),
}

struct TestServer {
    address: SocketAddr,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl TestServer {
    async fn start(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let (sender, seen) = mpsc::unbounded_channel();
        let running = tokio::spawn(serve(listener, TestEndpoint(sender), limits, shutdown.clone()));
        Self { address, shutdown, running, seen }
    }

    /// A connection that has sent `text`.
    async fn connect(&self, text: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.address).await.expect("a connection");
        socket.write_all(text.as_bytes()).await.expect("sent");
        socket
    }

    async fn sees(&mut self) -> Seen {
        timeout(SOON, self.seen.recv()).await.expect("in time").expect("running")
    }
}

struct TestEndpoint(mpsc::UnboundedSender<Seen>);

impl Endpoint for TestEndpoint {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let seen = self.0.clone();
        if let Some(overload) = request.extensions().get::<Overload>() {
            let body = format!("refused: {overload:?}");
            return Ok(Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).body(body));
        }
        let body = match request.uri().path() {
            "/hello" | "/healthz" => Body::from_string("hello".into()),
            // One event, and then nothing.
            "/idle" => {
                let _ = seen.send(Seen::Opened);
                let guard = Dropped(seen);
                let first = stream::once(async { Ok::<_, io::Error>(Bytes::from("first\n")) });
                let rest = stream::pending().map(move |item| {
                    let _ = &guard;
                    item
                });
                Body::from_bytes_stream(first.chain(rest))
            }
            // Its request's body is left unread.
            "/held" => {
                let body = request.take_body();
                Body::from_bytes_stream(stream::pending().map(move |item: io::Result<Bytes>| {
                    let _ = &body;
                    item
                }))
            }
            // More than sockets and buffers hold.
            "/endless" => {
                let guard = Dropped(seen);
                Body::from_bytes_stream(stream::repeat_with(move || {
                    let _ = &guard;
                    Ok::<_, io::Error>(Bytes::from_static(&[b'x'; 16 * 1024]))
                }))
            }
            // The pause lets the first part out.
            "/broken" => {
                let first = stream::once(async { Ok(Bytes::from("partial")) });
                let rest = stream::once(async {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Err(io::Error::other("broken"))
                });
                Body::from_bytes_stream(first.chain(rest))
            }
            "/body" => {
                let read = request.take_body().into_vec().await;
                let _ = seen.send(Seen::Body(match read {
                    Ok(body) => Ok(body.len()),
                    Err(poem::error::ReadBodyError::Io(error)) => Err(BodyTooLarge::find(&error)),
                    Err(_) => Err(None),
                }));
                Body::empty()
            }
            _ => return Err(StatusCode::NOT_FOUND.into()),
        };
        Ok(Response::builder().body(body))
    }
}

/// Reports that the stream it belongs to is gone.
struct Dropped(mpsc::UnboundedSender<Seen>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(Seen::Dropped);
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

/// Everything up to the connection's end.
async fn read_all(socket: &mut TcpStream) -> String {
    let mut text = String::new();
    // A reset ends it as well.
    let _ = timeout(SOON, socket.read_to_string(&mut text)).await.expect("an end in time");
    text
}

/// Up to and including `end`.
async fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        bytes.push(timeout(SOON, socket.read_u8()).await.expect("in time").expect("a byte"));
    }
    String::from_utf8(bytes).expect("text")
}

#[tokio::test]
async fn an_idle_stream_is_dropped_when_its_client_leaves() {
    let mut server = TestServer::start(Limits::default()).await;
    let mut client = server.connect(&get("/idle")).await;
    read_until(&mut client, "first\n\r\n").await;
    assert_eq!(server.sees().await, Seen::Opened);
    drop(client);
    assert_eq!(server.sees().await, Seen::Dropped);
}

#[tokio::test]
async fn a_body_that_fails_does_not_look_complete() {
    let server = TestServer::start(Limits::default()).await;
    let answer = read_all(&mut server.connect(&get("/broken")).await).await;
    assert!(answer.contains("partial"), "{answer}");
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn who_does_not_read_is_cut_off() {
    let limits = Limits { write_timeout: Duration::from_millis(300), ..Limits::default() };
    let mut server = TestServer::start(limits).await;
    let _client = server.connect(&get("/endless")).await;
    assert_eq!(server.sees().await, Seen::Dropped);
}

#[tokio::test]
async fn http_2_without_tls_is_understood() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut server = TestServer::start(Limits::default()).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build();
    let client = client.expect("a client");
    let url = |path: &str| format!("http://{}{path}", server.address);
    let answer = client.get(url("/hello")).send().await.expect("an answer");
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert_eq!(answer.text().await.expect("text"), "hello");
    assert!(client.get(url("/broken")).send().await.expect("a head").bytes().await.is_err());

    let idle = client.get(url("/idle")).send().await.expect("a head");
    assert_eq!(server.sees().await, Seen::Opened);
    drop(idle);
    assert_eq!(server.sees().await, Seen::Dropped);
}

#[tokio::test]
async fn bodies_are_limited_declared_or_not() {
    let limits = Limits { max_body: 10, ..Limits::default() };
    let mut server = TestServer::start(limits).await;
    let too_large = Seen::Body(Err(Some(BodyTooLarge { max: 10 })));
    for (request, expected) in [
        ("Content-Length: 10\r\n\r\n0123456789", Seen::Body(Ok(10))),
        ("Content-Length: 11\r\n\r\n0123456789x", too_large),
        (
            "Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n",
            Seen::Body(Ok(10)),
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n6\r\n56789x\r\n0\r\n\r\n",
            Seen::Body(Err(Some(BodyTooLarge { max: 10 }))),
        ),
        ("\r\n", Seen::Body(Ok(0))),
    ] {
        let _client = server.connect(&format!("POST /body HTTP/1.1\r\nHost: x\r\n{request}")).await;
        assert_eq!(server.sees().await, expected, "{request}");
    }
}

#[tokio::test]
async fn shutdown_lets_requests_end_and_cuts_those_that_don_t() {
    let limits = Limits { drain_timeout: Duration::from_millis(300), ..Limits::default() };
    let mut server = TestServer::start(limits).await;
    let mut idle = server.connect(&get("/hello")).await;
    read_until(&mut idle, "hello").await;
    let mut endless = server.connect(&get("/idle")).await;
    read_until(&mut endless, "first\n\r\n").await;
    server.shutdown.cancel();
    assert_eq!(read_all(&mut idle).await, "");
    assert_eq!(server.sees().await, Seen::Opened);
    assert_eq!(server.sees().await, Seen::Dropped);
    assert!(!read_all(&mut endless).await.ends_with("0\r\n\r\n"));
    timeout(SOON, server.running).await.expect("an end").expect("no panic");
    assert!(TcpStream::connect(server.address).await.is_err());
}
