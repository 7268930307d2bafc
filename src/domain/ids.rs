//! Identifiers: UUIDs that can't be mixed up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new identifier that sorts after those made before it
            /// (UUID version 7, RFC 9562).
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Uuid::try_parse(s).map(Self)
            }
        }
    };
}

id!(
    /// Who owns conversations.
    AccountId
);
id!(
    /// A conversation: a chain of messages.
    ConversationId
);
id!(
    /// A message of a conversation.
    MessageId
);
id!(
    /// One answer to be generated, and its stream.
    TaskId
);
id!(
    /// One worker process, for as long as it lives. Never reused, so that a
    /// consumer left behind by a dead process can be told from a live one.
    WorkerId
);
id!(
    /// One delivery of a job to a worker. Repeating a claim with the same ID
    /// (after a lost reply) gives the same attempt.
    ClaimId
);

/// What makes an attempt its owner's: its number, and the claim that began it. A
/// standby of PostgreSQL that is promoted without the newest commits hands the same
/// number out again; never the same claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// The attempt's number.
    pub attempt: u32,
    /// Who began it.
    pub claim: ClaimId,
}

impl AccountId {
    /// The account that owns everything until accounts exist.
    pub const BUILT_IN: Self = Self(Uuid::nil());
}

/// Number of partitions that tasks are spread over, see [`TaskId::partition`].
pub const PARTITIONS: u8 = 64;

impl TaskId {
    /// The task's partition, `0..64`: the hash tag of its Redis keys, so that
    /// they share a slot on Redis Cluster. Taken from the random tail of the
    /// UUID, therefore even.
    pub fn partition(self) -> u8 {
        self.0.as_bytes()[15] % PARTITIONS
    }
}
