//! The designs that are compared.

use clap::ValueEnum;
use serde::Serialize;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Architecture {
    /// A row a chunk, each stream polls every 100 ms
    Database,
    /// The same, but chunks' commits don't wait for the disk (synchronous_commit off)
    DatabaseRelaxed,
    /// A Redis list, woken by pub/sub
    List,
    /// rill itself
    Rill,
}

impl Architecture {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::DatabaseRelaxed => "database-relaxed",
            Self::List => "list",
            Self::Rill => "rill",
        }
    }

    /// What removes the chunks.
    pub(crate) fn cleanup(self) -> &'static str {
        match self {
            Self::Database | Self::DatabaseRelaxed => "a job to be written",
            Self::List => "TTL",
            Self::Rill => "TTL and MAXLEN",
        }
    }

    /// What it asks its store for chunks with.
    pub(crate) fn read(self) -> &'static str {
        match self {
            Self::Database | Self::DatabaseRelaxed => "SELECT",
            Self::List => "LRANGE",
            Self::Rill => "XREAD",
        }
    }
}
