//! One open stream: its connection, and how far it has been read.

use std::io::{ErrorKind, Write};
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use mio::net::TcpStream;

use super::events::{Line, Lines, Name};
use super::request::{Cursor, Request};
use super::response::{Part, Response};
use super::tally::{Progress, Tally};
use super::tokens::{self, Kind, Order};

/// What to do with a stream after a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Wait for more.
    Stay,
    /// It is over.
    Leave,
    /// Drop the connection, and open another with the cursor.
    ComeBack,
    /// The server has too much to do (503, 429): come back in a while.
    Refused,
}

/// One open stream.
pub(crate) struct Stream {
    pub(crate) socket: TcpStream,
    request: Request,
    began: Instant,
    /// What is yet to be sent of the request.
    unsent: Vec<u8>,
    response: Response,
    lines: Lines,
    reading: Reading,
}

/// How far it has been read.
struct Reading {
    order: Order,
    name: Name,
    /// The ID of the event that came last, reused.
    id: Vec<u8>,
    /// The ID of the event that is coming: a read may end before its data.
    coming: Vec<u8>,
    /// Tokens so far.
    seen: u64,
    /// When the first and the last token were written and were received.
    first: (u64, u64),
    last: (u64, u64),
    ended: bool,
}

impl Stream {
    /// Begins to connect; `register` makes `epoll` watch the socket.
    pub(crate) fn connect(
        request: Request,
        register: impl FnOnce(&mut TcpStream) -> std::io::Result<()>,
    ) -> std::io::Result<Self> {
        let mut socket = TcpStream::connect(request.server)?;
        register(&mut socket)?;
        let next = request.cursor.as_ref().map_or(0, |cursor| cursor.next);
        Ok(Self {
            socket,
            began: request.since.unwrap_or_else(Instant::now),
            unsent: request.head(),
            response: Response::new(),
            lines: Lines::default(),
            reading: Reading {
                order: Order::from(next),
                name: Name::Text,
                id: Vec::new(),
                coming: Vec::new(),
                seen: 0,
                first: (0, 0),
                last: (0, 0),
                ended: false,
            },
            request,
        })
    }

    /// Sends the request, as soon as there is a connection.
    pub(crate) fn write(&mut self) -> Result<()> {
        if self.unsent.is_empty() {
            return Ok(());
        }
        if let Some(error) = self.socket.take_error()? {
            return Err(error).context("connect");
        }
        match self.socket.write(&self.unsent) {
            Ok(count) if count == self.unsent.len() => self.unsent = Vec::new(),
            Ok(count) => drop(self.unsent.drain(..count)),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
            Err(error) => return Err(error).context("request"),
        }
        Ok(())
    }

    /// Reads what has arrived.
    pub(crate) fn receive(
        &mut self,
        mut input: &[u8],
        tally: &mut Tally,
        progress: &Progress,
    ) -> Result<Then> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_micros())?;
        tally.bytes += input.len() as u64;
        tally.reads += 1;
        loop {
            match self.response.next(&mut input)? {
                Part::More => break,
                Part::Head(status) => {
                    if matches!(status, 429 | 503) {
                        return Ok(Then::Refused);
                    }
                    ensure!(matches!(status, 200 | 204), "status {status}");
                    let took = self.began.elapsed().as_micros();
                    tally.opening.saturating_record(u64::try_from(took)?);
                    progress.opened.fetch_add(1, Ordering::Relaxed);
                }
                Part::Data(data) => {
                    let Self { lines, reading, request, .. } = self;
                    lines.feed(data, |line| reading.line(line, now, request, tally));
                    if self.reading.ended {
                        return Ok(Then::Leave);
                    }
                }
                Part::End => {
                    tally.broke("the body ended before the stream".to_owned());
                    return Ok(Then::Leave);
                }
            }
        }
        let reading = &self.reading;
        if self.request.leaves && reading.order.lost(self.request.tokens) == 0 {
            tally.done += 1;
            return Ok(Then::Leave);
        }
        if self.request.drop_at.is_some_and(|at| reading.seen >= at) {
            return Ok(Then::ComeBack);
        }
        Ok(Then::Stay)
    }

    /// The request to come back with.
    pub(crate) fn come_back(&self) -> Request {
        let cursor = self.reading.cursor();
        Request { cursor: Some(cursor), drop_at: None, ..self.request.clone() }
    }

    /// The same request, for later.
    pub(crate) fn again(&self) -> Request {
        Request { since: Some(self.began), ..self.request.clone() }
    }

    /// Counts what can only be known at the end.
    pub(crate) fn settle(&self, tally: &mut Tally) {
        let reading = &self.reading;
        let stayed = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        tally.stay.saturating_record(stayed);
        tally.lost += reading.order.lost(self.request.tokens);
        let rate = |from: u64, to: u64| match to.saturating_sub(from) {
            0 => 0.0,
            micros => (reading.seen - 1) as f64 * 1e6 / micros as f64,
        };
        tally.written_rate += rate(reading.first.0, reading.last.0);
        tally.received_rate += rate(reading.first.1, reading.last.1);
    }
}

impl Reading {
    fn cursor(&self) -> Cursor {
        Cursor { id: String::from_utf8_lossy(&self.id).into_owned(), next: self.order.next() }
    }

    /// Reads a line; whether there is a use for more.
    fn line(&mut self, line: &[u8], now: u64, request: &Request, tally: &mut Tally) -> bool {
        match Line::read(line) {
            Line::Id(id) => {
                self.coming.clear();
                self.coming.extend_from_slice(id);
            }
            Line::Name(name) => self.name = name,
            Line::Data(data) => {
                self.id.clone_from(&self.coming);
                self.data(data, now, request, tally);
            }
            Line::End => self.name = Name::Text,
            Line::Other => {}
        }
        !self.ended
    }

    fn data(&mut self, data: &[u8], now: u64, request: &Request, tally: &mut Tally) {
        match self.name {
            Name::Text if data == b"[DONE]" => self.end(&mut tally.done),
            Name::Done => self.end(&mut tally.done),
            Name::Failed => self.end(&mut tally.failed),
            Name::Text => {
                let before = self.seen;
                for (n, written) in tokens::find(data) {
                    self.token(n, written, now, request, tally);
                }
                tally.events += u64::from(self.seen > before);
                // Between events, so that the cursor fits.
                if request.mark_at.is_some_and(|at| before < at && self.seen >= at) {
                    tally.cursors.push((request.tag, self.cursor()));
                }
            }
            Name::Started | Name::Snapshot => {
                tally.restarted += u64::from(self.order.next() > 0);
                self.order = Order::default();
                for (n, _) in tokens::find(data) {
                    self.order.see(n);
                    tally.summed_up += 1;
                }
            }
            Name::Other => {}
        }
    }

    fn token(&mut self, n: u64, written: u64, now: u64, request: &Request, tally: &mut Tally) {
        match self.order.see(n) {
            Kind::New => {}
            Kind::Doubled => tally.doubled += 1,
            Kind::Misplaced => tally.misplaced += 1,
        }
        tally.tokens += 1;
        self.seen += 1;
        if self.seen == 1 {
            self.first = (written, now);
        }
        self.last = (written, now);
        if request.timed {
            tally.latency.saturating_record(now.saturating_sub(written));
        }
    }

    fn end(&mut self, count: &mut u64) {
        *count += 1;
        self.ended = true;
    }
}
