//! Bounds on what an answer may pile up between its server and the worker.
//!
//! async-openai reads the body in a task of its own, into a queue without a
//! bound, through a parser that scans an incomplete event from its beginning
//! whenever more of it arrives, and copies the rest of its input after each
//! line. [`Gated`] stands between the socket and all that. It hands over whole
//! events, in blocks that are small unless one event is large; no event may be
//! larger than [`MAX_EVENT`]; and it stops reading while the worker leaves
//! [`READ_AHEAD`] bytes lying, so that TCP slows the server down.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use tokio::runtime::Handle;

use super::error;
use crate::model::ModelError;

/// Bytes of one event, at most: an answer in one piece at the default cap of
/// 4 MiB, and room for JSON's escapes.
const MAX_EVENT: usize = 8 * 1024 * 1024;

/// Bytes that may lie unread in async-openai's queue.
const READ_AHEAD: usize = 64 * 1024;

/// Bytes handed over at once, unless one event is larger. The parser's copying
/// is quadratic in this.
const BLOCK: usize = 8 * 1024;

/// How long a body may take to end after it said that it is done.
const END: Duration = Duration::from_secs(1);

/// What the two ends of async-openai's queue tell each other.
#[derive(Default)]
pub(super) struct Gate(Mutex<State>);

#[derive(Default)]
struct State {
    /// Bytes handed over since the reader last found the queue empty.
    ahead: usize,
    /// The reader found the queue empty, and no event was handed over since.
    hungry: bool,
    /// The body's task, when it waits for the reader.
    body: Option<Waker>,
    /// Why the body broke off. (The queue carries only text.)
    failure: Option<ModelError>,
}

impl Gate {
    /// The reader found nothing.
    pub(super) fn wants_more(&self) {
        let mut state = self.lock();
        state.hungry = true;
        state.ahead = 0;
        let body = state.body.take();
        drop(state);
        if let Some(body) = body {
            body.wake();
        }
    }

    /// Why the body broke off, if it did.
    pub(super) fn failure(&self) -> Option<ModelError> {
        self.lock().failure.clone()
    }

    /// Comments keep a connection alive and wake no reader: they don't count.
    fn hands_over(&self, block: &[u8]) {
        if has_data(block) {
            let mut state = self.lock();
            state.hungry = false;
            state.ahead += block.len();
        }
    }

    fn poll_open(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.hungry || state.ahead < READ_AHEAD {
            return Poll::Ready(());
        }
        state.body = Some(cx.waker().clone());
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Plain values, whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A response's body behind its gate.
pub(super) struct Gated {
    body: BoxStream<'static, reqwest::Result<Bytes>>,
    gate: Arc<Gate>,
    events: Events,
    /// `[DONE]` was handed over.
    done: bool,
    ended: bool,
}

impl Gated {
    pub(super) fn new(body: BoxStream<'static, reqwest::Result<Bytes>>, gate: Arc<Gate>) -> Self {
        Self { body, gate, events: Events::default(), done: false, ended: false }
    }

    fn fail(&mut self, error: ModelError) -> Poll<Option<Result<Bytes, ModelError>>> {
        self.ended = true;
        self.events = Events::default();
        self.gate.lock().failure = Some(error.clone());
        Poll::Ready(Some(Err(error)))
    }
}

impl Stream for Gated {
    type Item = Result<Bytes, ModelError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        std::task::ready!(this.gate.poll_open(cx));
        loop {
            if let Some(block) = this.events.next_block(this.ended) {
                this.gate.hands_over(&block);
                this.done = block.trim_ascii_end().ends_with(b"[DONE]");
                return Poll::Ready(Some(Ok(block)));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            if this.events.buffered.len() > MAX_EVENT {
                return this.fail(error::malformed("an event of more than 8 MiB"));
            }
            match std::task::ready!(this.body.as_mut().poll_next(cx)) {
                Some(Ok(bytes)) => this.events.push(bytes),
                Some(Err(error)) => return this.fail(error::unavailable(error)),
                None => this.ended = true,
            }
        }
    }
}

impl Drop for Gated {
    /// async-openai drops the body at `[DONE]`, mostly just before its very end
    /// arrives, and hyper then closes the connection. Reading that end lets the
    /// next call use the connection again, and save a TLS handshake.
    fn drop(&mut self) {
        if !self.done || self.ended {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let mut body = std::mem::replace(&mut self.body, stream::empty().boxed());
            runtime.spawn(tokio::time::timeout(END, async move {
                while let Some(Ok(bytes)) = body.next().await {
                    if !bytes.trim_ascii().is_empty() {
                        break;
                    }
                }
            }));
        }
    }
}

/// Cuts bytes where events end: after an empty line.
#[derive(Default)]
struct Events {
    buffered: BytesMut,
    /// No event ends before this place.
    scanned: usize,
}

impl Events {
    fn push(&mut self, bytes: Bytes) {
        if self.buffered.is_empty() {
            // Without a copy, where the bytes are nobody else's.
            self.buffered = BytesMut::from(bytes);
            self.scanned = 0;
        } else {
            self.buffered.extend_from_slice(&bytes);
        }
    }

    /// As many whole events as fit a block, at least one; at the end, whatever
    /// is left.
    fn next_block(&mut self, ended: bool) -> Option<Bytes> {
        let mut block = None;
        while let Some(end) = end_of_event(&self.buffered, self.scanned) {
            if block.is_some() && end > BLOCK {
                break;
            }
            block = Some(end);
            self.scanned = end;
            if end >= BLOCK {
                break;
            }
        }
        if let Some(end) = block {
            self.scanned = 0;
            return Some(self.buffered.split_to(end).freeze());
        }
        // An empty line may be cut in two: "\r\n" "\r\n".
        self.scanned = self.buffered.len().saturating_sub(3);
        (ended && !self.buffered.is_empty()).then(|| {
            self.scanned = 0;
            self.buffered.split().freeze()
        })
    }
}

/// Some line is data.
fn has_data(block: &[u8]) -> bool {
    const DATA: &[u8] = b"data";
    block.starts_with(DATA)
        || block
            .windows(1 + DATA.len())
            .any(|at| matches!(at[0], b'\n' | b'\r') && &at[1..] == DATA)
}

/// Where the first event ends that ends behind `from`.
fn end_of_event(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| matches!(byte, b'\n' | b'\r'))?;
        match bytes[at..] {
            [b'\n', b'\n', ..] | [b'\r', b'\r', ..] => return Some(at + 2),
            [b'\n', b'\r', b'\n', ..] => return Some(at + 3),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blocks(input: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let mut events = Events::default();
        let mut blocks = Vec::new();
        let mut from = 0;
        for cut in cuts.iter().copied().chain([input.len()]) {
            events.push(Bytes::copy_from_slice(&input[from..cut]));
            from = cut;
            blocks.extend(std::iter::from_fn(|| events.next_block(false)).map(|b| b.to_vec()));
        }
        blocks.extend(events.next_block(true).map(|b| b.to_vec()));
        blocks
    }

    #[test]
    fn events_end_at_empty_lines() {
        for (input, ends) in [
            (&b"data: a\n\ndata: b\n\n"[..], &[9, 18][..]),
            (b"data: a\r\n\r\nx", &[11]),
            (b"data: a\r\rx", &[9]),
            (b"data: a\ndata: b\nx", &[]),
        ] {
            let mut at = 0;
            let found: Vec<_> = std::iter::from_fn(|| {
                at = end_of_event(input, at)?;
                Some(at)
            })
            .collect();
            assert_eq!(found, ends);
        }
    }

    #[test]
    fn only_events_count() {
        for block in [&b"data: x\n\n"[..], b": hi\n\ndata: x\n\n", b"event: x\r\ndata: x\r\n\r\n"] {
            assert!(has_data(block));
        }
        for block in [&b": data\n\n"[..], b"", b"event: data\n\n"] {
            assert!(!has_data(block));
        }
    }

    #[test]
    fn blocks_are_small_unless_one_event_is_large() {
        let mut input = b"data: small\n\n".repeat(10_000);
        input.extend(b"x".repeat(100_000));
        input.extend(b"\n\ndata: after\n\n");
        let blocks = blocks(&input, &[]);
        assert_eq!(blocks.concat(), input);
        let large = blocks.iter().filter(|block| block.len() > BLOCK).count();
        assert_eq!(large, 1);
        assert!(blocks.len() < 20);
    }

    proptest! {
        #[test]
        fn wherever_input_is_cut_blocks_are_whole_events(
            events in proptest::collection::vec(("[a-z]{0,9}", prop::sample::select(vec!["\n\n", "\r\n\r\n"])), 1..9),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..9),
        ) {
            let input: String = events.iter().map(|(text, end)| format!("data: {text}{end}")).collect();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(input.len())).collect();
            cuts.sort_unstable();
            let blocks = blocks(input.as_bytes(), &cuts);
            prop_assert_eq!(blocks.concat(), input.as_bytes());
            for block in blocks {
                prop_assert!(block.ends_with(b"\n\n") || block.ends_with(b"\r\n\r\n"));
            }
        }
    }
}
