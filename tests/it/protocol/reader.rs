//! A client that follows the stream, over any number of connections.
//!
//! What it is sent is decided by rill's own [`Splice`], not by a model of it.

use rill::domain::splice::{Splice, Step};
use rill::domain::{Class, EventId, EventName};

use super::mutation::Mutation;
use super::row::Status;
use super::text::{Content, Kind, Span, Text};
use super::world::{Reader, ReaderPlace, World};

pub(crate) const MIXED: &str = "a reader's text is not what one attempt said, in order";
pub(crate) const NOT_THE_ANSWER: &str = "a reader's text at the end is not the committed answer";
pub(crate) const NOT_THE_END: &str = "a reader was told another end than was committed";

/// The reader's splice, made again from its place. (It can't be looked into,
/// so that it is in a gap is shown to it by an event that does not follow.)
fn splice(position: EventId, gap: bool) -> Splice {
    if !gap {
        return Splice::after(position);
    }
    let mut splice = Splice::after(EventId::START);
    splice.offer(EventId::new(0, 2), Class::Content);
    splice.offer(position, Class::Content);
    splice
}

/// Offers an entry to the real splice. Answers with what to do, and the place.
fn offer(position: EventId, gap: bool, id: EventId, event: Kind) -> (Step, ReaderPlace) {
    let mut splice = splice(position, gap);
    let step = splice.offer(id, event.class());
    let position = splice.position();
    let gap = splice.offer(position.next(), Class::Content) == Step::Skip;
    (step, ReaderPlace::Open { position, gap })
}

impl Reader {
    pub(crate) fn new(cuts: u8) -> Self {
        let (cursor, text) = (EventId::START, Span::default());
        Self { cursor, text, place: ReaderPlace::Closed, cuts }
    }

    /// The client gets an event. False: what it adds doesn't follow.
    fn take(&mut self, id: EventId, content: &Content<Span>) -> bool {
        self.cursor = id;
        if content.event.is_reset() {
            self.text = content.text;
        }
        let ends = content.event.is_terminal();
        if ends {
            let status = [Status::Done, Status::Failed, Status::Cancelled];
            let status = status.into_iter().find(|status| content.event == status.event());
            self.place = ReaderPlace::Ended(status);
        }
        content.event != EventName::Delta || self.text.append(&content.text)
    }
}

impl World {
    /// A connection (`tasks/follow.rs`).
    pub(crate) fn open(&mut self, mut reader: Reader) -> Reader {
        if let Some(end) = self.row.end {
            if reader.cursor >= end {
                reader.place = ReaderPlace::Ended(Some(self.row.status));
                return reader;
            }
            let held = self.stream.iter().flatten().any(|(id, _)| *id == end);
            if !held {
                return self.tell_end(reader);
            }
        }
        let position = reader.cursor.max(EventId::new(self.row.attempt, 0).before());
        reader.place = ReaderPlace::Open { position, gap: false };
        reader
    }

    /// The next entry reaches the reader's connection.
    pub(crate) fn read(&mut self, mut reader: Reader, mutation: Mutation) -> Reader {
        let ReaderPlace::Open { position, gap } = reader.place else { return reader };
        let Some((id, content)) = self.after(position) else { return reader };
        let blind = mutation == Mutation::ReaderIgnoresGaps;
        let (mut step, place) = offer(position, gap && !blind, id, content.event);
        reader.place = place;
        if blind && content.event.class() != Class::Internal {
            step = Step::Forward;
        }
        match step {
            Step::Skip => {}
            Step::Fill => return self.tell_end(reader),
            Step::Forward => {
                if !reader.take(id, &content) {
                    self.breaks(MIXED);
                }
                self.judge(&reader);
            }
        }
        reader
    }

    /// The whole answer and the end, as PostgreSQL has them.
    pub(crate) fn tell_end(&mut self, mut reader: Reader) -> Reader {
        let (Some(end), Some(answer)) = (self.row.end, self.answer) else {
            // Nothing is sent, and the client comes back.
            reader.place = ReaderPlace::Closed;
            return reader;
        };
        reader.take(end.before(), &Content::new(EventName::Snapshot, answer));
        reader.take(end, &Content::new(self.row.status.event(), Span::default()));
        self.judge(&reader);
        reader
    }

    /// Who was told the end has the answer.
    fn judge(&mut self, reader: &Reader) {
        let ReaderPlace::Ended(status) = reader.place else { return };
        if status != Some(self.row.status) {
            self.breaks(NOT_THE_END);
        }
        if self.answer != Some(reader.text) {
            self.breaks(NOT_THE_ANSWER);
        }
    }
}
