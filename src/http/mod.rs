//! The server under the API and the simulator: connections in, requests to a
//! poem endpoint.
//!
//! Our own accept loop and not poem's, for what streams need: a client that
//! leaves an idle stream drops it at once, a body that fails aborts the
//! connection (a truncated answer must not look complete), and nobody holds a
//! connection by sending or reading slowly. It speaks HTTP/1.1 and HTTP/2
//! without TLS, told apart by the first bytes; TLS is a proxy's business.
//!
//! Most connections are streams on which little happens, so what one holds is
//! kept small: what only a request needs is freed when it is answered, and the
//! first bytes are looked at in the kernel. (Read and given back, they make
//! hyper's read buffer twice as large for the connection's whole life.)
//!
//! [`serve`] owns its listener and every connection's task. It returns when
//! `shutdown` was asked for and the last connection is gone, which takes at
//! most [`Limits::drain_timeout`]. Endpoints end their endless streams by the
//! same token; what still runs after the time-out is cut.

mod body;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use poem::http::uri::Scheme;
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Addr, Endpoint, IntoEndpoint, Request};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use body::BodyTooLarge;

use crate::log_limit::LogLimit;

/// How long to wait after a failed accept, as when file descriptors are used
/// up: nothing but time helps, and trying at once would spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// How often HTTP/2 clients are asked whether they are still there, and how
/// long they have for the answer.
const PING: Duration = Duration::from_secs(20);

/// Bytes that the kernel may hold for a client that doesn't read them (Linux
/// takes as much again for its own). Left alone it takes up to 4 MiB for each.
const SEND_BUFFER: u32 = 64 * 1024;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// What an HTTP/2 client begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

static CROWDED: LogLimit = LogLimit::new();
static NOT_ACCEPTED: LogLimit = LogLimit::new();

/// What one server allows its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once. Further ones wait in the kernel's backlog.
    pub max_connections: usize,
    /// Time for a request's head, from the connection's opening or the end of
    /// the request before.
    pub header_read_timeout: Duration,
    /// How long a client may leave a full socket unread before it is cut off.
    pub write_timeout: Duration,
    /// Time for running requests to end at shutdown.
    pub drain_timeout: Duration,
    /// Bytes of a request's body; reading further fails with [`BodyTooLarge`].
    pub max_body: usize,
    /// Bytes buffered for one connection (HTTP/1.1, in each direction) or one
    /// stream (HTTP/2, outgoing). At least 8 KiB, and it bounds a request's head.
    pub max_buffer: usize,
    /// Requests at once on one HTTP/2 connection.
    pub max_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            header_read_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            max_body: 1024 * 1024,
            max_buffer: 64 * 1024,
            max_streams: 256,
        }
    }
}

/// A listener for [`serve`], whose connections cost the kernel little.
///
/// # Errors
/// When the address is taken, or not ours.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A new process need not wait for the old one's connections to time out.
    socket.set_reuseaddr(true)?;
    // Set here, as connections inherit it.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `endpoint` to whoever connects to `listener`, until `shutdown`: then
/// accepts nobody more, lets running requests end, and returns.
pub async fn serve(
    listener: TcpListener,
    endpoint: impl IntoEndpoint<Endpoint: 'static>,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let connections = TaskTracker::new();
    let server = Arc::new(Server::new(endpoint.into_endpoint(), limits, shutdown.clone()));

    loop {
        if slots.available_permits() == 0
            && let Some(skipped) = CROWDED.pass()
        {
            let limit = server.limits.max_connections;
            tracing::warn!(limit, skipped, "all connections are taken, new ones wait");
        }
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = async {
                // The semaphore is never closed, so this can't fail.
                let slot = slots.clone().acquire_owned().await.ok();
                listener.accept().await.map(|(socket, peer)| (socket, peer, slot))
            } => accepted,
        };
        match accepted {
            Ok((socket, peer, slot)) => {
                let server = server.clone();
                connections.spawn(async move {
                    server.drive(socket, peer).await;
                    drop(slot);
                });
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
    connections.close();
    connections.wait().await;
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
    either: auto::Builder<TokioExecutor>,
    /// Was told.
    http1: auto::Builder<TokioExecutor>,
    limits: Limits,
    shutdown: CancellationToken,
}

impl<E: Endpoint + 'static> Server<E> {
    fn new(endpoint: E, limits: Limits, shutdown: CancellationToken) -> Self {
        let mut protocol = auto::Builder::new(TokioExecutor::new());
        protocol
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_read_timeout)
            // An event is small: copied behind its chunk's head, it goes in one plain write.
            .writev(false)
            .max_buf_size(limits.max_buffer);
        protocol
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .max_send_buf_size(limits.max_buffer)
            .max_concurrent_streams(limits.max_streams);
        let http1 = protocol.clone().http1_only();
        Self { endpoint: Arc::new(endpoint), either: protocol, http1, limits, shutdown }
    }

    /// One connection, from its first byte to its end.
    async fn drive(&self, socket: TcpStream, peer: SocketAddr) {
        let Ok(local) = socket.local_addr() else { return };
        let _gauge = crate::metrics::connection();
        // Tokens are small and must not wait for each other. Failing here
        // means that the peer is gone, which reading will tell.
        let _ = socket.set_nodelay(true);
        // hyper's own time-out begins once it knows the protocol. Before that,
        // and in HTTP/2 before the first request, this one holds.
        let deadline = Instant::now() + self.limits.header_read_timeout;
        let http1 = tokio::select! {
            http1 = begins_as_http1(&socket) => http1,
            () = tokio::time::sleep_until(deadline) => return log_silence(peer),
            () = self.shutdown.cancelled() => return,
        };
        let mut io = TimeoutStream::new(socket);
        io.set_write_timeout(Some(self.limits.write_timeout));
        let io = TokioIo::new(Box::pin(io));

        let requested = Arc::new(AtomicBool::new(false));
        let service = service_fn({
            let endpoint = self.endpoint.clone();
            let requested = requested.clone();
            let max_body = self.limits.max_body;
            move |request: hyper::Request<Incoming>| {
                requested.store(true, Ordering::Relaxed);
                let endpoint = endpoint.clone();
                let addresses = (LocalAddr(Addr::from(local)), RemoteAddr(Addr::from(peer)));
                // Boxed, as hyper keeps its place for the connection's whole life.
                Box::pin(async move {
                    let request = Request::from((request, addresses.0, addresses.1, Scheme::HTTP));
                    let request = body::limit(request, max_body);
                    let response: hyper::Response<_> = endpoint.get_response(request).await.into();
                    Ok::<_, Infallible>(response)
                })
            }
        });
        let protocol = if http1 { &self.http1 } else { &self.either };
        let mut connection = pin!(protocol.serve_connection(io, service));

        let silent = async {
            if !http1 {
                tokio::time::sleep_until(deadline).await;
            }
            if http1 || requested.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            result = connection.as_mut() => return log_end(peer, result),
            () = silent => return log_silence(peer),
            () = self.shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        match tokio::time::timeout(self.limits.drain_timeout, connection).await {
            Ok(result) => log_end(peer, result),
            Err(_) => tracing::warn!(%peer, "cut off: did not end in time at shutdown"),
        }
    }
}

fn log_silence(peer: SocketAddr) {
    tracing::debug!(%peer, "cut off: sent no request in time");
}

/// Clients come and go as they like: nothing here is an error of ours.
fn log_end(peer: SocketAddr, result: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended early");
    }
}
