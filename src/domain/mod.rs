//! The vocabulary of rill: identifiers, event IDs, events, answers, tasks.
//!
//! Nothing in here does I/O or knows a database, a socket or a clock that it
//! was not handed. Everything else speaks in these types, so the rules that
//! make streams exact (see [`splice`]) can be tested without a server.

pub mod answer;
pub mod event;
pub mod event_id;
pub mod event_name;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod ids;
pub mod job;
mod line;
pub mod message;
pub mod opaque;
pub mod prompt;
mod quoted;
pub mod raw_object;
pub mod retry;
pub mod splice;
pub mod task;

pub use answer::Answer;
pub use event::{Event, Usage};
pub use event_id::EventId;
pub use event_name::{Class, EventName, StoredName};
pub use ids::{AccountId, ClaimId, ConversationId, Fence, MessageId, TaskId, WorkerId};
pub use job::JobKind;
pub use quoted::quoted;
pub use raw_object::RawObject;
pub use task::TaskStatus;
