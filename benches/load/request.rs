//! What the client asks for, and what it is to check.

use std::net::SocketAddr;
use std::time::Instant;

/// Where a reader has been.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    /// The ID of the event that it saw last.
    pub(crate) id: String,
    /// The number of the token that follows.
    pub(crate) next: u64,
}

/// A stream to open.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// The server.
    pub(crate) server: SocketAddr,
    /// Path and query.
    pub(crate) path: String,
    /// Is posted; without it, the stream is got.
    pub(crate) body: Option<String>,
    /// Where to read on from.
    pub(crate) cursor: Option<Cursor>,
    /// Tokens of the whole answer.
    pub(crate) tokens: u64,
    /// Latencies count. Not of a reader that catches up: it would measure how
    /// long it was away.
    pub(crate) timed: bool,
    /// It leaves when it has all tokens, even if the stream goes on.
    pub(crate) leaves: bool,
    /// After so many tokens its cursor is kept, for [`super::tally::Tally::cursors`].
    pub(crate) mark_at: Option<u64>,
    /// After so many tokens it drops the connection, and comes back at once.
    pub(crate) drop_at: Option<u64>,
    /// When it was asked for first, of a reader that was refused and comes back.
    pub(crate) since: Option<Instant>,
    /// Whose cursor it is: the caller's to choose.
    pub(crate) tag: usize,
}

impl Request {
    /// A reader of one stream, from its start to its end.
    pub(crate) fn get(server: SocketAddr, path: impl Into<String>, tokens: u64) -> Self {
        Self {
            server,
            path: path.into(),
            body: None,
            cursor: None,
            tokens,
            timed: true,
            leaves: false,
            mark_at: None,
            drop_at: None,
            since: None,
            tag: 0,
        }
    }

    /// The bytes to send.
    pub(crate) fn head(&self) -> Vec<u8> {
        let Self { path, server, .. } = self;
        let method = if self.body.is_some() { "POST" } else { "GET" };
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\n");
        text.push_str("Accept: text/event-stream\r\n");
        if let Some(Cursor { id, .. }) = &self.cursor {
            text.push_str(&format!("Last-Event-ID: {id}\r\n"));
        }
        if let Some(body) = &self.body {
            let length = body.len();
            text.push_str("Content-Type: application/json\r\n");
            text.push_str(&format!("Content-Length: {length}\r\n\r\n{body}"));
        } else {
            text.push_str("\r\n");
        }
        text.into_bytes()
    }
}
