//! `worker/streaming.rs` and `streams/log.rs` without their I/O.

use super::redis::{Added, Fate, Redis};
use super::{End, Reference};
use crate::domain::event::Encoded;
use crate::domain::{Answer, Event, EventId, EventName};
use crate::model::Delta;
use crate::streams::log::place::Place;
use crate::worker::outbox::Outbox;

/// One attempt.
pub(super) struct Writer {
    attempt: u32,
    outbox: Outbox,
    place: Place,
    /// The reference's own account of what was written.
    written: Answer,
    /// What the model said.
    said: Answer,
    stopped: bool,
}

/// Why an append can never succeed.
enum Stopped {
    Fenced,
    Gone,
}

impl Writer {
    pub(super) fn new(attempt: u32) -> Self {
        Self {
            attempt,
            outbox: Outbox::default(),
            place: Place::new(attempt),
            written: Answer::default(),
            said: Answer::default(),
            stopped: false,
        }
    }

    pub(super) fn start(&mut self, redis: &mut Redis, reference: &mut Reference) {
        let started = Event::Started {
            attempt: self.attempt,
            model: "m".into(),
            dropped_parameters: Vec::new(),
            prompt_begins_with: None,
        };
        self.append(redis, reference, &started.encode(), true);
    }

    pub(super) fn say(&mut self, text: String, reasoning: bool) {
        let said = if reasoning { &mut self.said.reasoning } else { &mut self.said.text };
        said.push_str(&text);
        self.outbox.push(if reasoning { Delta::Reasoning(text) } else { Delta::Text(text) });
    }

    fn next_event(&mut self, redis: &Redis) -> Option<Encoded> {
        let due = self.place.snapshot_is_due(redis.maxlen as u64);
        self.outbox.next(self.place.must_heal(), due)
    }

    /// `owns`: PostgreSQL says that the attempt is still this writer's. Answers
    /// with what was written, if whoever comes now has to find all of it.
    pub(super) fn append_due(
        &mut self,
        redis: &mut Redis,
        reference: &mut Reference,
        owns: bool,
    ) -> Option<&Answer> {
        // Who was taken for dead before it had begun has nothing to say.
        if self.stopped || self.place.next().seq == 0 {
            return None;
        }
        let event = self.next_event(redis)?;
        self.append(redis, reference, &event, owns);
        (owns && !self.place.must_heal()).then_some(&self.written)
    }

    /// `Streaming::append` and `appended`; true if the stream was made again.
    fn append(
        &mut self,
        redis: &mut Redis,
        reference: &mut Reference,
        event: &Encoded,
        owns: bool,
    ) -> bool {
        let create = self.place.next().seq == 0;
        let mut outcome = self.write(redis, reference, event, create);
        let mut revived = false;
        while matches!(outcome, Err(Stopped::Gone)) && owns {
            self.place.pass_over();
            let snapshot = Event::Snapshot(self.outbox.written().clone()).encode();
            outcome = self.write(redis, reference, &snapshot, true);
            revived = true;
        }
        if outcome.is_err() {
            assert!(!owns, "only another attempt stops a writer");
            self.stopped = true;
        }
        revived
    }

    /// `Log::write`: repeated until its outcome is known.
    fn write(
        &mut self,
        redis: &mut Redis,
        reference: &mut Reference,
        event: &Encoded,
        create: bool,
    ) -> Result<(), Stopped> {
        let id = self.place.next();
        self.note(reference, id, event);
        loop {
            self.place.sending();
            let fate = redis.next_fate();
            match fate {
                Fate::RequestLost => {
                    redis.suffer(fate);
                    self.place.unknown();
                    continue;
                }
                Fate::ReplyLost => {
                    redis.add(id, event, create);
                    redis.suffer(fate);
                    self.place.unknown();
                    continue;
                }
                // Between two appends, and so on another connection.
                _ => redis.suffer(fate),
            }
            match redis.add(id, event, create) {
                Added::Yes => break,
                Added::Stale(last) if last == id => break,
                Added::Stale(last) if last.attempt > id.attempt => return Err(Stopped::Fenced),
                Added::Stale(last) => panic!("{last} is in the way of {id}"),
                Added::Gone => return Err(Stopped::Gone),
            }
        }
        assert_eq!(self.place.confirmed(event.name, redis.generation), id);
        Ok(())
    }

    /// Enters into the reference what the answer is at `id`.
    fn note(&mut self, reference: &mut Reference, id: EventId, event: &Encoded) {
        match Event::decode(event.name, event.data.as_bytes()).expect("an event") {
            Event::Started { .. } => self.written = Answer::default(),
            Event::Delta { text } => self.written.text += &text,
            Event::Reasoning { text } => self.written.reasoning += &text,
            Event::Snapshot(answer) => {
                assert_eq!(answer, self.written, "a snapshot says what was written, no more");
            }
            _ => {}
        }
        assert!(self.said.text.starts_with(&self.written.text));
        let before = reference.insert(id, self.written.clone());
        assert_eq!(before, None, "{id} has one content for ever");
    }

    /// `Streaming::flush`.
    fn flush(&mut self, redis: &mut Redis, reference: &mut Reference, event: Option<Event>) {
        let event = event.map(|event| event.encode());
        let mut last = event.clone();
        loop {
            let heals = self.place.must_heal();
            let revived = if let Some(next) = self.next_event(redis) {
                if heals {
                    last.clone_from(&event);
                }
                self.append(redis, reference, &next, true)
            } else if let Some(event) = last.take() {
                self.append(redis, reference, &event, true)
            } else {
                return;
            };
            if revived {
                last.clone_from(&event);
            }
        }
    }

    pub(super) fn retrying(&mut self, redis: &mut Redis, reference: &mut Reference) {
        let (attempt, code) = (self.attempt, "upstream_error".to_owned());
        let retrying = Event::Retrying { attempt, code, retry_in_ms: 1 };
        self.flush(redis, reference, Some(retrying));
    }

    fn ends_at(&self, id: EventId) -> End {
        let answer = self.outbox.answer().clone();
        assert_eq!(answer, self.said, "what is committed is what the model said");
        End { id, answer }
    }

    pub(super) fn complete(&mut self, redis: &mut Redis, reference: &mut Reference) -> End {
        let complete = Event::Complete { finish_reason: "stop".into(), usage: None };
        self.flush(redis, reference, Some(complete));
        let written = redis.entries.last();
        assert!(written.is_some_and(|entry| entry.name == EventName::Complete));
        self.ends_at(self.place.free_id())
    }

    pub(super) fn flushed(&mut self, redis: &mut Redis, reference: &mut Reference) -> End {
        self.flush(redis, reference, None);
        self.ends_at(self.place.free_id())
    }

    /// The append in flight `arrives` or not, and nobody tells.
    pub(super) fn unconfirmed(
        &mut self,
        redis: &mut Redis,
        reference: &mut Reference,
        arrives: bool,
    ) -> End {
        let sending = self.place.free_id();
        if let Some(event) = self.next_event(redis) {
            self.note(reference, sending, &event);
            self.place.sending();
            if arrives {
                redis.add(sending, &event, false);
            }
        }
        self.ends_at(sending.next().next())
    }
}
