//! HTTP/2 streams whose client takes no bytes: each has a window of its own, so
//! that a connection may be read, and one of its streams not. The socket's time
//! for writes doesn't see these.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::Sleep;

use crate::metrics::{self, Closed};

/// What a body did when its stream was polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Polled {
    /// It gave bytes out. It is polled again when there is room for more.
    Gave,
    /// It has nothing to give.
    Waits,
}

thread_local! {
    /// Of the stream that this thread polls: hyper's future of a stream says
    /// nothing of the body inside it.
    static POLLED: Cell<Option<Polled>> = const { Cell::new(None) };
}

pub(super) fn report(polled: Polled) {
    POLLED.set(Some(polled));
}

/// Runs streams, and resets those whose client takes nothing for this long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streams(pub(super) Duration);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        tokio::spawn(while_read(stream, self.0));
    }
}

async fn while_read(stream: impl Future<Output = ()>, patience: Duration) {
    let mut stream = pin!(stream);
    let mut stalled: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        POLLED.set(None);
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match POLLED.take() {
            Some(Polled::Gave) => stalled = Some(Box::pin(tokio::time::sleep(patience))),
            Some(Polled::Waits) => stalled = None,
            // Woken for something else than the body.
            None => {}
        }
        let due = stalled.as_mut().is_some_and(|stalled| stalled.as_mut().poll(cx).is_ready());
        if due {
            metrics::connection_closed(Closed::Unread);
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}
