//! Server-sent events as they arrive: whole lines of them.

/// What an event is for the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    /// Text to append: `delta`, and an event without a name.
    Text,
    /// Begins again, with nothing: `started`.
    Started,
    /// Begins again, with a text: `snapshot`.
    Snapshot,
    /// The end: `done`, or OpenAI's `[DONE]`.
    Done,
    /// The end: `failed` or `cancelled`.
    Failed,
    /// Anything else.
    Other,
}

/// One line of an event stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// An event's cursor.
    Id(&'a [u8]),
    /// What an event is.
    Name(Name),
    /// What it says.
    Data(&'a [u8]),
    /// It is over.
    End,
    /// A comment, or a field that is ignored.
    Other,
}

impl<'a> Line<'a> {
    pub(crate) fn read(line: &'a [u8]) -> Self {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(data) = line.strip_prefix(b"data: ") {
            return Self::Data(data);
        }
        if let Some(id) = line.strip_prefix(b"id: ") {
            return Self::Id(id);
        }
        match line.strip_prefix(b"event: ") {
            Some(b"delta") => Self::Name(Name::Text),
            Some(b"started") => Self::Name(Name::Started),
            Some(b"snapshot") => Self::Name(Name::Snapshot),
            Some(b"done") => Self::Name(Name::Done),
            Some(b"failed" | b"cancelled") => Self::Name(Name::Failed),
            Some(_) => Self::Name(Name::Other),
            None if line.is_empty() => Self::End,
            None => Self::Other,
        }
    }
}

/// Cuts bytes into lines, and keeps what has no end yet.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Gives each line that `data` ends to `line`, until that says to stop.
    pub(crate) fn feed(&mut self, data: &[u8], mut line: impl FnMut(&[u8]) -> bool) {
        let mut data = data;
        while let Some(end) = data.iter().position(|&byte| byte == b'\n') {
            let goes_on = if self.rest.is_empty() {
                line(&data[..end])
            } else {
                self.rest.extend_from_slice(&data[..end]);
                let goes_on = line(&self.rest);
                self.rest.clear();
                goes_on
            };
            data = &data[end + 1..];
            if !goes_on {
                return;
            }
        }
        self.rest.extend_from_slice(data);
    }
}
