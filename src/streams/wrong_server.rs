//! Errors by which a server says that it is the wrong one to ask.
//!
//! Behind one address there may be another server since a connection was made: a
//! replica was promoted, and who was primary keeps its connections and refuses
//! their writes. Such an error ends the connection; the next one goes wherever the
//! address leads then. What is refused for another reason (no memory, no
//! permission, no such group) would be refused again, and ends nothing.
//!
//! | code | who says so |
//! |---|---|
//! | `READONLY` | a replica, asked to write |
//! | `MASTERDOWN` | a replica that has lost its primary |
//! | `UNBLOCKED` | a primary that is demoted, to whoever waits in a blocking read |
//! | `NOREPLICAS` | a primary that is cut off from its replicas, which may have promoted another |
//! | `LOADING` | a replica that copies another's data; or one that starts, and answers before long |
//! | `NOAUTH` | a server that has forgotten who we are |

use redis::{RedisError, RedisResult, Value};

const CODES: [&str; 6] = ["READONLY", "MASTERDOWN", "UNBLOCKED", "NOREPLICAS", "LOADING", "NOAUTH"];

/// What became of a command is such an error, which redis-rs tells in either way.
pub(super) fn is_outcome(outcome: &RedisResult<Value>) -> bool {
    match outcome {
        Ok(answer) => is_told_by(answer),
        Err(error) => is_error(error),
    }
}

/// The answer is such an error.
pub(super) fn is_told_by(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if CODES.contains(&error.code()))
}

/// It is such an error.
pub(super) fn is_error(error: &RedisError) -> bool {
    error.code().is_some_and(|code| CODES.contains(&code))
}
