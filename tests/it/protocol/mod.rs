//! The protocol, checked exhaustively, and tied to the code by traces.
//!
//! A small model ([`world`]: one task, two workers, PostgreSQL, Redis, a caller,
//! a reader) takes every step that rill takes, with faults anywhere, and
//! [`model`] has stateright look at every state that can come of it. [`checks`]
//! asserts promises 1 to 3 and that each [`mutation`] breaks one; [`liveness`]
//! asserts that from every state the task ends.
//!
//! The rules are three pure state machines, and both sides use them:
//!
//! | rules | of | the model | a replay |
//! |---|---|---|---|
//! | [`row`] | the guards of each statement | executes them | finds the statement that made a row |
//! | [`log`] | IDs and contents of one stream | feeds each append | feeds each entry |
//! | [`joint`] | row, stream and queue together | feeds each step | feeds each observation |
//!
//! So the checker shows that the model never leaves what the rules allow, and
//! [`replay`](replay::replay) that a run of the real processes, seen as a
//! [`trace`], has not left it either. What readers are sent is decided by the
//! real `Splice` ([`reader`]).

mod actions;
mod fence;
mod joint;
mod log;
mod model;
mod mutation;
mod observe;
mod reader;
mod redis;
pub(crate) mod replay;
mod row;
mod steps;
mod story;
mod streaming;
mod text;
pub(crate) mod trace;
mod traces;
mod world;

mod checks;
mod liveness;
