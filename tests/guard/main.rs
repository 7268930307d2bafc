//! What a token costs, in numbers that don't depend on time, so that CI can
//! bound them: commands, statements, system calls, allocations, instructions;
//! and what an open stream holds.
//!
//! [`bounds`] has the table. A figure that is more than 10 % above what is
//! committed there fails. Each test counts something that other work on the
//! same servers or in the same process would add to, so all are ignored unless
//! they are asked for, and run one after the other:
//!
//! ```text
//! make guard
//! ```
//!
//! (`scripts/with-services scripts/test guard`; `make test` ends with it.) What
//! can't be measured on a machine says «not measured» and why.

mod allocations;
mod bounds;
mod commands;
mod idle;
mod instructions;
mod provider;
mod steps;
mod syscalls;

#[path = "../it/support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;

/// A rill that is to be counted: with one thread, however many cores there are,
/// as threads wake each other.
fn counted() -> support::Builder {
    support::App::builder().with("RILL_THREADS", "1")
}
