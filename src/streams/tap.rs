//! A connection's replies, taken past redis-rs' parser where that pays.
//!
//! [`Tap`] is the stream that redis-rs reads from. Messages of channels never
//! reach it; and in place of an `XREAD`'s reply (the only map that is asked for
//! on such a connection) it sees a number, under which [`Replies`] has the
//! reply's bytes. Everything else, from the handshake to errors, passes through
//! as it is. Over TLS, redis-rs makes its own connection and parses everything.

use std::collections::VecDeque;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::{BoxFuture, FutureExt, pending};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, RedisResult};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::deployment::Deployment;
use super::link::{CONNECT_LIMIT, OnMessage};
use super::resp::{self, Malformed, Scanner};
use crate::sync::lock;

/// Bytes that are read at once.
const READ: usize = 16 * 1024;

/// Replies that wait to be asked for, at most. What is more is of readers that
/// gave up, or of one that is too late, and is told so.
const WAITING: usize = 16;

/// Replies that were taken out, until they are asked for, in any order.
#[derive(Debug, Default)]
pub(super) struct Replies {
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Number of the first one.
    first: i64,
    replies: VecDeque<Option<Bytes>>,
}

impl Replies {
    fn put(&self, reply: Bytes) -> i64 {
        let mut taken = lock(&self.taken);
        if taken.replies.len() == WAITING {
            taken.replies.pop_front();
            taken.first += 1;
        }
        taken.replies.push_back(Some(reply));
        taken.first + i64::try_from(taken.replies.len()).unwrap_or(i64::MAX) - 1
    }

    /// The reply of a number, once.
    pub(super) fn take(&self, number: i64) -> Option<Bytes> {
        let mut taken = lock(&self.taken);
        let at = usize::try_from(number - taken.first).ok()?;
        let reply = taken.replies.get_mut(at)?.take();
        while let Some(None) = taken.replies.front() {
            taken.replies.pop_front();
            taken.first += 1;
        }
        reply
    }
}

/// Drives a connection: nothing is read or written unless it is polled, and the
/// connection ends when it is dropped.
pub(super) type Driver = BoxFuture<'static, ()>;

/// What is done with what a connection brings.
#[derive(Clone)]
pub(super) struct Wires {
    /// Whose Redis it has to be.
    pub(super) deployment: Deployment,
    pub(super) on_message: Option<OnMessage>,
    /// Where `XREAD`s' replies go, if they are to be taken out.
    pub(super) replies: Option<Arc<Replies>>,
}

impl Wires {
    /// A connection that brings nothing but replies.
    pub(super) const fn to(deployment: Deployment) -> Self {
        Self { deployment, on_message: None, replies: None }
    }

    /// A connection, and its driver.
    pub(super) async fn connect(
        &self,
        client: &Client,
        config: AsyncConnectionConfig,
    ) -> RedisResult<(MultiplexedConnection, Driver)> {
        let connect = async {
            match client.get_connection_info().addr() {
                ConnectionAddr::Tcp(host, port) => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    stream.set_nodelay(true)?;
                    self.wire(client, stream, config.clone()).await
                }
                ConnectionAddr::Unix(path) => {
                    self.wire(client, UnixStream::connect(path).await?, config.clone()).await
                }
                // The crate's own task drives what it connects by itself.
                _ => {
                    let connect = client.get_multiplexed_async_connection_with_config(&config);
                    Ok((connect.await?, Box::pin(pending()) as Driver))
                }
            }
        };
        match tokio::time::timeout(CONNECT_LIMIT, connect).await {
            Ok(connection) => connection,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    async fn wire<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        client: &Client,
        stream: S,
        config: AsyncConnectionConfig,
    ) -> RedisResult<(MultiplexedConnection, Driver)> {
        let info = client.get_connection_info().redis_settings();
        let (Some(on_message), Some(replies)) = (&self.on_message, &self.replies) else {
            let (connection, driver) =
                MultiplexedConnection::new_with_config(info, stream, config).await?;
            return Ok((connection, guarded(driver)));
        };
        let open = Arc::new(AtomicBool::new(false));
        let tap = Tap::new(stream, on_message.clone(), replies.clone(), open.clone());
        let (connection, driver) =
            MultiplexedConnection::new_with_config(info, tap, config).await?;
        // The handshake is done, whose reply is a map, too.
        open.store(true, Ordering::Relaxed);
        Ok((connection, guarded(driver)))
    }
}

/// A driver that panics ends its connection, and not the task that polls it,
/// which makes another.
fn guarded(driver: impl Future<Output = ()> + Send + 'static) -> Driver {
    Box::pin(AssertUnwindSafe(driver).catch_unwind().map(drop))
}

fn invalid(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The stream that redis-rs reads from; see the module.
struct Tap<S> {
    stream: S,
    on_message: OnMessage,
    replies: Arc<Replies>,
    open: Arc<AtomicBool>,
    unread: BytesMut,
    scanner: Scanner,
    /// What redis-rs reads next.
    passed: Bytes,
}

impl<S: AsyncRead + Unpin> Tap<S> {
    fn new(stream: S, on_message: OnMessage, replies: Arc<Replies>, open: Arc<AtomicBool>) -> Self {
        Self {
            stream,
            on_message,
            replies,
            open,
            unread: BytesMut::new(),
            scanner: Scanner::default(),
            passed: Bytes::new(),
        }
    }

    /// Takes a reply, or passes it on.
    fn sort(&mut self, reply: Bytes) {
        if self.open.load(Ordering::Relaxed) {
            match reply.first() {
                Some(b'%') => {
                    let number = self.replies.put(reply);
                    self.passed = format!(":{number}\r\n").into();
                    return;
                }
                Some(b'>') => {
                    if let Some(message) = resp::message(&reply) {
                        (self.on_message)(message);
                        return;
                    }
                }
                _ => {}
            }
        }
        self.passed = reply;
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.unread.reserve(READ);
        let mut stream = Pin::new(&mut self.stream);
        tokio_util::io::poll_read_buf(stream.as_mut(), cx, &mut self.unread)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let tap = &mut *self;
        loop {
            if !tap.passed.is_empty() {
                let fits = tap.passed.len().min(buf.remaining());
                buf.put_slice(&tap.passed[..fits]);
                tap.passed.advance(fits);
                return Poll::Ready(Ok(()));
            }
            let whole = if tap.unread.is_empty() {
                None
            } else {
                tap.scanner.scan(&tap.unread).map_err(invalid)?
            };
            if let Some(length) = whole {
                let reply = tap.unread.split_to(length).freeze();
                tap.sort(reply);
            } else if ready!(tap.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// What redis-rs reads, and the messages, when `pieces` come one by one.
    async fn tapped(pieces: &[Vec<u8>], open: bool, replies: &Arc<Replies>) -> (String, String) {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hearing = heard.clone();
        let on_message: OnMessage = Arc::new(move |message: &[u8]| {
            hearing.lock().expect("a lock").extend_from_slice(message);
        });
        let (stream, mut redis) = tokio::io::duplex(64);
        let open = Arc::new(AtomicBool::new(open));
        let mut tap = Tap::new(stream, on_message, replies.clone(), open);
        let write = async {
            for piece in pieces {
                tokio::io::AsyncWriteExt::write_all(&mut redis, piece).await.expect("written");
                tokio::task::yield_now().await;
            }
            drop(redis);
        };
        let mut read = String::new();
        let (_, length) = tokio::join!(write, tap.read_to_string(&mut read));
        length.expect("read");
        let heard = heard.lock().expect("a lock").clone();
        (read, String::from_utf8(heard).expect("text"))
    }

    const READ: &str = "%1\r\n$1\r\nk\r\n*0\r\n";
    const MESSAGE: &str = ">3\r\n$7\r\nmessage\r\n$4\r\nwake\r\n$5\r\nhint \r\n";
    const SUBSCRIBED: &str = ">3\r\n$9\r\nsubscribe\r\n$4\r\nwake\r\n:1\r\n";

    proptest! {
        #[test]
        fn what_is_taken_and_what_passes_does_not_depend_on_how_it_comes(
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
        ) {
            let all = ["+OK\r\n", READ, MESSAGE, SUBSCRIBED, "_\r\n", MESSAGE, READ].concat();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(all.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([all.len()]) {
                pieces.push(all.as_bytes()[from..cut].to_vec());
                from = cut;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let replies = Arc::default();
            let (read, heard) = runtime.block_on(tapped(&pieces, true, &replies));
            prop_assert_eq!(read, ["+OK\r\n:0\r\n", SUBSCRIBED, "_\r\n:1\r\n"].concat());
            prop_assert_eq!(heard, "hint hint ");
            prop_assert_eq!(replies.take(0), Some(READ.into()));
            prop_assert_eq!(replies.take(1), Some(READ.into()));
            prop_assert_eq!(replies.take(1), None);
        }
    }

    #[tokio::test]
    async fn the_handshake_passes_as_it_is() {
        let pieces = [READ.into(), MESSAGE.into()];
        let (read, heard) = tapped(&pieces, false, &Arc::default()).await;
        assert_eq!((read, heard), ([READ, MESSAGE].concat(), String::new()));
    }

    #[tokio::test]
    async fn a_driver_that_panics_only_ends() {
        guarded(async { panic!("on purpose") }).await;
    }

    #[test]
    fn replies_are_taken_in_any_order_and_those_that_nobody_wants_are_let_go_of() {
        let replies = Replies::default();
        assert_eq!(replies.take(0), None);
        for (number, reply) in ["a", "b", "c"].into_iter().enumerate() {
            assert_eq!(replies.put(reply.into()), number as i64);
        }
        assert_eq!(replies.take(1), Some("b".into()));
        assert_eq!(replies.take(1), None);
        assert_eq!(replies.take(0), Some("a".into()));
        assert_eq!(replies.take(3), None);
        for number in 3..100 {
            assert_eq!(replies.put("d".into()), number);
        }
        assert_eq!(lock(&replies.taken).replies.len(), WAITING);
        assert_eq!(replies.take(2), None);
        assert_eq!(replies.take(99), Some("d".into()));
    }
}
