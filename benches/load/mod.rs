//! What benches load a service with, and what they read off while they do.
//!
//! It knows HTTP, `/proc`, and the counters of Redis and PostgreSQL; of the
//! service it knows the URL and the pids. So it measures anything that accepts
//! messages and streams answers as rill does.
//!
//! | module | what it is |
//! |---|---|
//! | [`client`] | thousands of open streams on one thread |
//! | [`request`], [`response`], [`events`], [`tokens`] | what it sends; HTTP/1.1, server-sent events and stamped tokens, as they arrive |
//! | [`tally`] | what it has seen |
//! | [`post`] | conversations and messages, spread over a ramp |
//! | [`process`] | CPU, memory and context switches of processes |
//! | [`counters`] | Redis' commands, PostgreSQL's statements |
//! | [`figures`] | what came out of a run: a row, the median of several, JSON |

pub(crate) mod client;
pub(crate) mod counters;
pub(crate) mod events;
pub(crate) mod figures;
pub(crate) mod post;
pub(crate) mod process;
pub(crate) mod request;
pub(crate) mod response;
mod stream;
pub(crate) mod tally;
pub(crate) mod tokens;
