//! One request: its place in the connection table, and its body's end.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONNECTION, EXPECT, HeaderValue};
use hyper::{HeaderMap, Version};
use poem::Request;

use super::connections::InProgress;
use super::unread::{self, Polled};

/// How long a refused request's body is waited for.
const DISCARD: Duration = Duration::from_secs(2);

/// An answer's body, and the request's end with it.
pub(super) struct Counted<B> {
    body: B,
    _progress: InProgress,
}

impl<B> Counted<B> {
    pub(super) const fn new(body: B, progress: InProgress) -> Self {
        Self { body, _progress: progress }
    }
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        unread::report(if polled.is_ready() { Polled::Gave } else { Polled::Waits });
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Reads a refused request's body, up to `max` bytes. Over HTTP/1.1 the kernel
/// resets a connection that is closed with bytes unread, and the client would
/// never see why. Who waits for leave to send a body isn't asked for it.
pub(super) async fn discard_body(request: &mut Request, max: usize) {
    if request.version() >= Version::HTTP_2 || request.headers().contains_key(EXPECT) {
        return;
    }
    let mut body = request.take_body().into_bytes_stream();
    let read = async {
        let mut left = max;
        while let Some(Ok(bytes)) = body.next().await {
            match left.checked_sub(bytes.len()) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD, read).await;
}

/// Says that the connection ends here. (HTTP/2 says it in a frame.)
pub(super) fn announce_end(version: Version, headers: &mut HeaderMap) {
    if version < Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}
