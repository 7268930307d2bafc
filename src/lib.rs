//! rill: durable, resumable LLM token streams, native to Redis Streams.
//!
//! A message is posted, a worker lets a model answer it, and any number of
//! readers follow the answer; whoever is cut off reads on after the last event
//! that it saw. `README.md` says what is promised and which test keeps it;
//! `docs/design.md` has the rules and their reasons. This is the map.
//!
//! # The modules
//!
//! | module | what it is | knows |
//! |---|---|---|
//! | [`domain`] | IDs, events and their classes ([`domain::event_name`]), answers, task states; the rule by which readers find gaps ([`domain::splice`]) | nothing: no I/O |
//! | [`store`] | PostgreSQL, the authority; a file an aggregate, a function a statement | `sqlx` |
//! | [`streams`] | Redis: a task's stream from the writing side ([`streams::log`]) and the reading side ([`streams::tail`]), the job queue ([`streams::queue`]), cancel hints | `redis` |
//! | [`model`] | [`model::ChatModel`]; what providers send ([`model::openai`]), how they differ ([`model::openai::profile`]), which models there are, the simulator | `async-openai` |
//! | [`tasks`] | what spans both stores: accept, end, cancel, relay, follow; a file each | [`store`], [`streams`] |
//! | [`worker`] | the loops that run tasks: claim, attempt, heartbeat, upkeep | [`tasks`], [`model`] |
//! | [`api`] | HTTP resources, event streams, problems, the document, the chat page | [`tasks`], `poem` |
//! | [`operate`] | operators' commands (`queue`, `workers`, `dead`, `task`, `models`), and what a start checks | [`tasks`], [`model`] |
//! | [`http`] | the accept loop under the API and the simulator | `hyper`, `poem` |
//! | [`cli`], [`app`] | options and roles; one function a role puts the parts together | everything |
//! | `fuzz` | targets for whatever parses outside input; in tests and for `make fuzz` only | the parsers |
//! | `hot` | the steps of a token, to be counted and timed alone; in benches and `tests/guard` only | those steps |
//! | `clock`, [`config`], [`runtime`], [`telemetry`], [`metrics`], [`shutdown`], [`log_limit`] | what all of them share | |
//!
//! `domain ← {store | streams | model} ← tasks ← {worker | api | operate | cli} ← app ← main`:
//! an arrow points at what is known, and those between bars don't know each
//! other (`cli` alone names the others' options). Each component's options are a
//! `clap::Args` beside it. Tests keep both the layers and the crates' places
//! (`tests/it/layering.rs`).
//!
//! # A message posted
//!
//! 1. `api::messages` reads and judges the body, and asks the catalog for the
//!    model.
//! 2. [`tasks::Tasks::accept`] commits message, place for the answer and task by
//!    one statement ([`store::Store::accept`]), guarded by the
//!    `Idempotency-Key`.
//! 3. The job is added ([`streams::Streams::enqueue`]), waiting at most 500 ms
//!    for Redis. The answer is 202 either way: [`tasks::Tasks::relay`], which every
//!    worker runs about once a second, adds what is missing.
//!
//! # A task run
//!
//! 1. `worker::claim` takes the job from its [`streams::queue::Consumer`] and
//!    begins an attempt ([`store::Store::begin_attempt`]), whose number is the
//!    fence. A duplicate is settled ([`tasks::Tasks::settle`]) and acknowledged.
//! 2. `worker::attempt` reads the prompt ([`store::Store::small_prompt`]), calls the
//!    model (`worker::call`, which tries again while nothing was said), and
//!    appends `started` and what the model says to the attempt's
//!    [`streams::log::Log`], one append at a time; what arrives meanwhile merges
//!    (`worker::outbox`).
//! 3. It appends `complete`, and [`tasks::Tasks::end_attempt`] commits the end
//!    ([`store::Store::end`]) and then appends the terminal event. Then the job is
//!    acknowledged.
//! 4. Meanwhile `worker::heartbeat` renews the lease. If the process dies,
//!    another worker's `worker::upkeep` claims the job a lease later, and begins
//!    the next attempt; if that finds `complete` in the stream, it commits the
//!    text without calling the model.
//!
//! # A stream resumed
//!
//! 1. `api::stream` reads the cursor, and [`tasks::Tasks::follow`] opens the
//!    stream by one statement ([`store::Store::stream_place`]): at its end (204),
//!    from PostgreSQL if Redis doesn't hold the end any more, or else from the
//!    tail.
//! 2. [`streams::tail::Tail::subscribe`] brings the entries after the cursor:
//!    read by hints, by blocking reads, or by the subscriber's own catching up.
//! 3. [`domain::splice::Splice`] says of each whether to send it. Where there is
//!    a gap up to the end, PostgreSQL fills it.
//! 4. The bytes are forwarded as they were stored. When the client leaves, the
//!    body is dropped, and with it the reader and its subscription.

pub mod api;
pub mod app;
pub mod budget;
pub mod cli;
mod clock;
pub mod config;
pub mod domain;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[doc(hidden)]
pub mod hot;
pub mod http;
pub mod log_limit;
pub mod metrics;
pub mod model;
pub mod operate;
pub mod runtime;
pub mod shutdown;
pub mod store;
pub mod streams;
mod sync;
pub mod tasks;
pub mod telemetry;
pub mod text;
pub mod worker;
