//! An event stream read by the HTML standard's grammar, as a whole.
//!
//! Written from the text of HTML, 9.2.5 «Parsing an event stream», production
//! by production, and 9.2.6 «Interpreting an event stream», step by step; it
//! shares nothing with the parser that reads byte by byte (`reader.rs`), so that
//! one can be held against the other. `src/api/` uses it, too.
//!
//! ```text
//! stream        = [ bom ] *event
//! event         = *( comment / field ) end-of-line
//! comment       = colon *any-char end-of-line
//! field         = 1*name-char [ colon [ space ] *any-char ] end-of-line
//! end-of-line   = ( cr lf / cr / lf )
//! name-char     = any but lf, cr, colon
//! any-char      = any but lf, cr
//! ```

/// An event that a client is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dispatched {
    pub(crate) id: String,
    /// As the field said; empty is what scripts know as `message`.
    pub(crate) event: String,
    pub(crate) data: String,
}

/// All that a stream says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) events: Vec<Dispatched>,
    pub(crate) comments: usize,
    /// The last reconnection time.
    pub(crate) retry: Option<u64>,
}

/// A `comment` or a `field`.
enum Line<'a> {
    Comment,
    Field { name: &'a str, value: &'a str },
}

/// `end-of-line`, and what follows it.
fn end_of_line(input: &str) -> Option<&str> {
    ["\r\n", "\r", "\n"].iter().find_map(|end| input.strip_prefix(end))
}

/// The longest run of characters but `stops`, and what follows it.
fn run<'a>(input: &'a str, stops: &[char]) -> (&'a str, &'a str) {
    input.split_at(input.find(stops).unwrap_or(input.len()))
}

fn comment(input: &str) -> Option<(Line<'_>, &str)> {
    let (_, rest) = run(input.strip_prefix(':')?, &['\n', '\r']);
    Some((Line::Comment, end_of_line(rest)?))
}

fn field(input: &str) -> Option<(Line<'_>, &str)> {
    let (name, rest) = run(input, &['\n', '\r', ':']);
    if name.is_empty() {
        return None;
    }
    let (value, rest) = match rest.strip_prefix(':') {
        Some(rest) => run(rest.strip_prefix(' ').unwrap_or(rest), &['\n', '\r']),
        None => ("", rest),
    };
    Some((Line::Field { name, value }, end_of_line(rest)?))
}

/// `event`: its lines, and what follows it.
fn event(mut input: &str) -> Option<(Vec<Line<'_>>, &str)> {
    let mut lines = Vec::new();
    loop {
        if let Some(rest) = end_of_line(input) {
            return Some((lines, rest));
        }
        let (line, rest) = comment(input).or_else(|| field(input))?;
        lines.push(line);
        input = rest;
    }
}

/// Reads a stream that has ended. Bytes that aren't UTF-8 are replaced, as the
/// standard says («UTF-8 decode», which also takes the BOM away). `None`: there
/// are bytes after the last event, such as an event that was cut; clients
/// discard them.
pub(crate) fn decode(bytes: &[u8]) -> Option<Decoded> {
    let (decoded, rest) = decode_prefix(bytes);
    rest.is_empty().then_some(decoded)
}

/// The same of a stream that may be cut: what of it is in the grammar, and the
/// rest.
pub(crate) fn decode_prefix(bytes: &[u8]) -> (Decoded, String) {
    let text = String::from_utf8_lossy(bytes);
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut decoded = Decoded::default();
    let mut last_id = String::new();
    while let Some((lines, next)) = event(rest) {
        interpret(&lines, &mut last_id, &mut decoded);
        rest = next;
    }
    (decoded, rest.to_owned())
}

/// 9.2.6, for one event.
fn interpret(lines: &[Line<'_>], last_id: &mut String, decoded: &mut Decoded) {
    let (mut data, mut kind) = (String::new(), String::new());
    for line in lines {
        match *line {
            Line::Comment => decoded.comments += 1,
            Line::Field { name: "event", value } => kind = value.to_owned(),
            Line::Field { name: "data", value } => data = data + value + "\n",
            Line::Field { name: "id", value } if !value.contains('\0') => {
                *last_id = value.to_owned();
            }
            Line::Field { name: "retry", value }
                if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                decoded.retry = value.parse().ok().or(decoded.retry);
            }
            Line::Field { .. } => {}
        }
    }
    if let Some(data) = data.strip_suffix('\n') {
        let (id, data) = (last_id.clone(), data.to_owned());
        decoded.events.push(Dispatched { id, event: kind, data });
    }
}
