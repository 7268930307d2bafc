//! A client as the HTML standard describes it: parses the event stream, keeps
//! the last event ID, comes back with it, and applies events as `README.md`
//! tells front ends to.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rill::domain::{Answer, Class, Event, EventId, StoredName};

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sse {
    pub(crate) id: String,
    pub(crate) event: String,
    pub(crate) data: String,
}

/// HTML Living Standard, 9.2.6 «Interpreting an event stream», on bytes that
/// come in any pieces.
#[derive(Debug, Default)]
pub(crate) struct SseParser {
    line: Vec<u8>,
    after_cr: bool,
    data: String,
    event: String,
    last_id: String,
    pub(crate) comments: usize,
    pub(crate) retry: Option<u64>,
}

impl SseParser {
    /// Of a client that comes back with a cursor, which it keeps until it gets another.
    pub(crate) fn after(cursor: Option<&str>) -> Self {
        Self { last_id: cursor.unwrap_or_default().to_owned(), ..Self::default() }
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<Sse> {
        let mut events = Vec::new();
        for &byte in bytes {
            let line_over = match byte {
                b'\n' if self.after_cr => {
                    self.after_cr = false;
                    continue;
                }
                b'\n' | b'\r' => true,
                _ => false,
            };
            self.after_cr = byte == b'\r';
            if line_over {
                let line = String::from_utf8(std::mem::take(&mut self.line)).expect("UTF-8");
                events.extend(self.interpret(&line));
            } else {
                self.line.push(byte);
            }
        }
        events
    }

    fn interpret(&mut self, line: &str) -> Option<Sse> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            let mut data = std::mem::take(&mut self.data);
            if data.is_empty() {
                return None;
            }
            data.pop();
            return Some(Sse { id: self.last_id.clone(), event, data });
        }
        if line.starts_with(':') {
            self.comments += 1;
            return None;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.last_id),
            "retry" => self.retry = value.parse().ok(),
            _ => {}
        }
        None
    }
}

/// Where a connection is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cut {
    Never,
    /// After so many bytes of the body, wherever that is in an event.
    AfterBytes(usize),
    /// After so many events.
    AfterEvents(usize),
}

/// One viewer. A clone has seen the same, and goes on by itself.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    client: reqwest::Client,
    /// Where it connects to next.
    pub(crate) url: String,
    /// What the server asked to wait before coming back, in milliseconds.
    pub(crate) retry: Option<u64>,
    /// The last event ID, as a browser keeps it.
    pub(crate) cursor: Option<String>,
    pub(crate) answer: Answer,
    pub(crate) events: Vec<Sse>,
    /// When each of them came.
    pub(crate) times: Vec<Instant>,
    /// Pings, which are no events.
    pub(crate) pings: usize,
    /// The terminal event.
    pub(crate) end: Option<Sse>,
}

impl Reader {
    pub(crate) fn new(client: reqwest::Client, url: String) -> Self {
        Self {
            client,
            url,
            retry: None,
            cursor: None,
            answer: Answer::default(),
            events: Vec::new(),
            times: Vec::new(),
            pings: 0,
            end: None,
        }
    }

    /// Connects once, and reads until the cut, the terminal event or the end of
    /// the body. Answers with the status.
    pub(crate) async fn connect(&mut self, cut: Cut) -> reqwest::Result<u16> {
        let mut request = self.client.get(&self.url).header("Accept", "text/event-stream");
        if let Some(cursor) = &self.cursor {
            request = request.header("Last-Event-ID", cursor);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        if status != 200 {
            return Ok(status);
        }
        let mut parser = SseParser::after(self.cursor.as_deref());
        let mut body = response.bytes_stream();
        let (mut bytes, mut count) = (0, 0);
        while let Some(piece) = body.next().await {
            let mut piece = piece?;
            if let Cut::AfterBytes(limit) = cut {
                piece.truncate(limit - bytes);
                bytes += piece.len();
            }
            let events = parser.feed(&piece);
            self.retry = parser.retry.or(self.retry);
            for event in events {
                count += 1;
                self.take(event);
                if self.end.is_some() || matches!(cut, Cut::AfterEvents(limit) if count >= limit) {
                    return Ok(status);
                }
            }
            if matches!(cut, Cut::AfterBytes(limit) if bytes >= limit) {
                return Ok(status);
            }
        }
        Ok(status)
    }

    /// Comes back until the terminal event, cut by `cuts` on the way.
    pub(crate) async fn follow(&mut self, cuts: impl IntoIterator<Item = Cut>) {
        let mut cuts = cuts.into_iter();
        let deadline = tokio::time::Instant::now() + super::PATIENCE;
        while self.end.is_none() {
            let cut = cuts.next().unwrap_or(Cut::Never);
            let status = tokio::time::timeout_at(deadline, self.connect(cut)).await;
            match status {
                Err(_) => {
                    panic!("no end of {} within {:?}: {:?}", self.url, super::PATIENCE, self.events)
                }
                Ok(Ok(200)) => {}
                Ok(Ok(204)) => panic!("204 before the terminal event"),
                Ok(Ok(404)) => panic!("{} is gone", self.url),
                Ok(Ok(_) | Err(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn take(&mut self, sse: Sse) {
        if sse.event == "ping" {
            assert_eq!(
                Some(&sse.id),
                self.cursor.as_ref().or(Some(&String::new())),
                "a ping has no ID"
            );
            self.pings += 1;
            return;
        }
        let id: EventId = sse.id.parse().expect("an event has an ID");
        if let Some(before) = &self.cursor {
            let before: EventId = before.parse().expect("an ID");
            assert!(id > before, "{id} after {before}: sent twice or out of order");
        }
        self.cursor = Some(sse.id.clone());
        let name = StoredName::read(sse.event.as_bytes()).expect("an event has a name");
        assert_ne!(name.class(), Class::Internal, "{name} is not for readers");
        // Events with names that it doesn't know are ignored.
        if let Some(known) = name.known() {
            let event = Event::decode(known, sse.data.as_bytes()).expect("its data fits its name");
            self.answer.apply(&event);
        }
        if name.is_terminal() {
            self.end = Some(sse.clone());
        }
        self.events.push(sse);
        self.times.push(Instant::now());
    }

    /// How many events of a name came.
    pub(crate) fn count(&self, event: &str) -> usize {
        self.events.iter().filter(|sse| sse.event == event).count()
    }
}

#[test]
fn the_parser_follows_the_standards_examples() {
    let text = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
    let events = SseParser::default().feed(text.as_bytes());
    let seen: Vec<_> = events.iter().map(|e| (e.id.as_str(), e.data.as_str())).collect();
    assert_eq!(seen, [("1", "first event"), ("", "second event"), ("", " third event")]);
    let crlf = SseParser::default().feed(b"event: a\r\ndata: x\rdata: y\n\r\n");
    assert_eq!(crlf, [Sse { id: String::new(), event: "a".into(), data: "x\ny".into() }]);
}
