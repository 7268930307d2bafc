//! Chunks become deltas.

use std::collections::VecDeque;

use serde_json::value::RawValue;

use super::calls::{Calls, opaque};
use super::chunk::{Choice, Chunk, Delta as Said};
use super::repair::{Joiner, alone};
use super::think::{Part, ThinkSplitter};
use super::usage::Tally;
use crate::model::openai::error;
use crate::model::openai::profile::Profile;
use crate::model::{Delta, ModelError, without_nul};

/// Finish reasons that mean that the answer broke off, and may be asked for again.
const BROKEN_OFF: [&str; 8] = [
    "error",
    "server_error",
    "network_error",
    "failed",
    "abort",
    "aborted",
    "insufficient_system_resource",
    "malformed_function_call",
];

/// Other names of OpenAI's finish reasons.
const SYNONYMS: [(&str, &[&str]); 4] = [
    ("stop", &["stop", "eos", "eos_token", "end_turn", "stop_sequence", "finish_reason_stop"]),
    ("length", &["length", "max_tokens", "model_length", "model_context_window_exceeded"]),
    ("tool_calls", &["tool_calls", "tool_use", "function_call"]),
    ("content_filter", &["content_filter", "safety", "sensitive"]),
];

/// One answer, as far as it has come.
#[derive(Debug)]
pub(super) struct Translator {
    text: Joiner,
    reasoning: Joiner,
    think: ThinkSplitter,
    calls: Calls,
    tally: Tally,
    said_text: bool,
    /// The model has refused, in words.
    refused: bool,
    /// Pieces come in `delta`: a `message` beside them says it all once more.
    in_deltas: bool,
    /// The field that reasoning came in, to be given back under.
    reasoning_field: Option<&'static str>,
    /// Reasoning was readable beside `reasoning_details`.
    plain_reasoning: bool,
    /// Objects that the server wants back: the last of a name is all of it.
    objects: Vec<(&'static str, Box<RawValue>)>,
    finish: Finish,
}

/// What the server said of the answer's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    /// Nothing.
    None,
    /// It is there.
    Said,
    /// And then there was more of the answer: only the stream's end counts.
    Unreliable,
}

impl Translator {
    pub(super) fn new(profile: &Profile) -> Self {
        Self {
            text: Joiner::default(),
            reasoning: Joiner::default(),
            think: ThinkSplitter::new(profile.think_tags),
            calls: Calls::default(),
            tally: Tally::default(),
            said_text: false,
            refused: false,
            in_deltas: false,
            reasoning_field: None,
            plain_reasoning: false,
            objects: Vec::new(),
            finish: Finish::None,
        }
    }

    pub(super) const fn finish(&self) -> Finish {
        self.finish
    }

    /// There is an answer: text or calls.
    pub(super) fn has_answer(&self) -> bool {
        self.said_text || !self.calls.is_empty()
    }

    /// Puts what `chunk` says at the end of `out`.
    ///
    /// # Errors
    /// When the chunk reports one.
    pub(super) fn translate(
        &mut self,
        chunk: Chunk,
        out: &mut VecDeque<Delta>,
    ) -> Result<(), ModelError> {
        let Chunk { choice, usage, error, marked, .. } = chunk;
        let mut finish_reason = None;
        if let Some(Choice { delta, finish_reason: reason }) = choice {
            self.delta(delta, marked, out);
            finish_reason = reason.map(|reason| alone(reason, marked));
        }
        if let Some(usage) = usage.and_then(|counts| self.tally.add(counts)) {
            out.push_back(Delta::Usage(usage));
        }
        if let Some(error) = error {
            return Err(error::inside_stream(&error));
        }
        match finish_reason.map(without_nul) {
            Some(reason) if !matches!(reason.as_str(), "" | "null") => self.finished(&reason, out),
            _ => Ok(()),
        }
    }

    fn finished(&mut self, reason: &str, out: &mut VecDeque<Delta>) -> Result<(), ModelError> {
        let lower = reason.to_ascii_lowercase();
        // Gemini's are such as «function_call_filter: MALFORMED_FUNCTION_CALL».
        if lower.split(": ").any(|part| BROKEN_OFF.contains(&part)) {
            return Err(error::broken_off(reason));
        }
        self.flush(out);
        let first = lower.split(": ").next().unwrap_or_default();
        let known = SYNONYMS.iter().find(|(_, names)| names.contains(&first));
        let reason = match known {
            Some(("stop", _)) if self.refused => "refusal",
            Some((name, _)) => name,
            None => reason,
        };
        if self.finish == Finish::None {
            self.finish = Finish::Said;
        }
        out.push_back(Delta::Finish(reason.to_owned()));
        Ok(())
    }

    /// The stream has ended as streams do, without a finish reason: if there is an
    /// answer, it is whole.
    pub(super) fn ended(&mut self, out: &mut VecDeque<Delta>) -> bool {
        self.flush(out);
        if self.finish == Finish::None && self.has_answer() {
            let reason = match () {
                () if !self.calls.is_empty() => "tool_calls",
                () if self.refused => "refusal",
                () => "stop",
            };
            self.finish = Finish::Said;
            out.push_back(Delta::Finish(reason.to_owned()));
        }
        self.finish != Finish::None
    }

    /// Lets go of what was held back, and says what the server wants back.
    fn flush(&mut self, out: &mut VecDeque<Delta>) {
        if let Some(tail) = self.text.finish() {
            self.split(tail, out);
        }
        match self.think.finish() {
            Some(Part::Text(text)) => self.say(text, out),
            Some(Part::Reasoning(text)) => out.push_back(Delta::Reasoning(text)),
            None => {}
        }
        out.extend(self.reasoning.finish().map(Delta::Reasoning));
        self.calls.settle(out);
        out.extend(self.objects.drain(..).map(|(name, json)| opaque(None, name, json)));
        if let Some(field) = self.reasoning_field.take().filter(|_| !self.calls.is_empty()) {
            out.push_back(opaque(None, field, RawValue::NULL.to_owned()));
        }
    }

    fn delta(&mut self, delta: Said, marked: bool, out: &mut VecDeque<Delta>) {
        if delta.is_message && self.in_deltas {
            return;
        }
        let before = out.len();
        if let Some(reasoning) = delta.reasoning {
            let details = reasoning.field == Some("reasoning_details");
            // Said in plain words elsewhere, details would say it twice.
            if !(details && self.plain_reasoning) {
                self.plain_reasoning |= !details;
                if !details && reasoning.field.is_some() {
                    self.reasoning_field = reasoning.field;
                }
                let text = without_nul(self.reasoning.push(reasoning.text, marked));
                if !text.is_empty() {
                    out.push_back(Delta::Reasoning(text));
                }
            }
        }
        for (name, json) in delta.opaque {
            if json.get().starts_with('[') {
                out.push_back(opaque(None, name, json));
            } else {
                self.objects.retain(|(other, _)| *other != name);
                self.objects.push((name, json));
            }
        }
        if let Some(text) = delta.content {
            let text = without_nul(self.text.push(text, marked));
            self.split(text, out);
        }
        if let Some(text) = delta.refusal.map(|text| alone(text, marked)).filter(|t| !t.is_empty())
        {
            self.refused = true;
            self.say(without_nul(text), out);
        }
        if !delta.tool_calls.is_empty() {
            self.calls.add(delta.tool_calls, marked, out);
        }
        let said_something = out.len() > before;
        self.in_deltas |= said_something && !delta.is_message;
        if self.finish != Finish::None {
            let mut more = out.iter().skip(before);
            if more.any(|delta| !matches!(delta, Delta::Opaque(_))) {
                self.finish = Finish::Unreliable;
            }
        }
    }

    fn split(&mut self, text: String, out: &mut VecDeque<Delta>) {
        if text.is_empty() {
            return;
        }
        let Self { think, said_text, .. } = self;
        think.push(text, |part| {
            out.push_back(match part {
                Part::Reasoning(text) => Delta::Reasoning(text),
                Part::Text(text) => {
                    *said_text = true;
                    Delta::Text(text)
                }
            });
        });
    }

    fn say(&mut self, text: String, out: &mut VecDeque<Delta>) {
        self.said_text = true;
        out.push_back(Delta::Text(text));
    }
}
