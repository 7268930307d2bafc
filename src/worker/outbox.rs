//! What the model has said and the stream has not got yet.
//!
//! One append is in flight for each task. Text that arrives meanwhile merges
//! into the next event, so pressure makes bigger events, never more of them,
//! and nothing waits on a timer. Bounded by the answer cap.

use std::collections::VecDeque;

use crate::domain::event::{Encoded, ToolCallDelta};
use crate::domain::opaque::OpaqueCollector;
use crate::domain::{Answer, Event};
use crate::model::Delta;

/// The answer so far, and what of it is still to be appended.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    answer: Answer,
    /// What the events taken so far say. A snapshot says just that and no more:
    /// readers without a gap are not sent it.
    written: Written,
    waiting: VecDeque<Waiting>,
    /// The answer's, once it is complete.
    opaque: OpaqueCollector,
}

/// Text only grows: how much of the answer's was written says which.
#[derive(Debug, Default)]
struct Written {
    text: usize,
    reasoning: usize,
    /// All of the opaque data, or none.
    opaque: bool,
    /// An answer of tool calls alone.
    tool_calls: Answer,
}

/// An event to come.
#[derive(Debug)]
enum Waiting {
    /// So many bytes of the answer's text.
    Text(usize),
    /// So many bytes of its reasoning.
    Reasoning(usize),
    ToolCall(ToolCallDelta),
    /// The answer's opaque data.
    Opaque,
}

impl Outbox {
    pub(super) const fn answer(&self) -> &Answer {
        &self.answer
    }

    pub(super) fn into_answer(self) -> Answer {
        self.answer
    }

    /// Takes in a piece of the answer.
    pub(super) fn push(&mut self, delta: Delta) {
        let event = match delta {
            Delta::Text(text) if !text.is_empty() => {
                self.answer.text.push_str(&text);
                Waiting::Text(text.len())
            }
            Delta::Reasoning(text) if !text.is_empty() => {
                self.answer.reasoning.push_str(&text);
                Waiting::Reasoning(text.len())
            }
            Delta::ToolCall(call) => {
                self.answer.apply_tool_call(&call);
                Waiting::ToolCall(call)
            }
            // Whoever takes over needs it only with a complete answer.
            Delta::Opaque(data) => {
                self.opaque.add(data);
                return;
            }
            Delta::Text(_)
            | Delta::Reasoning(_)
            | Delta::Finish(_)
            | Delta::Usage(_)
            | Delta::Alive => return,
        };
        match (self.waiting.back_mut(), event) {
            (Some(Waiting::Text(bytes)), Waiting::Text(more))
            | (Some(Waiting::Reasoning(bytes)), Waiting::Reasoning(more)) => *bytes += more,
            (Some(Waiting::ToolCall(call)), Waiting::ToolCall(more))
                if call.index == more.index =>
            {
                call.id = more.id.or(call.id.take());
                call.name = more.name.or(call.name.take());
                call.arguments.push_str(&more.arguments);
            }
            (_, event) => self.waiting.push_back(event),
        }
    }

    /// The model has finished: what is kept for its server goes before `complete`.
    pub(super) fn finish(&mut self) {
        self.answer.opaque = std::mem::take(&mut self.opaque).into_data();
        if !self.answer.opaque.is_empty() {
            self.waiting.push_back(Waiting::Opaque);
        }
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next event to append.
    fn take(&mut self) -> Option<Encoded> {
        let Self { answer, written, waiting, .. } = self;
        Some(match waiting.pop_front()? {
            Waiting::Text(bytes) => {
                let from = written.text;
                written.text += bytes;
                Encoded::delta(&answer.text[from..written.text])
            }
            Waiting::Reasoning(bytes) => {
                let from = written.reasoning;
                written.reasoning += bytes;
                Encoded::reasoning(&answer.reasoning[from..written.reasoning])
            }
            Waiting::ToolCall(call) => {
                written.tool_calls.apply_tool_call(&call);
                Event::ToolCall(call).encode()
            }
            Waiting::Opaque => {
                written.opaque = true;
                Event::Opaque { data: answer.opaque.clone() }.encode()
            }
        })
    }

    /// What the log needs next, if anything: a snapshot where it has to heal, or
    /// where one is due and something follows.
    pub(super) fn next(&mut self, must_heal: bool, snapshot_is_due: bool) -> Option<Encoded> {
        if must_heal || snapshot_is_due && !self.waiting.is_empty() {
            return Some(Event::Snapshot(self.written()).encode());
        }
        self.take()
    }

    /// What the events taken so far say.
    pub(super) fn written(&self) -> Answer {
        Answer {
            text: self.answer.text[..self.written.text].to_owned(),
            reasoning: self.answer.reasoning[..self.written.reasoning].to_owned(),
            tool_calls: self.written.tool_calls.tool_calls.clone(),
            opaque: if self.written.opaque { self.answer.opaque.clone() } else { Vec::new() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::opaque::OpaqueData;
    use proptest::prelude::*;

    fn any_delta() -> impl Strategy<Value = Delta> {
        prop_oneof![
            any::<String>().prop_map(Delta::Text),
            any::<String>().prop_map(Delta::Reasoning),
            (0u32..3, any::<Option<String>>(), any::<String>()).prop_map(
                |(index, id, arguments)| {
                    Delta::ToolCall(ToolCallDelta { index, name: id.clone(), id, arguments })
                }
            ),
            any::<String>().prop_map(|json| Delta::Opaque(OpaqueData {
                call: None,
                name: "reasoning_details".into(),
                json
            })),
        ]
    }

    proptest! {
        /// However appends and arrivals interleave, a reader that applies the
        /// events has what the model said.
        #[test]
        fn merging_changes_no_text(
            deltas in proptest::collection::vec((any_delta(), 0u8..3, any::<bool>()), 0..40)
        ) {
            let mut outbox = Outbox::default();
            let mut said = Answer::default();
            let mut opaque = OpaqueCollector::default();
            let mut reader = Answer::default();
            let mut latest = Answer::default();
            let read = |reader: &mut Answer, encoded: Encoded| {
                let event = Event::decode(encoded.name, encoded.data.as_bytes()).expect("decodes");
                reader.apply(&event);
            };
            for (delta, appends, snapshot) in deltas {
                match &delta {
                    Delta::Text(text) => said.apply(&Event::Delta { text: text.clone() }),
                    Delta::Reasoning(text) => said.apply(&Event::Reasoning { text: text.clone() }),
                    Delta::ToolCall(call) => said.apply(&Event::ToolCall(call.clone())),
                    Delta::Opaque(data) => opaque.add(data.clone()),
                    Delta::Finish(_) | Delta::Usage(_) | Delta::Alive => {}
                }
                outbox.push(delta);
                for _ in 0..appends {
                    if let Some(encoded) = outbox.take() {
                        read(&mut reader, encoded);
                    }
                }
                if snapshot {
                    // Who needs it resets to it, who doesn't has the same.
                    latest = outbox.written();
                    prop_assert_eq!(&latest, &reader);
                }
            }
            outbox.finish();
            said.opaque = opaque.into_data();
            while let Some(encoded) = outbox.take() {
                read(&mut reader, encoded);
            }
            prop_assert!(reader.text.starts_with(&latest.text));
            prop_assert_eq!(&reader, &said);
            prop_assert_eq!(outbox.answer(), &said);
        }
    }

    #[test]
    fn text_that_waits_becomes_one_event() {
        let mut outbox = Outbox::default();
        for word in ["a", "", "b", "c"] {
            outbox.push(Delta::Text(word.into()));
        }
        assert_eq!(outbox.take().expect("one event").data, r#"{"type":"delta","text":"abc"}"#);
        assert!(outbox.take().is_none());
    }
}
