//! A task's states, and the codes that say why one failed.
//!
//! `queued → running → done | failed | cancelled`; `running → queued` on a
//! retry. PostgreSQL is the authority.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    /// Accepted, waiting for a worker.
    Queued,
    /// A worker has it.
    Running,
    /// The answer is complete.
    Done,
    /// Given up; partial text is kept.
    Failed,
    /// Stopped by the caller; partial text is kept.
    Cancelled,
}

impl TaskStatus {
    /// As stored and as sent.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Nothing changes any more.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for TaskStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A status that this version doesn't know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown task status {0:?}")]
pub struct UnknownStatus(pub String);

impl FromStr for TaskStatus {
    type Err = UnknownStatus;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(match s {
            "queued" => Self::Queued,
            "running" => Self::Running,
            "done" => Self::Done,
            "failed" => Self::Failed,
            "cancelled" => Self::Cancelled,
            other => return Err(UnknownStatus(other.to_owned())),
        })
    }
}

/// Why a task failed: the stable `code` of `failed` and `retrying` events.
pub mod code {
    /// A code, and what it tells; `docs/failures.md` and the OpenAPI document are made
    /// of these.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct FailureCode {
        /// As stored and as sent.
        pub code: &'static str,
        /// Such a failure is tried again, as often as is allowed; a task that ends with
        /// it was given up on. The others say that trying again wouldn't have helped.
        pub given_up: bool,
        /// What happened.
        pub meaning: &'static str,
        /// What to do about it.
        pub remedy: &'static str,
    }

    macro_rules! codes {
        ($($name:ident $code:literal $given_up:ident: $meaning:literal => $remedy:literal;)*) => {
            $(#[doc = $meaning] pub const $name: &str = $code;)*

            /// Every code.
            pub const ALL: &[FailureCode] = &[$(FailureCode {
                code: $name,
                given_up: codes!($given_up),
                meaning: $meaning,
                remedy: $remedy,
            },)*];
        };
        (retried) => { true };
        (final) => { false };
    }

    codes! {
        UPSTREAM_UNAVAILABLE "upstream_unavailable" retried:
            "The model's server could not be reached, or broke the connection."
            => "Ask again later. Operators: look at the server, the network to it, and its base URL.";
        UPSTREAM_ERROR "upstream_error" retried:
            "The model's server failed: it answered 5xx, or said so within the answer."
            => "Ask again later. Operators: look at that server.";
        UPSTREAM_RATE_LIMITED "upstream_rate_limited" retried:
            "The model's server took too many requests: 429."
            => "Ask again later, or less. Operators: raise the limit there, or lower `--concurrency`.";
        UPSTREAM_REJECTED "upstream_rejected" final:
            "The model's server refused the request: a parameter, the length, the key, the quota."
            => "Change the request as the message says; repeated as it is, it is refused again. Operators: keys and quota are yours.";
        UPSTREAM_MALFORMED "upstream_malformed" retried:
            "The model's server sent what isn't its wire format."
            => "Operators: see whether the base URL is that of an OpenAI-compatible API, and whether a profile fits (`docs/models.md`).";
        UPSTREAM_INCOMPLETE "upstream_incomplete" retried:
            "The model's server ended the answer without saying that it was whole."
            => "Ask again; the text so far is kept. Operators: look for a proxy that cuts long responses.";
        UPSTREAM_IDLE "upstream_idle" retried:
            "The model's server said nothing for longer than `--model-idle-timeout`."
            => "Ask again later. Operators: raise the timeout for a slow model, or set `signs_of_life` in its profile.";
        ANSWER_TOO_LARGE "answer_too_large" final:
            "The answer grew beyond `--answer-cap`."
            => "Ask for less (`max_completion_tokens`); the text so far is kept. Operators: raise the cap.";
        PROMPT_TOO_LARGE "prompt_too_large" final:
            "What the model must be told (the instructions and the newest exchange) is larger than `--max-prompt-bytes`."
            => "Say less at a time, or begin a new conversation. Operators: raise the limit, if the model takes that much.";
        DEADLINE_EXCEEDED "deadline_exceeded" final:
            "The task was not finished within `--task-deadline` of its acceptance."
            => "Ask again. Operators: add workers if tasks wait for long (`rill queue`).";
        WORKER_LOST "worker_lost" retried:
            "Workers that had the task died, too often."
            => "Operators: see why workers die (memory, most often); `rill task` tells which had it.";
        UNKNOWN_MODEL "unknown_model" final:
            "The model is not, or no longer, configured at the worker."
            => "Ask for a model that `GET /v1/models` lists. Operators: give API and workers the same models.";
        INTERNAL "internal" final:
            "A defect of rill."
            => "Report it, with the task's ID and the worker's log.";
    }

    /// A task that failed so was tried as often as is allowed, and given up on.
    pub fn is_given_up(code: &str) -> bool {
        ALL.iter().any(|known| known.code == code && known.given_up)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// The table of `docs/failures.md`.
        fn table() -> String {
            let mut table = String::from(
                "| code | tried again | what happened | what to do |\n|---|---|---|---|\n",
            );
            for FailureCode { code, given_up, meaning, remedy } in ALL {
                let again = if *given_up { "yes" } else { "no" };
                table += &format!("| `{code}` | {again} | {meaning} | {remedy} |\n");
            }
            table
        }

        #[test]
        fn the_documentation_has_every_code() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/failures.md");
            let text = std::fs::read_to_string(path).expect("docs/failures.md");
            let marked = text
                .split_once("<!-- codes -->\n")
                .and_then(|(_, rest)| rest.split_once("<!-- /codes -->"));
            let (documented, _) = marked.expect("the marks");
            assert!(
                documented == table(),
                "docs/failures.md should have this table:\n\n{}",
                table()
            );
        }

        #[test]
        fn codes_are_distinct_and_what_helps_to_repeat_is_given_up_on() {
            for (n, one) in ALL.iter().enumerate() {
                assert!(ALL[n + 1..].iter().all(|other| other.code != one.code), "{}", one.code);
            }
            assert!(is_given_up(UPSTREAM_ERROR) && is_given_up(WORKER_LOST));
            assert!(
                !is_given_up(UPSTREAM_REJECTED) && !is_given_up(INTERNAL) && !is_given_up("newer")
            );
        }
    }
}
