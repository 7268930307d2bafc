//! How events are put into lines.

use bytes::Bytes;

use super::{Kind, Kinds};

/// What servers send to keep connections open: nothing of it is an answer.
pub(super) const HEARTBEATS: [&str; 6] = [
    ": keep-alive",
    "data: ",
    "data: ping",
    r#"data: {"object":"chat.completion.chunk","choices":[]}"#,
    r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":null}]}"#,
    r#"data: {"choices":[],"usage":{}}"#,
];

pub(super) struct Lines {
    kinds: Kinds,
    /// Ends a line.
    end: &'static str,
    out: String,
}

impl Lines {
    pub(super) fn new(kinds: Kinds) -> Self {
        let end = match (kinds.has(Kind::Cr), kinds.has(Kind::Crlf)) {
            (true, _) => "\r",
            (false, true) => "\r\n",
            (false, false) => "\n",
        };
        Self { kinds, end, out: String::new() }
    }

    /// An event with `data`; `name` is its whole line.
    pub(super) fn event(&mut self, name: Option<&str>, data: &str) {
        if self.kinds.has(Kind::Heartbeats) {
            for heartbeat in HEARTBEATS {
                self.line(heartbeat);
                self.close();
            }
        }
        if let Some(name) = name {
            self.line(name);
        }
        self.out.push_str("data: ");
        self.line(data);
        self.close();
    }

    /// The end of the answer.
    pub(super) fn done(&mut self) {
        let unended = self.kinds.has(Kind::Unended);
        if !unended || self.kinds.has(Kind::Unfinished) {
            self.event(None, "[DONE]");
        }
        if unended {
            let length = self.out.trim_end_matches(['\r', '\n']).len();
            self.out.truncate(length);
        }
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.out.into()
    }

    fn line(&mut self, line: &str) {
        self.out.push_str(line);
        self.out.push_str(self.end);
    }

    /// The empty line behind an event.
    fn close(&mut self) {
        if !self.kinds.has(Kind::Lf) {
            self.out.push_str(self.end);
        }
    }
}
