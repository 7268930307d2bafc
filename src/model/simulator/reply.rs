//! An answer on its way: the right chunk at the right time, or the failure
//! that the prompt asked for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::time::{Instant, sleep, sleep_until};

use super::answer::Answer;
use super::directives::Break;
use super::sloppy::Rewriting;
use super::wire::{Chunks, Usage};

/// Bytes handed to the connection at once, at most (and one chunk).
const WRITE: usize = 16 * 1024;

/// What was sent before a cut should arrive: time for it to be written.
const BEFORE_CUT: Duration = Duration::from_millis(5);

/// One streamed answer.
pub(super) struct Reply {
    pub chunks: Chunks,
    /// Rewrites the chunks, unless they are to be neat.
    pub rewriting: Option<Rewriting>,
    pub answer: Answer,
    /// Time before the first token.
    pub ttft: Duration,
    /// Chunks a second; 0 is as fast as possible.
    pub rate: f64,
    pub breakage: Option<(Break, usize)>,
    pub prompt_tokens: usize,
    pub include_usage: bool,
    /// Counts this reply until it is dropped.
    pub _running: Running,
}

impl Reply {
    /// The body, from the role chunk to the end mark.
    pub(super) fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        let first = Instant::now() + self.ttft;
        let sender = Sender { reply: self, first, sent: 0, opened: false, over: false };
        stream::unfold(sender, async |mut sender| Some((sender.next().await?, sender)))
    }
}

/// How far a reply has come.
struct Sender {
    reply: Reply,
    /// When the first piece is due.
    first: Instant,
    /// Pieces sent.
    sent: usize,
    /// The role chunk was sent.
    opened: bool,
    /// Nothing more will be sent.
    over: bool,
}

impl Sender {
    /// The next bytes of the body.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            let neat = match self.next_chunks().await? {
                Ok(neat) => neat,
                Err(error) => return Some(Err(error)),
            };
            let Some(rewriting) = &mut self.reply.rewriting else { return Some(Ok(neat)) };
            let sloppy = rewriting.rewrite(&neat);
            // Held back: an empty chunk could end the body.
            if !sloppy.is_empty() {
                return Some(Ok(sloppy));
            }
        }
    }

    /// Waits until something is due and gives out all that is: a sender that
    /// was held up catches up, in one write.
    async fn next_chunks(&mut self) -> Option<io::Result<Bytes>> {
        if self.over {
            return None;
        }
        sleep_until(self.due(self.sent)).await;
        if !self.opened {
            self.opened = true;
            self.reply.chunks.role();
        }
        let now = Instant::now();
        while self.reply.chunks.len() < WRITE && self.due(self.sent) <= now {
            match self.reply.breakage.filter(|&(_, after)| after == self.sent) {
                None => {}
                Some((Break::Garbage, _)) => {
                    self.reply.breakage = None;
                    self.reply.chunks.garbage();
                }
                Some((Break::Error, _)) => {
                    self.reply.chunks.error();
                    return self.last();
                }
                Some((Break::ErrorEvent, _)) => {
                    self.reply.chunks.error_event();
                    return self.last();
                }
                // First what is written, then the failure.
                Some(_) if self.reply.chunks.len() > 0 => break,
                Some((how, _)) => return self.fail(how).await,
            }
            let Some(piece) = self.reply.answer.pieces.next() else { break };
            self.reply.chunks.piece(&piece);
            self.sent += 1;
        }
        let reply = &mut self.reply;
        let broken = reply.breakage.is_some_and(|(_, after)| after == self.sent);
        if !broken && reply.answer.pieces.peek().is_none() {
            self.over = true;
            let usage = Usage::new(reply.prompt_tokens, self.sent);
            reply.chunks.end(&reply.answer.finish_reason, reply.include_usage.then_some(usage));
        }
        Some(Ok(self.reply.chunks.take()))
    }

    async fn fail(&mut self, how: Break) -> Option<io::Result<Bytes>> {
        self.over = true;
        match how {
            Break::Cut => {
                sleep(BEFORE_CUT).await;
                Some(Err(io::Error::other("cut, as the prompt asked")))
            }
            Break::Stall => std::future::pending().await,
            Break::Eof | Break::Garbage | Break::Error | Break::ErrorEvent => None,
        }
    }

    /// What is written, and nothing more.
    fn last(&mut self) -> Option<io::Result<Bytes>> {
        self.over = true;
        Some(Ok(self.reply.chunks.take()))
    }

    fn due(&self, piece: usize) -> Instant {
        self.first + time_for(piece, self.reply.rate)
    }
}

/// How long `pieces` take at `rate`.
pub(super) fn time_for(pieces: usize, rate: f64) -> Duration {
    if rate > 0.0 {
        // What overflows is slower than anyone will wait for.
        Duration::try_from_secs_f64(pieces as f64 / rate)
            .unwrap_or(Duration::MAX)
            .min(Duration::from_secs(365 * 24 * 3600))
    } else {
        Duration::ZERO
    }
}

/// An answer that is being sent is counted as long as this lives.
pub(super) struct Running(Arc<AtomicU64>);

impl Running {
    pub(super) fn new(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
