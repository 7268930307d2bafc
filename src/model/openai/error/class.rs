//! Whether repeating a call may help: decided once, from what the server said.
//!
//! | it says | it is | code |
//! |---|---|---|
//! | that money, the context's length, a key, a right or the model is the matter | permanent, whatever the status | `upstream_rejected` |
//! | 429, 420; or a kind such as `rate_limit_exceeded` | retryable | `upstream_rate_limited` |
//! | 408, 409, 424, 425, 5xx but 501 and 505; or `overloaded`, `server_error`, … | retryable | `upstream_error` |
//! | another 4xx, or a kind such as `invalid_request_error` | permanent | `upstream_rejected` |
//! | nothing of it, inside a stream | retryable | `upstream_error` |
//!
//! A status may be in the stream's error (`"code": 400`, `"400"`). The most exact
//! kind counts: a code before a type.

use super::report::Report;
use crate::domain::task::code;

/// Parts of kinds that no repetition mends, whatever the status.
const FINAL: [&str; 22] = [
    "insufficient_quota",
    "exceeded_current_quota",
    "quota_exhausted",
    "billing",
    "insufficient_balance",
    "insufficient_credit",
    "insufficient_funds",
    "payment_required",
    "context_length",
    "context_window",
    "context_size",
    "string_above_max_length",
    "invalid_api_key",
    "invalid_authentication",
    "authentication",
    "permission",
    "access_denied",
    "accessdenied",
    "unauthorized",
    "model_not_found",
    "content_policy",
    "access_terminated",
];

/// Parts of messages that say the same, where no kind does.
const FINAL_WORDS: [&str; 9] = [
    "maximum context length",
    "context length exceeded",
    "exceeds the context",
    "context window",
    "exceeds the available context size",
    "prompt is too long",
    "insufficient balance",
    "insufficient credits",
    "incorrect api key",
];

/// Parts of kinds of too many requests.
const LIMITED: [&str; 7] = [
    "rate_limit",
    "ratelimit",
    "too_many_requests",
    "toomanyrequests",
    "resource_exhausted",
    "throttl",
    "concurrency_limit",
];

/// Parts of kinds that pass.
const PASSING: [&str; 10] = [
    "overloaded",
    "server_error",
    "internal",
    "timeout",
    "timed_out",
    "unavailable",
    "capacity",
    "api_error",
    "aborted",
    "loading",
];

/// Parts of kinds of requests that are wrong.
const WRONG: [&str; 10] = [
    "invalid",
    "validation",
    "bad_request",
    "badrequest",
    "unprocessable",
    "not_found",
    "notfound",
    "unsupported",
    "content_filter",
    "failed_precondition",
];

/// The task's code, and whether repeating may help. `status`: the response's, if
/// that is what failed.
pub(super) fn classify(status: Option<u16>, report: &Report) -> (&'static str, bool) {
    let has = |kind: &str, parts: &[&str]| parts.iter().any(|part| kind.contains(part));
    let message = report.message.to_ascii_lowercase();
    if report.kinds.iter().any(|kind| has(kind, &FINAL)) || has(&message, &FINAL_WORDS) {
        return (code::UPSTREAM_REJECTED, false);
    }
    let by_kind = report.kinds.iter().find_map(|kind| match () {
        () if has(kind, &LIMITED) => Some((code::UPSTREAM_RATE_LIMITED, true)),
        () if has(kind, &PASSING) => Some((code::UPSTREAM_ERROR, true)),
        () if has(kind, &WRONG) => Some((code::UPSTREAM_REJECTED, false)),
        () => None,
    });
    match status.or(report.status) {
        Some(420 | 429) => (code::UPSTREAM_RATE_LIMITED, true),
        Some(501 | 505) => (code::UPSTREAM_REJECTED, false),
        Some(408 | 409 | 424 | 425 | 500..) => (code::UPSTREAM_ERROR, true),
        // A refusal by its status, unless it says that it passes.
        Some(_) => {
            by_kind.filter(|(_, passes)| *passes).unwrap_or((code::UPSTREAM_REJECTED, false))
        }
        None => by_kind.unwrap_or((code::UPSTREAM_ERROR, true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn errors_are_classified_once_by_what_they_say() {
        use code::{UPSTREAM_ERROR, UPSTREAM_RATE_LIMITED, UPSTREAM_REJECTED};
        for (status, json, expected) in [
            (
                Some(429),
                json!({"error": {"code": "rate_limit_exceeded"}}),
                (UPSTREAM_RATE_LIMITED, true),
            ),
            (
                Some(429),
                json!({"error": {"type": "invalid_request_error"}}),
                (UPSTREAM_RATE_LIMITED, true),
            ),
            (
                Some(429),
                json!({"error": {"code": "insufficient_quota"}}),
                (UPSTREAM_REJECTED, false),
            ),
            (
                Some(429),
                json!([{"error": {"status": "RESOURCE_EXHAUSTED"}}]),
                (UPSTREAM_RATE_LIMITED, true),
            ),
            (
                Some(402),
                json!({"error": {"message": "Insufficient Balance"}}),
                (UPSTREAM_REJECTED, false),
            ),
            (
                Some(500),
                json!({"error": {"code": "context_length_exceeded"}}),
                (UPSTREAM_REJECTED, false),
            ),
            (
                Some(500),
                json!({"error": {"type": "invalid_request_error"}}),
                (UPSTREAM_ERROR, true),
            ),
            (Some(503), json!({}), (UPSTREAM_ERROR, true)),
            (Some(529), json!({"error": {"type": "overloaded_error"}}), (UPSTREAM_ERROR, true)),
            (Some(408), json!(null), (UPSTREAM_ERROR, true)),
            (Some(424), json!(null), (UPSTREAM_ERROR, true)),
            (Some(501), json!(null), (UPSTREAM_REJECTED, false)),
            (Some(400), json!({"error": "no"}), (UPSTREAM_REJECTED, false)),
            (Some(401), json!({"error": {"code": "invalid_api_key"}}), (UPSTREAM_REJECTED, false)),
            (
                Some(403),
                json!({"error": {"code": "RateLimitReached"}}),
                (UPSTREAM_RATE_LIMITED, true),
            ),
            (Some(404), json!({"error": {"code": "model_not_found"}}), (UPSTREAM_REJECTED, false)),
            // Inside a stream.
            (
                None,
                json!({"message": "slow down", "type": "rate_limit_error"}),
                (UPSTREAM_RATE_LIMITED, true),
            ),
            (None, json!({"message": "no", "code": 400}), (UPSTREAM_REJECTED, false)),
            (None, json!({"message": "no", "code": "400"}), (UPSTREAM_REJECTED, false)),
            (
                None,
                json!({"code": "context_length_exceeded", "type": "server_error"}),
                (UPSTREAM_REJECTED, false),
            ),
            (
                None,
                json!({"message": "maximum context length exceeded", "code": 500}),
                (UPSTREAM_REJECTED, false),
            ),
            (
                None,
                json!({"code": "server_error", "type": "invalid_request_error"}),
                (UPSTREAM_ERROR, true),
            ),
            (None, json!({"type": "invalid_request_error"}), (UPSTREAM_REJECTED, false)),
            (None, json!({"code": 502, "message": "Provider overloaded"}), (UPSTREAM_ERROR, true)),
            (None, json!({"code": "429"}), (UPSTREAM_RATE_LIMITED, true)),
            (
                Some(429),
                json!({"error": {"code": 429, "message": "Provider returned error", "metadata": {
                    "raw": "{\"error\":{\"code\":\"insufficient_quota\",\"message\":\"no\"}}"}}}),
                (UPSTREAM_REJECTED, false),
            ),
            (
                None,
                json!({"error": "too many tokens", "error_type": "validation"}),
                (UPSTREAM_REJECTED, false),
            ),
            (
                Some(429),
                json!({"error": {"type": "exceeded_current_quota_error"}}),
                (UPSTREAM_REJECTED, false),
            ),
            (None, json!("overloaded"), (UPSTREAM_ERROR, true)),
        ] {
            assert_eq!(classify(status, &Report::of(&json)), expected, "{status:?} {json}");
        }
    }
}
