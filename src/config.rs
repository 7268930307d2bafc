//! What the options of several components share. Each component's options are
//! a `clap::Args` struct beside it; an environment variable stands in for each.

use std::fmt;
use std::time::Duration;

/// A value that may hold a password: never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The value itself, for whoever opens the connection.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self(value.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Options that don't fit together, and what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// Something about a server that is not as it should be, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A promise can't be kept. (Otherwise one is weaker, or something is odd.)
    pub breaks: bool,
    /// What is wrong, and what to do.
    pub text: String,
}

impl Finding {
    /// A promise can't be kept.
    pub fn breaking(text: impl Into<String>) -> Self {
        Self { breaks: true, text: text.into() }
    }

    /// A promise is weaker than it could be.
    pub fn weak(text: impl Into<String>) -> Self {
        Self { breaks: false, text: text.into() }
    }
}

/// Reads `15s`, `500ms`, `1h 30m`.
///
/// # Errors
/// When it is none of these.
pub fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}
