//! Requests as they stand in a connection's bytes: RESP, and PostgreSQL's
//! frontend protocol. Only what a trap has to know.

use std::collections::HashMap;

/// `CancelRequest`, `SSLRequest`, `GSSENCRequest`: no message type, no session yet
/// (PostgreSQL documentation, 55.7 «Message Formats»).
const PREAMBLES: [u32; 3] = [80_877_102, 80_877_103, 80_877_104];

/// Splits a client's bytes into requests.
pub(super) struct Requests {
    buffer: Vec<u8>,
    postgres: bool,
    /// PostgreSQL: the startup message has come.
    started: bool,
    /// PostgreSQL: the prepared statements' texts, by name.
    statements: HashMap<String, String>,
}

impl Requests {
    pub(super) fn new(postgres: bool) -> Self {
        Self { buffer: Vec::new(), postgres, started: false, statements: HashMap::new() }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole request: its bytes, and its text where it does something.
    pub(super) fn next(&mut self) -> Option<(Vec<u8>, Option<String>)> {
        let (length, text) = match self.postgres {
            true => self.postgres_message()?,
            false => self.redis_commands()?,
        };
        Some((self.buffer.drain(..length).collect(), text))
    }

    fn postgres_message(&mut self) -> Option<(usize, Option<String>)> {
        let skip = usize::from(self.started);
        let word =
            |at: usize| Some(u32::from_be_bytes(self.buffer.get(at..at + 4)?.try_into().ok()?));
        let length = word(skip)? as usize + skip;
        if self.buffer.len() < length {
            return None;
        }
        if !self.started {
            self.started = !PREAMBLES.contains(&word(4)?);
            return Some((length, None));
        }
        let body = &self.buffer[5..length];
        let mut strings =
            body.split(|byte| *byte == 0).map(|s| String::from_utf8_lossy(s).into_owned());
        let mut string = || strings.next().unwrap_or_default();
        let text = match self.buffer[0] {
            b'Q' => Some(string()),
            b'P' => {
                let (name, sql) = (string(), string());
                self.statements.insert(name, sql);
                None
            }
            // The portal, then the statement: from here to Sync it is executed.
            b'B' => {
                string();
                self.statements.get(&string()).cloned()
            }
            _ => None,
        };
        Some((length, text))
    }

    /// One command, or a transaction from MULTI to EXEC.
    fn redis_commands(&self) -> Option<(usize, Option<String>)> {
        let (mut length, mut text) = redis_command(&self.buffer)?;
        if text.starts_with("MULTI") {
            while !text.ends_with("EXEC") {
                let (more, next) = redis_command(&self.buffer[length..])?;
                length += more;
                text = format!("{text} | {next}");
            }
        }
        Some((length, Some(text)))
    }
}

/// An array of bulk strings (RESP), as its length and its arguments.
fn redis_command(bytes: &[u8]) -> Option<(usize, String)> {
    let mut at = 0;
    let number = |at: &mut usize| {
        let line = bytes.get(*at..)?;
        let end = line.windows(2).position(|pair| pair == b"\r\n")?;
        let number: usize = std::str::from_utf8(line.get(1..end)?).ok()?.parse().ok()?;
        *at += end + 2;
        Some(number)
    };
    let count = number(&mut at)?;
    let mut arguments = Vec::with_capacity(count);
    for _ in 0..count {
        let length = number(&mut at)?;
        arguments.push(String::from_utf8_lossy(bytes.get(at..at + length)?).into_owned());
        at += length + 2;
    }
    (bytes.len() >= at).then(|| (at, arguments.join(" ")))
}

#[test]
fn a_transaction_is_one_request() {
    let mut requests = Requests::new(false);
    let stream = b"*1\r\n$4\r\nPING\r\n*1\r\n$5\r\nMULTI\r\n*2\r\n$3\r\nGET\r\n$1\r\nx\r\n*1\r\n$4\r\nEXEC\r\n";
    let mut seen = Vec::new();
    for byte in stream {
        requests.feed(&[*byte]);
        seen.extend(requests.next());
    }
    let texts: Vec<_> = seen.iter().map(|(_, text)| text.as_deref().expect("a text")).collect();
    assert_eq!(texts, ["PING", "MULTI | GET x | EXEC"]);
    assert_eq!(seen.iter().flat_map(|(bytes, _)| bytes.clone()).collect::<Vec<_>>(), stream);
}

#[test]
fn a_prepared_statement_is_known_when_it_is_bound() {
    let message = |kind: &[u8], body: &[u8]| {
        let length = u32::try_from(body.len() + 4).expect("small").to_be_bytes();
        [kind, &length, body].concat()
    };
    let mut requests = Requests::new(true);
    requests.feed(&message(b"", &80_877_103_u32.to_be_bytes()));
    requests.feed(&message(b"", b"\0\x03\0\0user\0rill\0\0"));
    requests.feed(&message(b"P", b"s1\0UPDATE tasks\0\0\0"));
    requests.feed(&message(b"B", b"\0s1\0\0\0\0\0\0\0"));
    requests.feed(&message(b"S", b""));
    let texts: Vec<_> = std::iter::from_fn(|| requests.next()).map(|(_, text)| text).collect();
    assert_eq!(texts, [None, None, None, Some("UPDATE tasks".to_owned()), None]);
}
