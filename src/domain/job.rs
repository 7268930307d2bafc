//! Kinds of jobs.

use std::fmt;

/// The kind of a job's work. Each kind has a queue of its own in Redis and rows of its own
/// in PostgreSQL, from which its relay restores the queue: a worker takes jobs of
/// the kinds that it knows, and never sees another (`docs/compatibility.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobKind {
    /// Generates an answer; its rows are the tasks.
    Generate,
}

impl JobKind {
    /// As written in keys.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Generate => "generate",
        }
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
