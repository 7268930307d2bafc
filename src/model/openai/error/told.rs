//! What users are told of a failure. Operators read all of it, in the log and by
//! `rill task`.
//!
//! | the failure is | users are told |
//! |---|---|
//! | in the request: 400, 413, 422, or a kind that says so; the context's length, a content policy | the server's words, without names of accounts, keys and addresses |
//! | of the operator's account: key, right, money, quota; or of the model's name | rill's words |
//! | the server's: 5xx, 429, a stream that breaks off | rill's words |

use super::report::Report;
use crate::domain::task::code;

/// Parts of kinds that are about the request, under whatever status.
const REQUEST: [&str; 8] = [
    "context_length",
    "context_window",
    "context_size",
    "string_above_max_length",
    "content_policy",
    "content_filter",
    "invalid_request",
    "validation",
];

/// Parts of messages that say the same.
const REQUEST_WORDS: [&str; 4] =
    ["context length", "context window", "context size", "prompt is too long"];

/// Parts of kinds and messages that are about the operator's account.
const ACCOUNT: [&str; 18] = [
    "quota",
    "billing",
    "balance",
    "credit",
    "insufficient_funds",
    "payment",
    "api_key",
    "api key",
    "apikey",
    "authenti",
    "permission",
    "access_denied",
    "accessdenied",
    "unauthorized",
    "forbidden",
    "access_terminated",
    "model_not_found",
    "organization",
];

/// Beginnings of names of accounts, projects, keys and requests.
const NAMES: [&str; 16] = [
    "org-", "org_", "proj_", "proj-", "user-", "user_", "acct_", "req_", "sk-", "pk-", "sk_",
    "gsk_", "xai-", "hf_", "AIza", "eyJ",
];

/// rill's words for a failure.
pub(super) fn wording(code: &str) -> &'static str {
    match code {
        code::UPSTREAM_UNAVAILABLE => "The model's server could not be reached, or broke off.",
        code::UPSTREAM_ERROR => "The model's server failed.",
        code::UPSTREAM_RATE_LIMITED => "The model's server has too many requests.",
        code::UPSTREAM_REJECTED => "The model's server refused the request.",
        code::UPSTREAM_MALFORMED => "The model's server sent an answer that can't be read.",
        code::UPSTREAM_INCOMPLETE => "The model's stream ended without a finish reason.",
        _ => "A defect of the server; its log has the cause.",
    }
}

/// What users are told of a server's report.
pub(super) fn told(code: &'static str, status: Option<u16>, report: &Report) -> String {
    let has = |text: &str, parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let message = report.message.to_ascii_lowercase();
    let is_of_account = has(&message, &ACCOUNT) || report.kinds.iter().any(|k| has(k, &ACCOUNT));
    let is_in_request = match status.or(report.status) {
        Some(400 | 413 | 422) => true,
        Some(401..=499) => false,
        _ => report.kinds.iter().any(|kind| has(kind, &REQUEST)) || has(&message, &REQUEST_WORDS),
    };
    let ours = wording(code);
    if code != code::UPSTREAM_REJECTED || is_of_account || !is_in_request || message.is_empty() {
        return ours.to_owned();
    }
    format!("{ours} It said: {}", without_names(&report.message))
}

/// The words but for those that name accounts, keys, addresses and mailboxes.
fn without_names(text: &str) -> String {
    let names = |word: &str| {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        let is_mailbox = bare.split_once('@').is_some_and(|(_, host)| host.contains('.'));
        let is_address = bare.parse::<std::net::IpAddr>().is_ok()
            || bare.parse::<std::net::SocketAddr>().is_ok();
        let is_token = bare.len() >= 32 && bare.chars().any(|c| c.is_ascii_digit());
        is_mailbox
            || is_address
            || is_token
            || bare.contains("://")
            || NAMES.iter().any(|name| bare.len() > name.len() && bare.starts_with(name))
    };
    // A name may stand within quotes, brackets, or after an equals sign.
    let parts =
        text.split_inclusive([' ', '"', '\'', '`', '(', ')', '[', ']', ',', ';', '=', '<', '>']);
    parts
        .map(|part| {
            let end = part.chars().next_back().filter(|c| " \"'`()[],;=<>".contains(*c));
            match names(part) {
                true => format!("[hidden]{}", end.map(String::from).unwrap_or_default()),
                false => part.to_owned(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::of_report;
    use super::*;
    use reqwest::StatusCode;

    #[test]
    fn users_are_told_of_their_request_and_nothing_of_the_operators_account() {
        let told = |status: u16, message: &str, kind: &str| {
            let report = Report::of(&json!({ "error": { "message": message, "type": kind } }));
            let error = of_report(StatusCode::from_u16(status).ok(), report);
            assert!(error.message.contains(message), "operators read {error}");
            error.told.expect("told")
        };
        for (status, message, kind) in [
            (400, "maximum context length is 8192 tokens", "context_length_exceeded"),
            (422, "body.seed: Extra inputs are not permitted", "x"),
            (400, "'temperature' must be at most 2", "invalid_request_error"),
        ] {
            assert!(told(status, message, kind).ends_with(message), "{message}");
        }
        for (status, message, kind) in [
            (401, "Incorrect API key provided: sk-abc", "invalid_request_error"),
            (429, "Rate limit for organization org-abc123 on tokens", "rate_limit_exceeded"),
            (429, "You exceeded your current quota", "insufficient_quota"),
            (400, "Your credit balance is too low", "invalid_request_error"),
            (403, "account 1234 may not", "permission_error"),
            (404, "deployment internal-gpu-7 does not exist", "not_found"),
            (401, "no", "invalid_request_error"),
            (500, "at /srv/vllm/engine.py:12", "server_error"),
        ] {
            let told = told(status, message, kind);
            assert!(told.ends_with('.') && !told.contains("It said"), "{told}");
        }
        let masked = told(
            400,
            "max_tokens of project 'proj_Ab12' (org-AbC123, ops@corp.example, 10.0.0.7) at http://gpu:80/x is 5",
            "invalid_request_error",
        );
        for name in ["proj_", "org-", "ops@", "10.0.0.7", "gpu:80"] {
            assert!(!masked.contains(name), "{masked}");
        }
        assert!(masked.contains("max_tokens of project '[hidden]' ([hidden], "), "{masked}");
    }
}
