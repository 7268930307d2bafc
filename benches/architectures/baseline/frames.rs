//! Chunks as server-sent events.

use std::fmt::Write;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use tokio::time::timeout;

use super::{Chunk, Reader};

/// After so long without a chunk comes a comment, as from rill.
const SILENCE: Duration = Duration::from_secs(15);
/// Tells the client that it is connected, and proxies that the stream lives.
const COMMENT: &[u8] = b":\n\n";

/// An open stream.
struct Open<R> {
    reader: R,
    /// The number of the last chunk that was sent.
    sent: u64,
    greeted: bool,
    over: bool,
}

impl<R: Reader> Open<R> {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.over {
            return None;
        }
        if !std::mem::replace(&mut self.greeted, true) {
            return Some(Ok(Bytes::from_static(COMMENT)));
        }
        match timeout(SILENCE, self.reader.next()).await {
            Ok(Ok(chunks)) => {
                self.over = chunks.iter().any(Chunk::is_terminal);
                Some(Ok(self.frame(&chunks)))
            }
            Ok(Err(error)) => {
                eprintln!("a stream breaks off: {error:#}");
                Some(Err(io::Error::other(error)))
            }
            Err(_) => Some(Ok(Bytes::from_static(COMMENT))),
        }
    }

    /// All of one read in one piece, so that they leave in one write.
    fn frame(&mut self, chunks: &[Chunk]) -> Bytes {
        let size = chunks.iter().map(|chunk| chunk.data.len() + 64).sum();
        let mut out = BytesMut::with_capacity(size);
        for Chunk { event, data } in chunks {
            self.sent += 1;
            // Its buffer grows as needed.
            let _ = write!(out, "id: {}\nevent: {event}\ndata: {data}\n\n", self.sent);
        }
        out.freeze()
    }
}

/// The body of a stream that begins after chunk number `after`, to the terminal
/// event.
pub(super) fn body(
    reader: impl Reader,
    after: u64,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let open = Open { reader, sent: after, greeted: false, over: false };
    futures_util::stream::unfold(open, async |mut open| Some((open.next().await?, open)))
}
