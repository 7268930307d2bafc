//! HTTP/1.1 responses as they arrive: the head, then the chunks of the body.

use anyhow::{Context, Result, bail, ensure};

/// A response's head is at most this long.
const LONGEST_HEAD: usize = 16 * 1024;

/// What comes next.
#[derive(Debug)]
enum State {
    /// The head so far.
    Head(Vec<u8>),
    /// A chunk's size so far; whether its digits are over.
    Size(usize, bool),
    /// So much of a chunk.
    Data(usize),
    /// The line break after a chunk: so many bytes of it.
    Break(u8),
    /// Nothing.
    End,
}

/// Where in a response the reading is.
#[derive(Debug)]
pub(crate) struct Response(State);

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// The head, with this status.
    Head(u16),
    /// Some of the body.
    Data(&'a [u8]),
    /// The body is over.
    End,
    /// More must arrive first.
    More,
}

impl Response {
    pub(crate) fn new() -> Self {
        Self(State::Head(Vec::new()))
    }

    /// Takes the next part off `input`.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Part<'a>> {
        loop {
            match &mut self.0 {
                State::End => return Ok(Part::End),
                _ if input.is_empty() => return Ok(Part::More),
                State::Head(head) => {
                    let Some(status) = take_head(head, input)? else { return Ok(Part::More) };
                    // What else there is to an error, nobody reads.
                    self.0 = if status == 200 { State::Size(0, false) } else { State::End };
                    return Ok(Part::Head(status));
                }
                State::Size(size, over) => {
                    let byte = take(input, 1)[0];
                    match byte {
                        b'\n' if *size == 0 => self.0 = State::End,
                        b'\n' => self.0 = State::Data(*size),
                        b'\r' | b';' => *over = true,
                        _ if *over => {}
                        _ => {
                            let digit = char::from(byte).to_digit(16).context("a chunk's size")?;
                            *size = *size * 16 + digit as usize;
                        }
                    }
                }
                State::Data(left) => {
                    let data = take(input, *left);
                    *left -= data.len();
                    if *left == 0 {
                        self.0 = State::Break(2);
                    }
                    return Ok(Part::Data(data));
                }
                State::Break(left) => {
                    *left -= 1;
                    take(input, 1);
                    if *left == 0 {
                        self.0 = State::Size(0, false);
                    }
                }
            }
        }
    }
}

/// At most so many bytes off `input`.
fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}

/// Moves what belongs to the head there; the status once it is whole.
fn take_head(head: &mut Vec<u8>, input: &mut &[u8]) -> Result<Option<u16>> {
    while !head.ends_with(b"\r\n\r\n") {
        if input.is_empty() {
            return Ok(None);
        }
        head.extend_from_slice(take(input, 1));
        ensure!(head.len() < LONGEST_HEAD, "a head without an end");
    }
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status: u16 = status.with_context(|| format!("no HTTP response: {text:?}"))?;
    if status == 200 && !text.contains("transfer-encoding: chunked") {
        bail!("status {status}, and a body that isn't chunked: {text:?}");
    }
    Ok(Some(status))
}
