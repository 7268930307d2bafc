//! A response's body, line by line.
//!
//! A line that lies whole in what was read is handed out in place; only one that
//! is cut is put together. The body is read only when a line is asked for, so that
//! TCP slows down a server whose answer nobody reads.

use std::ops::Range;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use memchr::memchr2;
use tokio::runtime::Handle;

use super::MOST;
use crate::model::ModelError;
use crate::model::openai::error;

/// How long a body may take to end after it said that it is done.
const END: Duration = Duration::from_secs(1);

/// The lines of a body.
pub(in crate::model::openai) struct Lines {
    body: BoxStream<'static, reqwest::Result<Bytes>>,
    unread: Unread,
    ended: bool,
}

impl Lines {
    pub(in crate::model::openai) fn new(body: BoxStream<'static, reqwest::Result<Bytes>>) -> Self {
        Self { body, unread: Unread::default(), ended: false }
    }

    /// Where the next line is, for [`Lines::line`], without its end. What the body
    /// ends with is a line too. Nothing follows an error.
    pub(in crate::model::openai) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Range<usize>, ModelError>>> {
        loop {
            if let Some(line) = self.unread.next() {
                return Poll::Ready(Some(Ok(line)));
            }
            if self.ended {
                return Poll::Ready(self.unread.rest().map(Ok));
            }
            if self.unread.len() > MOST {
                let error = error::malformed("an event of more than 8 MiB");
                return Poll::Ready(Some(Err(error)));
            }
            match ready!(self.body.poll_next_unpin(cx)) {
                Some(Ok(bytes)) => self.unread.push(bytes),
                Some(Err(error)) => return Poll::Ready(Some(Err(error::unavailable(error)))),
                None => self.ended = true,
            }
        }
    }

    /// The line that was found last.
    pub(in crate::model::openai) fn line(&self, at: Range<usize>) -> &[u8] {
        &self.unread.bytes()[at]
    }

    /// Reads the body's end, which mostly comes just behind `[DONE]`: dropped
    /// before it, hyper closes the connection. The next call uses it again, and
    /// saves a TLS handshake.
    pub(in crate::model::openai) fn finish(mut self) {
        if self.ended {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(tokio::time::timeout(END, async move {
                while let Some(Ok(bytes)) = self.body.next().await {
                    if !bytes.trim_ascii().is_empty() {
                        break;
                    }
                }
            }));
        }
    }
}

/// What was read and not handed out yet. Lines end in LF, CR LF or CR.
#[derive(Default)]
struct Unread {
    /// As it was read, unless a line is cut.
    read: Bytes,
    /// Put together from several reads; then `read` is empty.
    joined: Vec<u8>,
    /// Where the next line begins.
    from: usize,
    /// It does not end before this place.
    scanned: usize,
    /// The last line ended in CR: an LF behind it belongs to it.
    after_cr: bool,
}

impl Unread {
    fn bytes(&self) -> &[u8] {
        if self.joined.is_empty() { &self.read } else { &self.joined }
    }

    fn len(&self) -> usize {
        self.bytes().len() - self.from
    }

    /// Where the next whole line is. Without one, lets go of what was handed out:
    /// hyper reads into the same memory again when nobody has it.
    fn next(&mut self) -> Option<Range<usize>> {
        if self.after_cr && self.len() > 0 {
            self.after_cr = false;
            if self.bytes()[self.from] == b'\n' {
                self.from += 1;
                self.scanned = self.scanned.max(self.from);
            }
        }
        let bytes = self.bytes();
        if let Some(length) = memchr2(b'\n', b'\r', &bytes[self.scanned..]) {
            let end = self.scanned + length;
            self.after_cr = bytes[end] == b'\r';
            let line = self.from..end;
            (self.from, self.scanned) = (end + 1, end + 1);
            return Some(line);
        }
        if self.len() == 0 {
            *self = Self { after_cr: self.after_cr, ..Self::default() };
        } else {
            self.scanned = bytes.len();
        }
        None
    }

    fn push(&mut self, bytes: Bytes) {
        if self.len() == 0 {
            *self = Self { read: bytes, after_cr: self.after_cr, ..Self::default() };
            return;
        }
        if self.joined.is_empty() {
            self.joined.extend_from_slice(&self.read[self.from..]);
            self.read = Bytes::new();
        } else {
            self.joined.drain(..self.from);
        }
        self.joined.extend_from_slice(&bytes);
        self.scanned -= self.from;
        self.from = 0;
    }

    /// What no line end follows.
    fn rest(&mut self) -> Option<Range<usize>> {
        let rest = self.from..self.bytes().len();
        (self.from, self.scanned) = (rest.end, rest.end);
        (!rest.is_empty()).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use proptest::prelude::*;

    /// The lines of a body that is read in pieces.
    fn lines(pieces: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let body = stream::iter(pieces.into_iter().map(|piece| Ok(piece.into())));
        let mut lines = Lines::new(body.boxed());
        let mut found = Vec::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(Ok(at))) = lines.poll_next(&mut cx) {
            found.push(lines.line(at).to_vec());
        }
        found
    }

    #[test]
    fn lines_end_as_the_standard_says() {
        for (input, expected) in [
            ("", &[][..]),
            ("a", &["a"]),
            ("a\n", &["a"]),
            ("a\r\nb\rc\n\nd", &["a", "b", "c", "", "d"]),
            ("\n\r\n\r\r\n", &["", "", "", ""]),
        ] {
            let expected: Vec<_> = expected.iter().map(|line| line.as_bytes().to_vec()).collect();
            assert_eq!(lines(vec![input.into()]), expected, "{input:?}");
        }
    }

    #[test]
    fn what_was_handed_out_is_let_go_of() {
        let read = Bytes::from(b"data: a\n\ndata: b\n".to_vec());
        let body = stream::iter([Ok(read.clone())]).chain(stream::pending());
        let mut lines = Lines::new(body.boxed());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for _ in 0..3 {
            assert!(lines.poll_next(&mut cx).is_ready());
            assert!(!read.is_unique());
        }
        assert!(lines.poll_next(&mut cx).is_pending());
        assert!(read.is_unique());
    }

    proptest! {
        #[test]
        fn wherever_a_body_is_cut_its_lines_are_the_same(
            parts in proptest::collection::vec(
                prop::sample::select(vec!["a", "data: b", "\n", "\r\n", "\r", "é"]), 0..40),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let input = parts.concat().into_bytes();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
            cuts.sort_unstable();
            let mut from = 0;
            let mut pieces = Vec::new();
            for cut in cuts.into_iter().chain([input.len()]) {
                pieces.push(input[from..cut].to_vec());
                from = cut;
            }
            prop_assert_eq!(lines(pieces), lines(vec![input]));
        }
    }
}
