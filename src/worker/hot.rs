//! The worker's step, for [`crate::hot`].

use super::outbox::Outbox;
use crate::domain::event::Encoded;
use crate::model::Delta;

/// An answer as it is said, where each append is done before the next token.
#[derive(Debug, Default)]
pub struct Saying(Outbox);

impl Saying {
    /// Takes in a piece of the answer; the event to append.
    pub fn say(&mut self, delta: Delta) -> Option<Encoded> {
        self.0.push(delta);
        self.0.next(false, false)
    }
}
