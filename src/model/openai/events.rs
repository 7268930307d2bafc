//! A response's body, event by event.
//!
//! An event that lies whole in what was read is handed out in place; only one
//! that is cut is put together. The body is read only when an event is asked
//! for, so that TCP slows down a server whose answer nobody reads.

use std::borrow::Cow;
use std::ops::Range;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use memchr::memchr2;
use tokio::runtime::Handle;

use super::error;
use crate::model::ModelError;

/// Bytes of one event, at most: an answer in one piece at the default cap of
/// 4 MiB, and room for JSON's escapes.
const MAX_EVENT: usize = 8 * 1024 * 1024;

/// The byte order mark.
const MARK: &[u8] = "\u{feff}".as_bytes();

/// How long a body may take to end after it said that it is done.
const END: Duration = Duration::from_secs(1);

/// The events of a body.
pub(super) struct Events {
    body: BoxStream<'static, reqwest::Result<Bytes>>,
    unread: Unread,
    /// An event was found: a byte order mark comes only before the first.
    begun: bool,
    ended: bool,
}

impl Events {
    pub(super) fn new(body: BoxStream<'static, reqwest::Result<Bytes>>) -> Self {
        Self { body, unread: Unread::default(), begun: false, ended: false }
    }

    /// Where the next event is, for [`Events::event`]. What the body ends with
    /// is no event without an empty line behind it. Nothing follows an error.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Range<usize>, ModelError>>> {
        loop {
            if let Some(mut event) = self.unread.next() {
                if !self.begun && self.event(event.clone()).starts_with(MARK) {
                    event.start += MARK.len();
                }
                self.begun = true;
                return Poll::Ready(Some(Ok(event)));
            }
            if self.ended {
                let rest = self.unread.take();
                return Poll::Ready(text(&rest).err().map(Err));
            }
            if self.unread.len() > MAX_EVENT {
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

    /// The event that was found last.
    pub(super) fn event(&self, at: Range<usize>) -> &[u8] {
        &self.unread.bytes()[at]
    }

    /// Reads the body's end, which mostly comes just behind `[DONE]`: dropped
    /// before it, hyper closes the connection. The next call uses it again, and
    /// saves a TLS handshake.
    pub(super) fn finish(mut self) {
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

/// What an event says.
#[derive(Debug, PartialEq)]
pub(super) enum Data<'a> {
    /// A chunk's JSON.
    Chunk(Cow<'a, str>),
    /// Nothing: comments, other fields, what keeps the connection alive.
    Nothing,
    /// No more events.
    Done,
}

/// Reads one event, as cut by [`Events`].
///
/// # Errors
/// When it is not UTF-8.
pub(super) fn data(event: &[u8]) -> Result<Data<'_>, ModelError> {
    let mut data: Option<Cow<'_, str>> = None;
    let mut keepalive = false;
    for line in lines(text(event)?) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match (field, &mut data) {
            ("data", None) => data = Some(value.into()),
            ("data", Some(data)) => {
                let data = data.to_mut();
                data.push('\n');
                data.push_str(value);
            }
            ("event", _) => keepalive = value == "keepalive",
            _ => {}
        }
    }
    Ok(match data {
        Some(data) if data == "[DONE]" => Data::Done,
        Some(data) if !keepalive => Data::Chunk(data),
        _ => Data::Nothing,
    })
}

/// Lines of an event. (One that ends in CR LF is followed by an empty one.)
fn lines(event: &str) -> impl Iterator<Item = &str> {
    let mut rest = event;
    std::iter::from_fn(move || {
        let end = memchr2(b'\n', b'\r', rest.as_bytes())?;
        let line = &rest[..end];
        rest = &rest[end + 1..];
        Some(line)
    })
}

fn text(bytes: &[u8]) -> Result<&str, ModelError> {
    std::str::from_utf8(bytes)
        .map_err(|error| error::malformed(format_args!("no event stream: UTF8 error: {error}")))
}

/// What was read and not handed out yet, cut where events end: behind an empty
/// line, which an LF may follow where lines end in CR LF. In front of the next
/// event that is one more empty line, and means nothing.
#[derive(Default)]
struct Unread {
    /// As it was read, unless an event is cut.
    read: Bytes,
    /// Put together from several reads; then `read` is empty.
    joined: Vec<u8>,
    /// Where the next event begins.
    from: usize,
    /// It does not end before this place.
    scanned: usize,
}

impl Unread {
    fn bytes(&self) -> &[u8] {
        if self.joined.is_empty() { &self.read } else { &self.joined }
    }

    fn len(&self) -> usize {
        self.bytes().len() - self.from
    }

    /// Where the next whole event is. Without one, lets go of what was handed
    /// out: hyper reads into the same memory again when nobody has it.
    fn next(&mut self) -> Option<Range<usize>> {
        if let Some(end) = end_of_event(self.bytes(), self.scanned) {
            let event = self.from..end;
            (self.from, self.scanned) = (end, end);
            return Some(event);
        }
        if self.len() == 0 {
            *self = Self::default();
        } else {
            // The empty line may be cut.
            self.scanned = self.from.max(self.bytes().len() - 1);
        }
        None
    }

    fn push(&mut self, bytes: Bytes) {
        if self.len() == 0 {
            *self = Self { read: bytes, ..Self::default() };
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

    fn take(&mut self) -> Vec<u8> {
        let rest = self.bytes()[self.from..].to_vec();
        *self = Self::default();
        rest
    }
}

/// Where the first event ends that ends behind `from`: behind two line ends.
fn end_of_event(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += memchr2(b'\n', b'\r', bytes.get(at..)?)?;
        match bytes[at..] {
            [b'\n', b'\n' | b'\r', ..] | [b'\r', b'\r', ..] => return Some(at + 2),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use proptest::prelude::*;

    /// The events of a body that is read in pieces.
    fn events(pieces: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let body = stream::iter(pieces.into_iter().map(|piece| Ok(piece.into())));
        let mut events = Events::new(body.boxed());
        let mut found = Vec::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(Ok(at))) = events.poll_next(&mut cx) {
            found.push(events.event(at).to_vec());
        }
        found
    }

    fn data_of(input: &str) -> Vec<String> {
        let events = events(vec![input.into()]);
        let data = events.iter().filter_map(|event| match data(event).expect("text") {
            Data::Chunk(data) => Some(data.into_owned()),
            Data::Nothing => None,
            Data::Done => Some("done".into()),
        });
        data.collect()
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        for (input, expected) in [
            // Its own examples.
            ("data: YHOO\ndata: +2\ndata: 10\n\n", &["YHOO\n+2\n10"][..]),
            (
                ": test\n\ndata: first\nid: 1\n\ndata:second\nid\n\ndata:  third\n\n",
                &["first", "second", " third"],
            ),
            ("data\n\ndata\ndata\n\ndata:", &["", "\n"]),
            ("data:test\n\ndata: test\n\n", &["test", "test"]),
            // Line ends of all kinds.
            (
                "data: a\r\n\r\ndata: b\r\rdata: c\r\ndata: d\n\r\ndata: e\r\n\n",
                &["a", "b", "c\nd", "e"],
            ),
            ("\n\r\n\r\r\ndata: a\n\n\n\n\n", &["a"]),
            // What is no data.
            ("\u{feff}data: a\n\n\u{feff}data: b\n\n", &["a"]),
            (": data: a\n\ndatas: b\n\n data: c\n\nevent: data\n\nretry: 1\n\n", &[]),
            ("event: keepalive\ndata: {}\n\nevent: error\ndata: x\n\n", &["x"]),
            ("data: [DONE]\n\n", &["done"]),
            ("event: keepalive\ndata: [DONE]\r\n\r\n", &["done"]),
            ("data: [DONE] \n\ndata:  [DONE]\n\n", &["[DONE] ", " [DONE]"]),
            // What isn't finished.
            ("data: a\n", &[]),
            ("data: a\n\ndata: b\r\n", &["a"]),
            ("", &[]),
        ] {
            assert_eq!(data_of(input), expected, "{input:?}");
        }
    }

    #[test]
    fn what_is_no_text_is_an_error() {
        let error = data(b"data: \xff\n\n").expect_err("an error");
        assert!(error.message.contains("UTF8"), "{error}");
        let body = stream::iter([Ok(Bytes::from_static(b"data: \xff"))]).boxed();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let end = Events::new(body).poll_next(&mut cx);
        assert!(matches!(end, Poll::Ready(Some(Err(_)))));
    }

    #[test]
    fn what_was_handed_out_is_let_go_of() {
        let read = Bytes::from_static(b"data: a\n\ndata: b\n\n").to_vec();
        let read = Bytes::from(read);
        let body = stream::iter([Ok(read.clone())]).chain(stream::pending());
        let mut events = Events::new(body.boxed());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for _ in 0..2 {
            assert!(events.poll_next(&mut cx).is_ready());
            assert!(!read.is_unique());
        }
        assert!(events.poll_next(&mut cx).is_pending());
        assert!(read.is_unique());
    }

    proptest! {
        #[test]
        fn wherever_a_body_is_cut_its_events_are_the_same(
            lines in proptest::collection::vec(
                (
                    prop::sample::select(vec!["", "data: a", "data:é", ": c", "event: keepalive", "data: [DONE]"]),
                    prop::sample::select(vec!["\n", "\r\n", "\r"]),
                ),
                0..20,
            ),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let input: String = lines.iter().flat_map(|(line, end)| [*line, *end]).collect();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
            cuts.sort_unstable();
            let mut from = 0;
            let mut pieces = Vec::new();
            for cut in cuts.into_iter().chain([input.len()]) {
                pieces.push(input.as_bytes()[from..cut].to_vec());
                from = cut;
            }
            prop_assert_eq!(events(pieces), events(vec![input.into_bytes()]));
        }
    }
}
