//! `/v1/tasks/{task_id}/stream`: server-sent events.
//!
//! Events are forwarded as they are stored; what is written here is only their
//! frame. The body is a stream that owns its reader: when the client leaves,
//! the connection drops it, and with it everything that the reader holds. When
//! the process stops, the body ends between two events, so the client comes
//! back with its cursor and misses nothing.

use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{BoxStream, Stream, StreamExt};
use poem::{Body, IntoResponse, Response};
use poem_openapi::payload::Payload;
use poem_openapi::registry::{MetaSchemaRef, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiResponse, OpenApi, param::Path, param::Query};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::events::TaskEvent;
use super::extract::{Account, RawHeader, once};
use super::failure::{Failure, failures};
use super::problem::{Code, Problem};
use super::responses::{Part, Responses};
use super::tasks::not_found;
use super::{State, Tag};
use crate::clock::unix_ms;
use crate::domain::{EventId, TaskId};
use crate::metrics::{self, InFlight};
use crate::streams::Entry;
use crate::tasks::{Follow, Reader};

/// Milliseconds that clients wait before they reconnect: spread, so that those
/// of a process that stopped don't come back all at once.
const RETRY: std::ops::RangeInclusive<u32> = 1_000..=3_000;
/// Says that the stream lives: to proxies, which cut silent connections, and to
/// clients, for which comments are invisible. It has no ID, so that nobody's
/// cursor moves.
const PING: &[u8] = b"event: ping\ndata: {\"type\":\"ping\"}\n\n";

/// Where a reader is: after the event that it saw last. The header is a
/// browser's own and therefore newer than the URL, which stays as it was when
/// the page opened the stream. (A polyfill's own parameter, which comes in the place
/// of the header, is given as the header here.)
pub(super) fn cursor(header: Option<&[u8]>, query: Option<&str>) -> Result<EventId, Problem> {
    let malformed = || {
        let detail = "The cursor is the id of the event that was received last, such as 2-17: two \
                      decimal numbers. Leave it away to begin at the beginning.";
        Problem::new(Code::MalformedCursor, detail)
    };
    let header = std::str::from_utf8(header.unwrap_or_default()).map_err(|_| malformed())?;
    let header = once(header, ",").ok_or_else(|| {
        let detail =
            "There are several Last-Event-ID headers, and they differ. Send the newest alone.";
        Problem::new(Code::MalformedCursor, detail)
    })?;
    match [header, query.unwrap_or_default()].into_iter().find(|id| !str::is_empty(id)) {
        None => Ok(EventId::START),
        Some(id) => id.parse().map_err(|_| malformed()),
    }
}

/// Writes one event's frame. The data is one line of JSON: it has no raw line
/// break, so it can't end its frame early.
fn encode(entry: &Entry, out: &mut BytesMut) {
    debug_assert!(!entry.data.iter().any(|b| matches!(b, b'\n' | b'\r')), "data of several lines");
    out.put_slice(b"id: ");
    out.put_slice(entry.id.text().as_bytes());
    out.put_slice(b"\nevent: ");
    out.put_slice(entry.name.as_str().as_bytes());
    out.put_slice(b"\ndata: ");
    out.put_slice(&entry.data);
    out.put_slice(b"\n\n");
}

/// All events of one read in one piece, so that they leave in one write.
pub(crate) fn encode_all(entries: &[Entry]) -> Bytes {
    /// More than `id`, `event`, `data` and their values but the data take.
    const FRAME: usize = 64;
    let size = entries.iter().map(|entry| entry.data.len() + FRAME).sum();
    let mut out = BytesMut::with_capacity(size);
    for entry in entries {
        encode(entry, &mut out);
    }
    out.freeze()
}

/// Where events come from: a [`Reader`], or a test's script.
trait Source: Send + 'static {
    /// The next events; `None` at the end. May be dropped and called again.
    fn next(&mut self) -> impl Future<Output = Option<Vec<Entry>>> + Send;
}

impl Source for Box<Reader> {
    fn next(&mut self) -> impl Future<Output = Option<Vec<Entry>>> + Send {
        Reader::next(self)
    }
}

/// An open stream.
struct Open<S> {
    source: S,
    silence: Duration,
    /// When it was opened, as events tell their time: what is older was replayed.
    opened_ms: u64,
    /// When something was written last.
    written: Instant,
    /// Fires when there may have been silence for too long: moved when it
    /// fires, as moving it at each event would cost more than the event.
    ping: Pin<Box<Sleep>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    greeted: bool,
    /// Room for what is larger than a reader's buffer, and the rest of that.
    responses: Responses,
    parts: Option<BoxStream<'static, Part>>,
    _counted: InFlight,
}

/// Bytes that are written in one piece at most. More need room.
const PIECE: usize = 256 * 1024;

impl<S: Source> Open<S> {
    async fn next(&mut self) -> Option<Part> {
        if !self.greeted {
            self.greeted = true;
            let retry = rand::random_range(RETRY);
            return Some(Ok(format!("retry: {retry}\n:\n\n").into()));
        }
        if let Some(parts) = &mut self.parts {
            match parts.next().await {
                Some(part) => return Some(part),
                None => self.parts = None,
            }
        }
        loop {
            tokio::select! {
                // What comes most often first: the rest is asked when there is nothing.
                biased;
                entries = self.source.next() => {
                    let entries = entries?;
                    self.written = Instant::now();
                    self.count(&entries);
                    let bytes = encode_all(&entries);
                    if bytes.len() <= PIECE {
                        return Some(Ok(bytes));
                    }
                    drop(entries);
                    // Boxed, as a stream seldom comes here and would keep the place for ever.
                    return Box::pin(self.begin(bytes)).await;
                }
                () = &mut self.shutdown => return None,
                () = &mut self.ping => {
                    let now = Instant::now();
                    let silent = now >= due(self.written, self.silence);
                    if silent {
                        self.written = now;
                    }
                    self.ping.as_mut().reset(due(self.written, self.silence));
                    if silent {
                        return Some(Ok(Bytes::from_static(PING)));
                    }
                }
            }
        }
    }

    /// The first part of what is larger than a reader's buffer.
    async fn begin(&mut self, bytes: Bytes) -> Option<Part> {
        self.parts.insert(self.responses.parts(bytes).await?).next().await
    }

    /// Counts what is sent, and how long the newest of it took from its append:
    /// with the difference of the worker's and this machine's clock, and zero at
    /// least.
    fn count(&self, entries: &[Entry]) {
        metrics::events_sent(entries.len() as u64);
        let newest = entries.last().map_or(0, |entry| entry.appended_ms);
        if newest >= self.opened_ms {
            let took = unix_ms().saturating_sub(newest);
            metrics::event_delivered(Duration::from_millis(took));
        }
    }
}

/// When a ping is due after something was written. All streams' pings are at the
/// same tenths of a second, a little early: of thousands of silent streams, those
/// of one tenth share a wake, which costs more than a ping.
fn due(written: Instant, silence: Duration) -> Instant {
    const BEAT: Duration = Duration::from_millis(100);
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let beat = BEAT.min(silence / 64).as_nanos().max(1);
    let due = written + silence;
    let early = due.saturating_duration_since(*BEGAN).as_nanos() % beat;
    due - Duration::from_nanos(u64::try_from(early).unwrap_or(0))
}

/// The body: a greeting at once (the first token may take longer than proxies
/// wait), then events, and a ping whenever there were none for `silence`.
fn body<S: Source>(
    source: S,
    silence: Duration,
    responses: &Responses,
    shutdown: &CancellationToken,
) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static {
    let now = Instant::now();
    let open = Open {
        source,
        silence,
        written: now,
        opened_ms: unix_ms(),
        ping: Box::pin(tokio::time::sleep_until(due(now, silence))),
        shutdown: Box::pin(shutdown.clone().cancelled_owned()),
        greeted: false,
        responses: responses.clone(),
        parts: None,
        _counted: metrics::reader(),
    };
    futures_util::stream::unfold(open, async |mut open| {
        let part = open.next().await?;
        Some((part, open))
    })
}

/// An event stream as a response's body. poem's own writes `data.lines()`,
/// which changes some texts, and is documented as an array.
struct Events(Body);

impl Payload for Events {
    const CONTENT_TYPE: &'static str = "text/event-stream";

    fn schema_ref() -> MetaSchemaRef {
        TaskEvent::schema_ref()
    }

    fn register(registry: &mut Registry) {
        TaskEvent::register(registry);
    }
}

impl IntoResponse for Events {
    fn into_response(self) -> Response {
        Response::builder()
            .content_type("text/event-stream; charset=utf-8")
            // Transformed, it would be collected: to be compressed, by Express for one.
            .header("cache-control", "no-store, no-transform")
            // nginx would otherwise collect events until its buffer is full.
            .header("x-accel-buffering", "no")
            .body(self.0)
    }
}

#[derive(ApiResponse)]
enum Followed {
    /// The events after the cursor, then those to come, until the task has
    /// ended. The data of each event is one line of JSON.
    #[oai(status = 200)]
    Events(Events),
    /// The cursor is at the end: nothing will follow. It also stops an
    /// EventSource from reconnecting.
    #[oai(status = 204)]
    AtEnd,
}

failures! {
    StreamTask: [PARAMETERS, STORE], TaskNotFound, MalformedCursor;
}

pub(super) struct Streams(pub(super) State);

#[OpenApi(prefix_path = "/v1", tag = "Tag::Tasks")]
impl Streams {
    /// Follow a task
    ///
    /// Server-sent events. Each has an `id`, the cursor: `<attempt>-<seq>`. A
    /// reader that was cut off comes back with the last one it saw and gets what
    /// it missed; browsers do so by themselves. IDs rise, and not always by one.
    /// The data's `type` is the event's name.
    ///
    /// `started` and `snapshot` are resets: they replace everything received
    /// before. `delta`, `reasoning` and `tool_call` are to be appended. After
    /// `retrying`, another attempt follows. A `ping`, which has no `id`, says that
    /// the connection lives: without an event for three times the interval
    /// (15 s), it is dead, and to be made again. Events of other types are to be
    /// ignored.
    ///
    /// `done`, `failed` and `cancelled` are the end: close the stream then, or
    /// come back once more for a 204. The end of the response is not the end of
    /// the answer: proxies end a broken response cleanly. Without one of these
    /// three, the stream is to be opened again.
    #[oai(path = "/tasks/:task_id/stream", method = "get", operation_id = "streamTask")]
    async fn stream(
        &self,
        account: Account,
        /// The task.
        task_id: Path<TaskId>,
        /// The cursor: the `id` of the event that was received last. Sent by
        /// browsers when they reconnect; wins over `last_event_id`.
        #[oai(name = "Last-Event-ID")]
        last_event_id_header: RawHeader,
        /// The cursor, for clients that can't set headers.
        last_event_id: Query<Option<String>>,
        /// The cursor, as the polyfill `event-source-polyfill` sends it when it
        /// reconnects; wins over `last_event_id`.
        #[oai(name = "lastEventId")]
        polyfill_event_id: Query<Option<String>>,
    ) -> Result<Followed, Failure<StreamTask>> {
        let task = task_id.0;
        tracing::Span::current().record("task_id", tracing::field::display(task));
        let newest = last_event_id_header.0.filter(|id| *id != b"");
        let newest = newest.or_else(|| polyfill_event_id.0.map(String::into_bytes));
        let cursor = cursor(newest.as_deref(), last_event_id.0.as_deref())?;
        match self.0.tasks.follow(account.0, task, cursor).await? {
            Follow::NoTask => Err(not_found(task).into()),
            Follow::AtEnd => Ok(Followed::AtEnd),
            Follow::Reader(reader) => {
                let State { options, responses, shutdown, .. } = &self.0;
                let body = body(reader, options.ping_interval, responses, shutdown);
                Ok(Followed::Events(Events(Body::from_bytes_stream(body))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::super::sse_grammar::{decode, decode_prefix};
    use super::*;
    use crate::domain::event::{Event, EventName};

    fn entry(seq: u64, event: &Event) -> Entry {
        let encoded = event.encode();
        Entry::new(EventId::new(1, seq), encoded.name, encoded.data)
    }

    fn delta(seq: u64, text: &str) -> Entry {
        entry(seq, &Event::Delta { text: text.to_owned() })
    }

    fn any_text() -> impl Strategy<Value = String> {
        let odd =
            ["\r", "\n", "\r\n\r\n", "\u{2028}", "\u{85}", "\"", "\\", "\u{feff}", "\u{1f600}"];
        let odd = prop::sample::select(odd.to_vec()).prop_map(str::to_owned);
        let frame = Just("data: x\nid: 9-9\n\n".to_owned());
        prop::collection::vec(prop_oneof![4 => odd, 4 => any::<String>(), 1 => frame], 0..6)
            .prop_map(|pieces| pieces.concat())
    }

    proptest! {
        /// And whatever of a stream has arrived, the events in it are whole.
        #[test]
        fn any_event_is_read_back_by_the_standard_s_grammar_wherever_it_is_cut(
            texts in prop::collection::vec((any_text(), any::<u32>(), any::<u64>()), 1..5),
            cut in any::<prop::sample::Index>(),
        ) {
            let entries: Vec<_> = texts
                .iter()
                .map(|(text, attempt, seq)| Entry { id: EventId::new(*attempt, *seq), ..delta(0, text) })
                .collect();
            let greeting = b"retry: 1500\n:\n\n";
            let bytes = [&greeting[..], &encode_all(&entries), PING].concat();
            let mut whole = decode(&bytes).expect("in the grammar");
            prop_assert_eq!((whole.retry, whole.comments), (Some(1500), 1));
            let cut = cut.index(bytes.len() + 1);
            let (part, _) = decode_prefix(&bytes[..cut]);
            prop_assert_eq!(&part.events[..], &whole.events[..part.events.len()]);
            // A ping moves nobody's cursor.
            let ping = whole.events.pop().expect("a ping");
            prop_assert_eq!((ping.event.as_str(), ping.data.as_str()), ("ping", r#"{"type":"ping"}"#));
            prop_assert_eq!(&ping.id, &whole.events.last().expect("an event").id);
            prop_assert_eq!(whole.events.len(), texts.len());
            for (read, (text, attempt, seq)) in whole.events.iter().zip(&texts) {
                prop_assert_eq!(&read.id, &format!("{attempt}-{seq}"));
                prop_assert_eq!(&read.event, "delta");
                let event = Event::decode(EventName::Delta, read.data.as_bytes()).expect("JSON");
                prop_assert_eq!(event, Event::Delta { text: text.clone() });
            }
        }
    }

    #[test]
    fn the_header_wins_and_only_what_is_malformed_is_refused() {
        let at = |header: Option<&str>, query| cursor(header.map(str::as_bytes), query).ok();
        assert_eq!(at(None, None), Some(EventId::START));
        assert_eq!(at(Some(""), Some("")), Some(EventId::START));
        assert_eq!(at(None, Some("1-5")), Some(EventId::new(1, 5)));
        assert_eq!(at(Some("2-0"), Some("1-5")), Some(EventId::new(2, 0)));
        assert_eq!(at(Some(""), Some("1-5")), Some(EventId::new(1, 5)));
        assert_eq!(at(Some("2-0"), Some("rubbish")), Some(EventId::new(2, 0)));
        assert_eq!(at(Some("99-99"), None), Some(EventId::new(99, 99)));
        // Proxies repeat a header, and join repeated ones.
        for same in ["2-17, 2-17", "2-17,2-17,2-17", " 2-17 ", "2-17,", ", 2-17", "\t2-17, "] {
            assert_eq!(at(Some(same), Some("1-5")), Some(EventId::new(2, 17)), "{same:?}");
        }
        for none in [" ", ",", ", ,"] {
            assert_eq!(at(Some(none), Some("1-5")), Some(EventId::new(1, 5)), "{none:?}");
        }
        for odd in
            ["1", "1-", "a-b", "1-2-3", "-1-2", "1-2, 1-3", "99999999999-1", "1 - 2", "1-2 1-2"]
        {
            assert_eq!(at(Some(odd), None), None, "{odd:?}");
            assert_eq!(at(None, Some(odd)), None, "{odd:?}");
        }
        for odd in [" 1-2", "1-2,1-2", "1-2 "] {
            assert_eq!(at(None, Some(odd)), None, "{odd:?}");
        }
        assert!(cursor(Some(b"\xff"), None).is_err());
    }

    const SILENCE: Duration = Duration::from_millis(50);

    /// Answers from a script, then ends or stays silent.
    struct Script {
        reads: VecDeque<Vec<Entry>>,
        then_silent: bool,
    }

    impl Source for Script {
        async fn next(&mut self) -> Option<Vec<Entry>> {
            match self.reads.pop_front() {
                None if self.then_silent => std::future::pending().await,
                read => read,
            }
        }
    }

    async fn collect(script: Script, shutdown: &CancellationToken, pieces: usize) -> Vec<String> {
        let body = body(script, SILENCE, &Responses::new(1024 * 1024), shutdown);
        let text = |piece: Result<Bytes, io::Error>| {
            let bytes = piece.expect("a piece");
            String::from_utf8(bytes.to_vec()).expect("UTF-8")
        };
        body.take(pieces).map(text).collect().await
    }

    #[tokio::test]
    async fn a_stream_greets_at_once_and_writes_each_read_in_one_piece() {
        let reads = [vec![delta(0, "a"), delta(1, "b")], vec![delta(2, "c")]].into();
        let script = Script { reads, then_silent: false };
        let pieces = collect(script, &CancellationToken::new(), 10).await;
        let retry = pieces[0].strip_prefix("retry: ").and_then(|rest| rest.strip_suffix("\n:\n\n"));
        assert!(RETRY.contains(&retry.expect("a greeting").parse().expect("a number")));
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[1].matches("\n\n").count(), 2);
        assert_eq!(
            pieces[2],
            "id: 1-2\nevent: delta\ndata: {\"type\":\"delta\",\"text\":\"c\"}\n\n"
        );
    }

    #[tokio::test]
    async fn what_is_larger_than_a_readers_buffer_comes_in_parts_and_whole() {
        let text = "x".repeat(3 * PIECE);
        let reads = [vec![delta(0, "a")], vec![delta(1, &text)], vec![delta(2, "b")]].into();
        let script = Script { reads, then_silent: false };
        let pieces = collect(script, &CancellationToken::new(), 100).await;
        assert!(pieces.len() > 10 && pieces.iter().all(|piece| piece.len() <= PIECE));
        let whole = decode(pieces.concat().as_bytes()).expect("in the grammar");
        assert_eq!(whole.events.len(), 3);
        assert!(whole.events[1].data.contains(&text));
    }

    #[test]
    fn pings_of_all_streams_are_due_together_and_never_late() {
        let now = Instant::now();
        let silence = Duration::from_secs(15);
        let due: Vec<_> =
            (0..100).map(|n| due(now + n * Duration::from_millis(1), silence)).collect();
        for (n, due) in (0..).zip(&due) {
            let silent = *due - (now + n * Duration::from_millis(1));
            assert!(
                silent <= silence && silent > silence - Duration::from_millis(100),
                "{silent:?}"
            );
        }
        let mut beats = due;
        beats.dedup();
        assert!(beats.len() <= 2, "{} wakes", beats.len());
    }

    #[tokio::test]
    async fn silence_is_broken_by_pings() {
        let started = tokio::time::Instant::now();
        let script = Script { reads: [vec![delta(0, "a")]].into(), then_silent: true };
        let pieces = collect(script, &CancellationToken::new(), 4).await;
        let ping = "event: ping\ndata: {\"type\":\"ping\"}\n\n";
        assert_eq!(pieces[2..], [ping, ping]);
        assert!(started.elapsed() >= 2 * (SILENCE - SILENCE / 64));
    }

    #[tokio::test]
    async fn shutdown_ends_an_open_stream() {
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let script = Script { reads: VecDeque::new(), then_silent: true };
        assert_eq!(collect(script, &shutdown, 10).await.len(), 1);
    }
}
