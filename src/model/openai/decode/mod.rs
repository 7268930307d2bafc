//! A provider's bytes become deltas.
//!
//! Servers that call themselves OpenAI-compatible agree on the meaning of an
//! answer and on little else. The rule here: **lenient where the meaning is clear,
//! strict where an answer would be stored wrong.** What can be read is read, in
//! any place and form; what can't counts as absent; and what tells of an error, or
//! of an end that isn't one, is never taken for a whole answer. The examples
//! behind each line stand in the tests (`tests/`), with where they were
//! reported.
//!
//! # Framing ([`lines`], [`Decoder`])
//!
//! | the body is | read as |
//! |---|---|
//! | a stream of events, under any content type | events: lines end in LF, CR LF or CR; `data:` lines of one event are joined |
//! | `data:` lines without empty lines between | an event for each line that is a chunk by itself |
//! | JSON without `data:`, one value a line, or one value in many lines | each value is a chunk; a whole `chat.completion` too |
//! | an HTML page | `upstream_malformed`: a wrong base URL, mostly |
//!
//! Comments, empty data and words that are no JSON (`ping`) are signs of life and
//! nothing else. Data that begins with `{` and is no JSON is malformed. The last
//! line needs no end. Half of a character is kept for its other half
//! ([`repair`]); `NaN` and `Infinity` are null.
//!
//! # Fields ([`chunk`], [`lenient`])
//!
//! | field | read from |
//! |---|---|
//! | choice | the first of index 0 (`0`, `0.0`, `"0"`); without an index, by its place. Others are passed over |
//! | its content | `delta`; `message`, as long as no `delta` said anything; `text` |
//! | text | a string; a number, as it is written; parts (`text`, `output_text`); an object that is no part, as JSON |
//! | reasoning | `reasoning_content`, `reasoning`, `reasoning_text`, `thinking`; parts of type `thinking`, `reasoning`; `reasoning_details` where nothing else has it; `<think>` where the profile says so ([`think`]) |
//! | tool calls | `tool_calls`, an array or one; `function_call`. Which piece belongs to which: [`calls`]. Arguments that are no string: as JSON text |
//! | finish reason | a string; other names of OpenAI's become OpenAI's |
//! | usage | `usage` of the chunk, of the choice, of `x_groq`; `prompt_tokens` or `input_tokens`, …; `12`, `12.0`, `"12"`. The largest counts ([`usage`]) |
//! | error | `error`, `errors` that say something (not null, false, empty, or of empty values only); `object` or `type` `"error"`; a message beside a status of 400 to 599; an event named `error`; a finish reason such as `error` |
//! | data to be given back | `reasoning_details`, `thinking_blocks`, `extra_content`, `provider_specific_fields`, of the message or of a call: the server's bytes |
//!
//! # The end
//!
//! | the stream | the answer is |
//! |---|---|
//! | has a finish reason, and ends in any way | complete, unless more text followed it: then as without |
//! | has none, and `[DONE]` behind text or calls | complete (`stop`, `tool_calls`), unless the server said something that is no chunk |
//! | has either, and what was no chunk has JSON in it | incomplete: a piece of the answer may be lost |
//! | is one JSON document | complete |
//! | has none, and ends | incomplete: retried, with what the server said that was no chunk |
//!
//! Reading is in two steps, of which the first is nearly always enough: types as
//! OpenAI has them; else the repaired JSON, field by field.

mod calls;
mod chunk;
mod lenient;
pub(super) mod lines;
mod repair;
#[cfg(any(test, fuzzing))]
pub(crate) mod sloppy;
#[cfg(test)]
mod tests;
pub(super) mod think;
mod translate;
mod usage;

use std::collections::VecDeque;
use std::str::FromStr;

use self::chunk::Chunk;
use self::translate::{Finish, Translator};
use super::error;
use super::profile::Profile;
use crate::model::{Delta, ModelError};

/// Bytes of one event, at most: an answer in one piece at the default cap of
/// 4 MiB, and room for JSON's escapes.
const MOST: usize = 8 * 1024 * 1024;

/// The byte order mark.
const MARK: &[u8] = "\u{feff}".as_bytes();

/// What shows that a silent server lives, until the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum SignsOfLife {
    /// Everything that it sends.
    #[default]
    Comments,
    /// Events, even if they say nothing.
    Events,
    /// Pieces of the answer.
    Content,
}

impl FromStr for SignsOfLife {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "comments" => Ok(Self::Comments),
            "events" => Ok(Self::Events),
            "content" => Ok(Self::Content),
            _ => Err("comments, events or content"),
        }
    }
}

/// Reads one answer, line by line, without I/O.
pub(super) struct Decoder {
    translator: Translator,
    signs_of_life: SignsOfLife,
    /// Data of an event that isn't read yet: it may go on, or be given a name.
    pending: Vec<u8>,
    /// What is pending is a whole object. Found out once: it may be large.
    is_whole: bool,
    /// The event is named `error`.
    is_error: bool,
    /// The body is JSON in many lines.
    document: Option<Vec<u8>>,
    /// A line that says something was read.
    begun: bool,
    /// There was a sign of life since it was last looked for.
    alive: bool,
    /// The first words that were no chunk.
    remark: Option<String>,
    /// A line was JSON without `data:`; true: one, with a message in it.
    bare_message: Option<bool>,
}

/// It begins as an array of JSON values does, and not as a word in brackets.
fn is_array(text: &[u8]) -> bool {
    let rest = text.strip_prefix(b"[").map(<[u8]>::trim_ascii_start);
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'{' | b'[' | b']')))
}

/// Whether there is more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    More,
    Done,
}

impl Decoder {
    pub(super) fn new(profile: &Profile) -> Self {
        Self {
            translator: Translator::new(profile),
            signs_of_life: profile.signs_of_life,
            pending: Vec::new(),
            is_whole: false,
            is_error: false,
            document: None,
            begun: false,
            alive: false,
            remark: None,
            bare_message: None,
        }
    }

    /// There was a sign of life since this was last asked.
    pub(super) fn take_alive(&mut self) -> bool {
        std::mem::take(&mut self.alive)
    }

    /// Reads one line, without its end.
    ///
    /// # Errors
    /// When the server reports one, or sent what is no stream of chunks.
    pub(super) fn line(
        &mut self,
        mut line: &[u8],
        out: &mut VecDeque<Delta>,
    ) -> Result<Flow, ModelError> {
        // Most lines are data, or the empty ones behind.
        if line.is_empty() && self.pending.is_empty() && self.document.is_none() {
            self.is_error = false;
            return Ok(Flow::More);
        }
        if let Some(document) = &mut self.document {
            if document.len() + line.len() > MOST {
                return Err(error::malformed("JSON of more than 8 MiB"));
            }
            document.extend_from_slice(line);
            document.push(b'\n');
            self.sign(SignsOfLife::Comments);
            return Ok(Flow::More);
        }
        if !self.begun {
            line = line.strip_prefix(MARK).unwrap_or(line);
            self.begun = !line.trim_ascii().is_empty();
            match line.trim_ascii_start().first() {
                Some(b'<') => return Err(error::page()),
                Some(b'[') if is_array(line.trim_ascii()) => {
                    self.document = Some(line.to_vec());
                    return Ok(Flow::More);
                }
                _ => {}
            }
        }
        if let Some(data) = line.strip_prefix(b"data:") {
            return self.data(data.strip_prefix(b" ").unwrap_or(data), out);
        }
        match line.first() {
            None => return self.dispatch(out),
            Some(b':') => {
                self.sign(SignsOfLife::Comments);
                return Ok(Flow::More);
            }
            Some(_) => {}
        }
        if let Some(data) = line.trim_ascii_start().strip_prefix(b"data:") {
            return self.data(data, out);
        }
        if let Some(name) = line.strip_prefix(b"event:") {
            // Without empty lines between events, a name begins the next.
            if self.is_error && !self.pending.is_empty() {
                self.dispatch(out)?;
            }
            self.is_error = name.trim_ascii() == b"error";
            return Ok(Flow::More);
        }
        self.bare(line, out)
    }

    /// The body has ended, and nothing is missing as far as HTTP knows.
    ///
    /// # Errors
    /// When the answer is not complete.
    pub(super) fn end(&mut self, out: &mut VecDeque<Delta>) -> Result<(), ModelError> {
        let is_document = self.document.is_some() || self.bare_message == Some(true);
        if let Some(document) = self.document.take() {
            self.whole(&document, out)?;
        } else if !self.pending.is_empty() {
            let data = std::mem::take(&mut self.pending);
            match Chunk::read(&data) {
                Ok(chunk) if self.is_error && !chunk.has_choices => {
                    return Err(error::named(&data));
                }
                Ok(chunk) => self.take(chunk, out)?,
                // It was cut.
                Err(_) => {}
            }
        }
        if is_document {
            return self.done(out);
        }
        let complete = self.translator.finish() == Finish::Said && !self.has_lost_data();
        if complete { Ok(()) } else { Err(error::incomplete(self.remark.take())) }
    }

    /// The server says that nothing follows.
    fn done(&mut self, out: &mut VecDeque<Delta>) -> Result<(), ModelError> {
        let complete = match self.translator.finish() {
            Finish::None => self.remark.is_none() && self.translator.has_answer(),
            _ => !self.has_lost_data(),
        };
        if complete && self.translator.ended(out) {
            return Ok(());
        }
        Err(error::incomplete(self.remark.take()))
    }

    /// Among what was no chunk may be a piece of the answer.
    fn has_lost_data(&self) -> bool {
        self.remark.as_ref().is_some_and(|remark| remark.contains("{\""))
    }

    /// The data of a line.
    fn data(&mut self, data: &[u8], out: &mut VecDeque<Delta>) -> Result<Flow, ModelError> {
        self.sign(SignsOfLife::Events);
        let mut text = data.trim_ascii();
        // Some gateways say so twice.
        while text.first() == Some(&b'd')
            && let Some(rest) = text.strip_prefix(b"data:")
        {
            text = rest.trim_ascii();
        }
        if !self.pending.is_empty() {
            return self.more_data(data, out);
        }
        match text.first() {
            Some(b'{') => match Chunk::read(text) {
                // A name behind it would change nothing.
                Ok(chunk) if chunk.has_choices || chunk.error.is_some() => {
                    self.is_error = false;
                    self.take(chunk, out)?;
                }
                read => {
                    self.is_whole = read.is_ok();
                    self.pending.extend_from_slice(text);
                }
            },
            Some(b'[') if text.eq_ignore_ascii_case(b"[DONE]") => {
                self.done(out)?;
                return Ok(Flow::Done);
            }
            Some(b'[') => self.whole(text, out)?,
            _ if text == b"\"[DONE]\"" => {
                self.done(out)?;
                return Ok(Flow::Done);
            }
            _ if self.is_error => return Err(error::named(text)),
            _ => self.remark(text),
        }
        Ok(Flow::More)
    }

    /// A line of data behind one that isn't read yet.
    fn more_data(&mut self, data: &[u8], out: &mut VecDeque<Delta>) -> Result<Flow, ModelError> {
        let text = data.trim_ascii();
        let begins_anew = text.eq_ignore_ascii_case(b"[DONE]")
            || text.starts_with(b"{")
                && (self.is_whole || Chunk::read(text).is_ok_and(|chunk| chunk.has_choices));
        if begins_anew {
            self.dispatch(out)?;
            return self.data(data, out);
        }
        if self.pending.len() + data.len() > MOST {
            return Err(error::malformed("an event of more than 8 MiB"));
        }
        self.is_whole = false;
        self.pending.push(b'\n');
        self.pending.extend_from_slice(data);
        Ok(Flow::More)
    }

    /// The event is over.
    fn dispatch(&mut self, out: &mut VecDeque<Delta>) -> Result<Flow, ModelError> {
        let is_error = std::mem::take(&mut self.is_error);
        if self.pending.is_empty() {
            return Ok(Flow::More);
        }
        let data = std::mem::take(&mut self.pending);
        match Chunk::read(&data) {
            Ok(chunk) if is_error && !chunk.has_choices => Err(error::named(&data)),
            Ok(chunk) => self.take(chunk, out).map(|()| Flow::More),
            Err(_) if is_error => Err(error::named(&data)),
            Err(chunk::NoObject(error)) => Err(error::no_chunk(&error)),
        }
    }

    /// A line that is no field of an event.
    fn bare(&mut self, line: &[u8], out: &mut VecDeque<Delta>) -> Result<Flow, ModelError> {
        let text = line.trim_ascii();
        if text.eq_ignore_ascii_case(b"[DONE]") {
            self.done(out)?;
            return Ok(Flow::Done);
        }
        self.sign(SignsOfLife::Comments);
        // llama.cpp's form of an event of that name.
        if let Some(error) = text.strip_prefix(b"error:") {
            return Err(error::named(error.trim_ascii()));
        }
        if text.starts_with(b"{") {
            match Chunk::read(text) {
                Ok(chunk) => {
                    let whole = chunk.whole;
                    let delta = chunk.choice.as_ref().map(|choice| &choice.delta);
                    let is_message = delta.is_some_and(|delta| delta.is_message);
                    // The only one, if it is a whole answer.
                    self.bare_message = Some(is_message && self.bare_message.is_none());
                    self.take(chunk, out)?;
                    if whole {
                        self.done(out)?;
                        return Ok(Flow::Done);
                    }
                }
                Err(_) => {
                    let mut document = line.to_vec();
                    document.push(b'\n');
                    self.document = Some(document);
                }
            }
        } else {
            let field = line.split(|byte| *byte == b':').next().unwrap_or_default();
            if ![&b"id"[..], b"retry", b"data", b"event"].contains(&field) {
                self.remark(text);
            }
        }
        Ok(Flow::More)
    }

    /// JSON: a chunk, or an array of chunks.
    fn whole(&mut self, json: &[u8], out: &mut VecDeque<Delta>) -> Result<(), ModelError> {
        let text = json.trim_ascii();
        if text.starts_with(b"[") {
            let repaired = repair::repair(text);
            let items: Vec<Box<serde_json::value::RawValue>> =
                match serde_json::from_str(&repaired.json) {
                    Ok(items) => items,
                    Err(error) if is_array(text) => return Err(error::no_chunk(&error)),
                    Err(_) => {
                        self.remark(text);
                        return Ok(());
                    }
                };
            let mut is_remark = true;
            for item in items {
                if let Ok(mut chunk) = Chunk::read(item.get().as_bytes()) {
                    is_remark = false;
                    chunk.marked |= repaired.marked;
                    self.take(chunk, out)?;
                }
            }
            if is_remark {
                self.remark(text);
            }
            return Ok(());
        }
        match Chunk::read(text) {
            Ok(chunk) => self.take(chunk, out),
            Err(chunk::NoObject(error)) => Err(error::no_chunk(&error)),
        }
    }

    fn take(&mut self, mut chunk: Chunk, out: &mut VecDeque<Delta>) -> Result<(), ModelError> {
        if let Some(remark) = chunk.remark.take() {
            self.remark(remark.as_bytes());
        }
        self.translator.translate(chunk, out)
    }

    fn sign(&mut self, sign: SignsOfLife) {
        self.alive |= sign >= self.signs_of_life;
    }

    /// Words that are no chunk. Those that only say that the server lives mean
    /// nothing.
    fn remark(&mut self, text: &[u8]) {
        const ALIVE: [&str; 9] =
            ["", "ping", "pong", "keepalive", "keep-alive", "heartbeat", "ok", "null", "\"\""];
        /// What more of it is shown nowhere.
        const LONGEST: usize = 4 * error::MESSAGE;
        let text = String::from_utf8_lossy(&text[..text.len().min(LONGEST)]);
        let word = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let word = word.unwrap_or(&text);
        let means_nothing = ALIVE.iter().any(|alive| alive.eq_ignore_ascii_case(word));
        if self.remark.is_none() && !means_nothing {
            self.remark = Some(text.into_owned());
        }
    }
}
