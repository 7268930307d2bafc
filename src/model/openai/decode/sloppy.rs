//! Answers as sloppy servers send them, from arbitrary bytes: each choice (types,
//! places, framing, fragments) is taken from the input, and what is decoded must be
//! what was meant. For the property tests and `make fuzz`.

mod odd;

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::json;

pub(crate) use self::odd::odd_values;
use super::lines::Lines;
use super::{Decoder, Flow};
use crate::domain::answer::Answer;
use crate::domain::{Event, Usage};
use crate::fuzz::Input;
use crate::model::openai::profile::Profile;
use crate::model::{Delta, ModelError};

/// What was decoded.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) answer: Answer,
    pub(crate) finish: Option<String>,
    pub(crate) usage: Option<Usage>,
    pub(crate) error: Option<ModelError>,
}

impl Outcome {
    pub(crate) fn take(&mut self, delta: Delta) {
        match delta {
            Delta::Text(text) => self.answer.apply(&Event::Delta { text }),
            Delta::Reasoning(text) => self.answer.apply(&Event::Reasoning { text }),
            Delta::ToolCall(piece) => self.answer.apply(&Event::ToolCall(piece)),
            Delta::Opaque(data) => self.answer.opaque.push(data),
            Delta::Finish(reason) => self.finish = Some(reason),
            Delta::Usage(usage) => self.usage = Some(usage),
            Delta::Alive => {}
        }
    }

    /// Name and arguments of each call.
    pub(crate) fn calls(&self) -> Vec<(&str, &str)> {
        let calls = self.answer.tool_calls.iter();
        calls.map(|call| (call.name.as_deref().unwrap_or(""), call.arguments.as_str())).collect()
    }
}

/// Decodes a body that is read in pieces, as the worker does: a finish reason
/// outlasts an error behind it.
pub(crate) fn decode(pieces: Vec<Vec<u8>>, profile: &Profile) -> Outcome {
    let body = stream::iter(pieces.into_iter().map(|piece| Ok(Bytes::from(piece))));
    let mut lines = Lines::new(body.boxed());
    let mut decoder = Decoder::new(profile);
    let mut out = std::collections::VecDeque::new();
    let mut outcome = Outcome::default();
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        let read = match lines.poll_next(&mut cx) {
            Poll::Ready(Some(Ok(at))) => decoder.line(lines.line(at), &mut out),
            Poll::Ready(Some(Err(error))) => Err(error),
            Poll::Ready(None) => decoder.end(&mut out).map(|()| Flow::Done),
            Poll::Pending => unreachable!("all of it is there"),
        };
        out.drain(..).for_each(|delta| outcome.take(delta));
        match read {
            Ok(Flow::More) => {}
            Ok(Flow::Done) => return outcome,
            Err(error) => {
                outcome.error = Some(error);
                return outcome;
            }
        }
    }
}

/// What an answer is to say.
#[derive(Debug, Default)]
struct Meant {
    reasoning: String,
    text: String,
    calls: Vec<(String, String)>,
}

/// Pieces of text, some of which are what types are confused by.
const TEXTS: [&str; 14] = [
    "Hello",
    " ",
    "6",
    "-1.5",
    "\"",
    "\\",
    "😀",
    "é",
    "\n",
    "data: x",
    "{\"a\":1}",
    "\u{2028}",
    "null",
    "<think>",
];

fn pick<'a, T: ?Sized>(input: &mut Input<'_>, from: &[&'a T]) -> &'a T {
    from[usize::from(input.byte()) % from.len()]
}

/// A JSON string in which some characters are escaped.
fn string(input: &mut Input<'_>, text: &str) -> String {
    match input.byte() % 3 {
        0 => json!(text).to_string(),
        _ => {
            let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            format!("\"{units}\"")
        }
    }
}

/// A chunk around a delta.
fn chunk(input: &mut Input<'_>, delta: &str) -> String {
    let index =
        pick(input, &["\"index\":0,", "\"index\":\"0\",", "\"index\":0.0,", "", "\"index\":null,"]);
    let finish = pick(
        input,
        &[",\"finish_reason\":null", "", ",\"finish_reason\":\"\"", ",\"logprobs\":-Infinity"],
    );
    let beside = pick(
        input,
        &[
            "",
            "\"usage\":null,",
            "\"usage\":{},",
            "\"error\":null,",
            "\"error\":{},",
            "\"error\":false,",
            "\"created\":\"x\",",
            "\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0},",
            "\"x\":NaN,",
        ],
    );
    format!("{{{beside}\"choices\":[{{{index}\"delta\":{delta}{finish}}}]}}")
}

/// Chunks that say some text.
fn text(input: &mut Input<'_>, meant: &mut Meant, chunks: &mut Vec<String>) {
    let said = pick(input, &TEXTS);
    meant.text.push_str(said);
    let content = match input.byte() % 6 {
        0 if said.parse::<f64>().is_ok() => said.to_owned(),
        1 => format!("[{{\"type\":\"text\",\"text\":{}}}]", string(input, said)),
        2 => format!(
            "[{{\"type\":\"output_text\",\"text\":{}}},{{\"type\":\"x\"}},null]",
            string(input, said)
        ),
        3 if said == "😀" => {
            chunks.push(chunk(input, "{\"content\":\"\\ud83d\"}"));
            "\"\\ude00\"".to_owned()
        }
        _ => string(input, said),
    };
    chunks.push(chunk(input, &format!("{{\"content\":{content}}}")));
}

fn reasoning(input: &mut Input<'_>, meant: &mut Meant, chunks: &mut Vec<String>) {
    let said = pick(input, &TEXTS);
    meant.reasoning.push_str(said);
    let said = string(input, said);
    let delta = match input.byte() % 5 {
        0 => format!("{{\"reasoning\":{said}}}"),
        1 => format!("{{\"reasoning\":{said},\"reasoning_content\":{said}}}"),
        2 => format!(
            "{{\"content\":[{{\"type\":\"thinking\",\"thinking\":[{{\"type\":\"text\",\"text\":{said}}}]}}]}}"
        ),
        3 => format!("{{\"content\":null,\"thinking\":{said}}}"),
        _ => format!("{{\"reasoning_content\":{said}}}"),
    };
    chunks.push(chunk(input, &delta));
}

/// Arguments, which must stay whole however they are cut.
const ARGUMENTS: [&str; 4] =
    ["{}", "{\"p\":1}", "{\"q\":\"a {\\\"b\\\"}\"}", "{\"p\":[{\"x\":{}}]}"];

/// How a server tells its calls apart: the same for a whole answer.
#[derive(Debug, Clone, Copy)]
struct Discipline {
    index: u8,
    id: u8,
}

/// Chunks of tool calls, whose fragments take turns where the index allows it.
fn calls(input: &mut Input<'_>, meant: &mut Meant, chunks: &mut Vec<String>) {
    let count = usize::from(input.byte() % 4);
    let discipline = Discipline { index: input.byte() % 4, id: input.byte() % 4 };
    let (mut pending, mut said): (Vec<Vec<String>>, _) = (Vec::new(), Vec::new());
    for n in 0..count {
        let name = pick(input, &["read", "write"]);
        let arguments = pick(input, &ARGUMENTS);
        said.push((name.to_owned(), arguments.to_owned()));
        pending.push(fragments(input, n, discipline, name, arguments));
    }
    // Calls are in the order in which they begin.
    let mut begun = vec![false; count];
    let mut begin = |of: usize| {
        if !std::mem::replace(&mut begun[of], true) {
            meant.calls.push(said[of].clone());
        }
    };
    let interleaved = discipline.index == 0 && input.byte().is_multiple_of(2);
    while pending.iter().any(|fragments| !fragments.is_empty()) {
        let first = pending.iter().position(|fragments| !fragments.is_empty()).unwrap_or(0);
        let chosen = usize::from(input.byte()) % pending.len();
        let of = if interleaved && !pending[chosen].is_empty() { chosen } else { first };
        let mut pieces = vec![pending[of].remove(0)];
        begin(of);
        // Several in one chunk.
        if input.byte().is_multiple_of(3)
            && let Some(next) = pending.get_mut(of + 1).filter(|_| pieces.len() == 1 && interleaved)
            && !next.is_empty()
        {
            pieces.push(next.remove(0));
            begin(of + 1);
        }
        chunks.push(chunk(input, &format!("{{\"tool_calls\":[{}]}}", pieces.join(","))));
    }
}

fn fragments(
    input: &mut Input<'_>,
    n: usize,
    discipline: Discipline,
    name: &str,
    arguments: &str,
) -> Vec<String> {
    // 0: one each; 1: all the same; 2: none; 3: -1.
    let index = match discipline.index {
        0 => format!("\"index\":{n},"),
        1 => "\"index\":0,".to_owned(),
        2 => String::new(),
        _ => "\"index\":-1,".to_owned(),
    };
    // 0: one each; 1: all the same; 2: empty; 3: none. Without an index of its own,
    // a call needs an ID or whole arguments to be told from the next.
    let id = match discipline.id {
        0 => format!("\"id\":\"call{n}\","),
        1 if discipline.index == 0 => "\"id\":\"same\",".to_owned(),
        2 => "\"id\":\"\",".to_owned(),
        _ => String::new(),
    };
    let repeated = input.byte().is_multiple_of(2) && discipline.id == 0;
    let again = if repeated { id.clone() } else { String::new() };
    let whole = match input.byte() % 4 {
        0 => Some(arguments.to_owned()),
        1 => Some(json!(arguments).to_string()),
        _ => None,
    };
    if let Some(whole) = whole {
        let call = match input.byte() % 2 {
            0 => {
                format!("{{{index}{id}\"function\":{{\"name\":\"{name}\",\"arguments\":{whole}}}}}")
            }
            _ => format!("{{{index}{id}\"name\":\"{name}\",\"arguments\":{whole}}}"),
        };
        return vec![call];
    }
    let mut all = vec![format!(
        "{{{index}{id}\"type\":\"function\",\"function\":{{\"name\":\"{name}\",\"arguments\":\"\"}}}}"
    )];
    let mut rest = arguments;
    while !rest.is_empty() {
        let (piece, more) = rest.split_at((1 + usize::from(input.byte()) % 4).min(rest.len()));
        rest = more;
        all.push(format!("{{{index}{again}\"function\":{{\"arguments\":{}}}}}", json!(piece)));
    }
    all
}

/// The chunks as a body: events of the standard, or of the sloppier kind.
fn framed(input: &mut Input<'_>, chunks: &[String], done: bool) -> Vec<u8> {
    let end = pick(input, &["\n", "\r\n", "\r"]);
    let between = pick(input, &["\n", ""]);
    let start = pick(input, &["data: ", "data:", "\u{feff}data: "]);
    let bare = input.byte().is_multiple_of(8);
    let mut lines: Vec<String> = Vec::new();
    for (n, chunk) in chunks.iter().enumerate() {
        match input.byte() % 12 {
            0 => lines.push(": alive".into()),
            1 => lines.extend(["data: ".into(), between.trim_end().into()]),
            2 => lines.extend(["data: ping".into(), String::new()]),
            3 => lines.push("event: message".into()),
            4 => lines.push("id: 7".into()),
            5 if !bare => {
                lines.extend(["event: keepalive".into(), "data: {}".into(), String::new()])
            }
            _ => {}
        }
        let start =
            if n == 0 && lines.is_empty() { start } else { start.trim_start_matches('\u{feff}') };
        lines.push(if bare { chunk.clone() } else { format!("{start}{chunk}") });
        if !between.is_empty() {
            lines.push(String::new());
        }
    }
    if done {
        lines.extend(["data: [DONE]".into(), String::new()]);
    }
    let mut body = lines.join(end);
    if input.byte().is_multiple_of(2) {
        body.push_str(end);
    }
    body.into_bytes()
}

/// The body, cut as the input says.
fn cut(input: &mut Input<'_>, body: &[u8]) -> Vec<Vec<u8>> {
    let longest = usize::from(input.byte());
    if longest == 0 {
        return vec![body.to_vec()];
    }
    let mut pieces = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let (piece, more) =
            rest.split_at((1 + usize::from(input.byte()) % longest).min(rest.len()));
        pieces.push(piece.to_vec());
        rest = more;
    }
    pieces
}

/// An answer that is sent sloppily is what was meant.
pub(crate) fn answers(input: &[u8]) {
    let mut input = Input(input);
    let (mut meant, mut chunks) = (Meant::default(), vec![]);
    for _ in 0..input.byte() % 4 {
        reasoning(&mut input, &mut meant, &mut chunks);
    }
    for _ in 0..input.byte() % 6 {
        text(&mut input, &mut meant, &mut chunks);
    }
    calls(&mut input, &mut meant, &mut chunks);
    if meant.text.is_empty() && meant.calls.is_empty() {
        meant.text.push_str("Hello");
        chunks.push(chunk(&mut input, "{\"content\":\"Hello\"}"));
    }
    // The end is in a finish reason, in `[DONE]`, or in both.
    let (finishes, done) =
        [(true, true), (true, false), (false, true)][usize::from(input.byte()) % 3];
    if finishes {
        let usage = pick(
            &mut input,
            &[
                "{\"prompt_tokens\":12.0,\"completion_tokens\":\"3\",\"total_tokens\":15}",
                "{\"input_tokens\":12,\"output_tokens\":3}",
            ],
        );
        chunks.push(format!(
            "{{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"stop\"}}],\"usage\":{usage}}}"
        ));
    }
    let body = framed(&mut input, &chunks, done);
    let outcome = decode(cut(&mut input, &body), &Profile::default());
    let shown = || format!("{meant:?}\n{}\n{outcome:?}", String::from_utf8_lossy(&body));
    assert_eq!(outcome.error, None, "{}", shown());
    assert_eq!(outcome.answer.text, meant.text, "{}", shown());
    assert_eq!(outcome.answer.reasoning, meant.reasoning, "{}", shown());
    let calls: Vec<_> = meant.calls.iter().map(|(n, a)| (n.as_str(), a.as_str())).collect();
    assert_eq!(outcome.calls(), calls, "{}", shown());
    let ids: std::collections::HashSet<_> =
        outcome.answer.tool_calls.iter().map(|c| &c.id).collect();
    assert!(ids.len() == calls.len() && !ids.contains(&None), "{}", shown());
    let expected = match (finishes, calls.is_empty()) {
        (true, _) | (false, true) => "stop",
        (false, false) => "tool_calls",
    };
    assert_eq!(outcome.finish.as_deref(), Some(expected), "{}", shown());
    let usage = Usage { prompt_tokens: 12, completion_tokens: 3, total_tokens: 15 };
    assert_eq!(outcome.usage, finishes.then_some(usage), "{}", shown());
}
