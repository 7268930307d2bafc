//! The server under the API and the simulator: connections in, requests to a
//! poem endpoint.
//!
//! Our own accept loop and not poem's, for what streams need: a client that
//! leaves an idle stream drops it at once, a body that fails aborts the
//! connection (a truncated answer must not look complete), and nobody holds a
//! connection by sending or reading slowly, by saying nothing, or by vanishing.
//! It speaks HTTP/1.1 and HTTP/2 without TLS, told apart by the first bytes;
//! TLS is a proxy's business.
//!
//! Most connections are streams on which little happens, so what one holds is
//! kept small: what only a request needs is freed when it is answered, and the
//! first bytes are looked at in the kernel. (Read and given back, they make
//! hyper's read buffer twice as large for the connection's whole life.) Nor has
//! a connection timers of its own, but for writes: the connection table
//! (`connections`) is swept, and tells those whose time is up.
//!
//! [`serve`] owns its listener and every connection's task. It returns when
//! `shutdown` was asked for and the last connection is gone, which takes at
//! most [`Limits::drain_timeout`]. Endpoints end their endless streams by the
//! same token; what still runs after the time-out is cut.

mod body;
mod connections;
mod listen;
mod request;
mod socket;
#[cfg(test)]
mod tests;
mod unread;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use poem::http::uri::Scheme;
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Addr, Endpoint, IntoEndpoint, Request};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

pub use body::BodyTooLarge;
pub use connections::{Overload, SPARE};
pub use listen::{Address, Listener, listen};

use connections::{Bounds, Connection, Connections, Told};

use crate::log_limit::LogLimit;
use crate::metrics;

/// How long to wait after a failed accept, as when file descriptors are used
/// up: nothing but time helps, and trying at once would spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// How often the connection table is swept, at most and at least.
const SWEEP: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How soon a place is looked for again when all are taken.
const NO_PLACE: Duration = Duration::from_millis(10);

/// The shortest time after which a client that acknowledges nothing is taken
/// for gone: the network may fail for a moment.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(20);

/// How often HTTP/2 clients are asked whether they are still there, and how
/// long they have for the answer.
const PING: Duration = Duration::from_secs(20);

/// Bytes of request bodies that an HTTP/2 client may send unread, on a stream
/// and on a connection.
const WINDOWS: (u32, u32) = (64 * 1024, 256 * 1024);

/// What an HTTP/2 client begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

static NOT_ACCEPTED: LogLimit = LogLimit::new();

/// What one server allows its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once. Further ones, up to [`SPARE`], are guests: they get
    /// the slot of one that is idle, or else one answer.
    pub max_connections: usize,
    /// Requests in progress at once, over all connections; a stream is one.
    pub max_requests: usize,
    /// Requests at once on one HTTP/2 connection.
    pub max_streams: u32,
    /// Time for a connection's first request's head.
    pub first_request_timeout: Duration,
    /// How long a connection may be without a request.
    pub keep_alive: Duration,
    /// How long a client may leave a full socket, or a stream's full window,
    /// unread before it is cut off.
    pub write_timeout: Duration,
    /// How long a client may acknowledge nothing before it is taken for gone.
    pub patience: Duration,
    /// Time for running requests to end at shutdown.
    pub drain_timeout: Duration,
    /// Bytes of a request's body; reading further fails with [`BodyTooLarge`].
    pub max_body: usize,
    /// Bytes buffered for one connection (HTTP/1.1, in each direction) or one
    /// stream (HTTP/2, outgoing). At least 8 KiB, and it bounds a request's head.
    pub max_buffer: usize,
    /// Paths that are served beyond `max_connections` and `max_requests`.
    pub probes: &'static [&'static str],
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            max_requests: 20_000,
            max_streams: 256,
            first_request_timeout: Duration::from_secs(10),
            // Proxies keep idle connections for a minute, and answer 502 when one
            // is closed as they send the next request on it.
            keep_alive: Duration::from_secs(75),
            write_timeout: Duration::from_secs(20),
            patience: SHORTEST_PATIENCE,
            drain_timeout: Duration::from_secs(10),
            max_body: 1024 * 1024,
            max_buffer: 64 * 1024,
            probes: &[],
        }
    }
}

impl Limits {
    /// With a time to read what was written. What was written to a client that
    /// is gone is unread as well, and a client that may take longer to read is
    /// not to be taken for gone.
    #[must_use]
    pub fn write_timeout(self, write_timeout: Duration) -> Self {
        Self { write_timeout, patience: write_timeout.max(SHORTEST_PATIENCE), ..self }
    }

    const fn bounds(&self) -> Bounds {
        Bounds {
            slots: self.max_connections,
            requests: self.max_requests,
            first_request: self.first_request_timeout,
            keep_alive: self.keep_alive,
            // Its answer may be on its way still.
            leave: self.write_timeout,
        }
    }

    fn sweep_interval(&self) -> Duration {
        let shortest = self.first_request_timeout.min(self.keep_alive).min(self.write_timeout);
        (shortest / 8).clamp(SWEEP.0, SWEEP.1)
    }
}

/// Serves `endpoint` to whoever connects to `listener`, until `shutdown`: then
/// accepts nobody more, lets running requests end, and returns.
pub async fn serve(
    listener: impl Into<Listener>,
    endpoint: impl IntoEndpoint<Endpoint: 'static>,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let listener = listener.into();
    let table = Connections::new(limits.bounds());
    let sweeping = tokio::spawn(sweep(table.clone(), limits.sweep_interval()));
    let _sweeping = AbortOnDropHandle::new(sweeping);
    let drain_timeout = limits.drain_timeout;
    let places = Arc::new(Semaphore::new(limits.max_connections.saturating_add(SPARE)));
    let tasks = TaskTracker::new();
    let server = Arc::new(Server::new(endpoint.into_endpoint(), limits));

    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = async {
                let place = place(&places, &table).await;
                listener.accept().await.map(|(socket, peer)| (socket, peer, place))
            } => accepted,
        };
        match accepted {
            Ok((socket, peer, place)) => {
                let connection = table.open(place, Instant::now());
                let server = server.clone();
                tasks.spawn(async move { server.drive(socket, peer, connection).await });
            }
            Err(error) if concerns_one_client(&error) => {}
            Err(error) => {
                if let Some(skipped) = NOT_ACCEPTED.pass() {
                    tracing::error!(%error, skipped, "can't accept connections");
                }
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = tokio::time::sleep(ACCEPT_BACKOFF) => {}
                }
            }
        }
    }
    // Closed before the wait, so that a new process can take the address over.
    drop(listener);
    tasks.close();
    table.drain(Instant::now());
    if tokio::time::timeout(drain_timeout, tasks.wait()).await.is_err() {
        let busy = table.cut_all(Instant::now());
        if busy > 0 {
            tracing::warn!(connections = busy, "cut off: did not end in time at shutdown");
        }
        tasks.wait().await;
    }
}

async fn sweep(table: Arc<Connections>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        table.sweep(Instant::now());
    }
}

/// A place for one more connection; somebody else's, if they have had their time.
async fn place(places: &Arc<Semaphore>, table: &Connections) -> OwnedSemaphorePermit {
    loop {
        if places.available_permits() == 0 {
            table.make_room(Instant::now());
        }
        let place = places.clone().acquire_owned();
        // The semaphore is never closed, so this can't fail.
        if let Ok(Ok(place)) = tokio::time::timeout(NO_PLACE, place).await {
            return place;
        }
    }
}

/// The client was gone before it was accepted; the next one may be fine.
fn concerns_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Whether a connection's first bytes tell that it is not HTTP/2. They stay to
/// be read. False while there are too few of them: hyper-util then waits.
async fn begins_as_http1(socket: &TcpStream) -> bool {
    let mut first = [0; PREFACE.len()];
    // Nothing: the peer is gone, which reading will tell.
    let count = socket.peek(&mut first).await.unwrap_or(0);
    !PREFACE.starts_with(&first[..count])
}

/// What all connections share.
struct Server<E> {
    endpoint: Arc<E>,
    /// Finds out which version is spoken.
    either: auto::Builder<unread::Streams>,
    /// Was told.
    http1: auto::Builder<unread::Streams>,
    limits: Limits,
}

impl<E: Endpoint + 'static> Server<E> {
    fn new(endpoint: E, limits: Limits) -> Self {
        let mut protocol = auto::Builder::new(unread::Streams(limits.write_timeout));
        protocol
            .http1()
            // The connection table's.
            .header_read_timeout(None)
            // An event is small: copied behind its chunk's head, it goes in one plain write.
            .writev(false)
            .max_buf_size(limits.max_buffer);
        protocol
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_send_buf_size(limits.max_buffer)
            .max_concurrent_streams(limits.max_streams);
        let http1 = protocol.clone().http1_only();
        Self { endpoint: Arc::new(endpoint), either: protocol, http1, limits }
    }

    /// One connection, from its first byte to its end.
    async fn drive(&self, socket: TcpStream, peer: SocketAddr, connection: Connection) {
        let Ok(local) = socket.local_addr() else { return };
        let _gauge = metrics::connection();
        socket::prepare(&socket, self.limits.patience);
        let http1 = tokio::select! {
            http1 = begins_as_http1(&socket) => http1,
            _ = connection.told() => return log_cut(peer),
        };
        let mut io = TimeoutStream::new(socket);
        io.set_write_timeout(Some(self.limits.write_timeout));
        let io = TokioIo::new(Box::pin(io));

        let connection = Arc::new(connection);
        let service = service_fn({
            let endpoint = self.endpoint.clone();
            let connection = connection.clone();
            let (max_body, probes) = (self.limits.max_body, self.limits.probes);
            move |request: hyper::Request<Incoming>| {
                let progress = connection.begin(probes.contains(&request.uri().path()));
                let endpoint = endpoint.clone();
                let addresses = (LocalAddr(Addr::from(local)), RemoteAddr(Addr::from(peer)));
                // Boxed, as hyper keeps its place for the connection's whole life.
                Box::pin(async move {
                    let version = request.version();
                    let request = Request::from((request, addresses.0, addresses.1, Scheme::HTTP));
                    let mut request = body::limit(request, max_body);
                    if let Some(overload) = progress.refused() {
                        request::discard_body(&mut request, max_body).await;
                        request.extensions_mut().insert(overload);
                    }
                    let mut response: hyper::Response<_> =
                        endpoint.get_response(request).await.into();
                    if progress.is_last() {
                        request::announce_end(version, response.headers_mut());
                    }
                    Ok::<_, Infallible>(response.map(|body| request::Counted::new(body, progress)))
                })
            }
        });
        let protocol = if http1 { &self.http1 } else { &self.either };
        let mut http = pin!(protocol.serve_connection(io, service));
        loop {
            tokio::select! {
                biased;
                result = http.as_mut() => return log_end(peer, result),
                told = connection.told() => match told {
                    Told::Leave => http.as_mut().graceful_shutdown(),
                    Told::Cut => return log_cut(peer),
                },
            }
        }
    }
}

fn log_cut(peer: SocketAddr) {
    tracing::debug!(%peer, "cut off");
}

/// Clients come and go as they like: nothing here is an error of ours.
fn log_end(peer: SocketAddr, result: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = result {
        if let Some(why) = socket::why(&*error) {
            metrics::connection_closed(why);
        }
        tracing::debug!(%peer, %error, "connection ended early");
    }
}
