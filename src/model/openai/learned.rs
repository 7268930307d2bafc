//! What a server has refused, remembered for its model until the process ends.
//!
//! | the refusal (400, 422) names | then |
//! |---|---|
//! | `stream_options` | it is left out |
//! | `max_tokens`, `max_completion_tokens` as unknown | it is called the other name |
//! | the role `developer`, `system` | the instructions are `system`'s, the user's |
//! | a field that was sent back to the server | it is left out |
//! | `reasoning_content` or `reasoning`, and none was sent | it is sent beside tool calls |
//!
//! It is remembered once the changed request was accepted: a refusal may name
//! something for another reason, and the users of a model share what it teaches.
//! All of it rill has added, or can say in another way. A parameter of the caller's is
//! the caller's to mend: its refusal is the task's error, unless the profile drops it.

use std::collections::BTreeSet;

use reqwest::StatusCode;

use super::error::Refusal;
use super::profile::{MaxTokens, SystemRole};
use crate::domain::RawObject;

/// Fields of messages that are sent back, and may be refused.
const SENT_BACK: [&str; 7] = [
    "reasoning_content",
    "reasoning_details",
    "reasoning_text",
    "thinking_blocks",
    "extra_content",
    "provider_specific_fields",
    "reasoning",
];

/// Words of refusals of what a server doesn't know.
const UNKNOWN: [&str; 15] = [
    "unsupported",
    "not supported",
    "not support",
    "unrecognized",
    "unrecognised",
    "unknown",
    "unexpected",
    "extra inputs",
    "extra fields",
    "extra_forbidden",
    "not permitted",
    "not allowed",
    "additional propert",
    "no such field",
    "expected one of",
];

/// Words of refusals of what is not there.
const MISSING: [&str; 5] =
    ["missing", "required", "must be provided", "must be passed", "must be set"];

/// How a model's server differs from its profile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Learned {
    pub(super) no_stream_options: bool,
    pub(super) max_tokens: Option<MaxTokens>,
    pub(super) system_role: Option<SystemRole>,
    /// Fields that are not sent back.
    pub(super) withheld: BTreeSet<&'static str>,
    /// The field in which reasoning must be sent back beside tool calls.
    pub(super) wanted: Option<&'static str>,
}

impl Learned {
    /// Takes in what another call has learned.
    pub(super) fn merge(&mut self, other: Self) {
        self.no_stream_options |= other.no_stream_options;
        self.max_tokens = other.max_tokens.or(self.max_tokens);
        self.system_role = other.system_role.or(self.system_role);
        self.withheld.extend(other.withheld);
        self.wanted = other.wanted.or(self.wanted).filter(|name| !self.withheld.contains(name));
    }

    /// What follows from a refusal of `sent`, and the words for it; nothing if there is
    /// nothing that rill could do otherwise.
    pub(super) fn learn(&self, sent: &RawObject, refusal: &Refusal) -> Option<(Self, String)> {
        let statuses = [StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY];
        if !statuses.contains(&refusal.status) {
            return None;
        }
        let said = refusal.said.as_str();
        let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
        // As a word of its own.
        let names = |name: &str| {
            let mut words = said.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
            words.any(|word| word == name)
        };
        let mut next = self.clone();
        let mut what = Vec::new();
        if sent.get("stream_options").is_some()
            && (names("stream_options") || names("include_usage"))
        {
            next.no_stream_options = true;
            what.push("leaves stream_options out".to_owned());
        }
        if self.max_tokens.is_none() && has(&UNKNOWN) {
            for (name, other, setting) in [
                ("max_tokens", "max_completion_tokens", MaxTokens::MaxCompletionTokens),
                ("max_completion_tokens", "max_tokens", MaxTokens::MaxTokens),
            ] {
                // Both names are in «use the other instead».
                let refused = sent.get(name).is_some() && sent.get(other).is_none();
                if refused && names(name) {
                    next.max_tokens = Some(setting);
                    what.push(format!("calls {name} {other}"));
                }
            }
        }
        let messages = sent.get("messages").map_or("", |messages| messages.get());
        if has(&UNKNOWN) && (names("role") || names("roles") || names("variant")) {
            for (name, role, as_what) in
                [("developer", SystemRole::System, "system"), ("system", SystemRole::User, "user")]
            {
                let begins = format!("[{{\"role\":\"{name}\"");
                if self.system_role != Some(role) && messages.starts_with(&begins) && names(name) {
                    next.system_role = Some(role);
                    what.push(format!("gives the {name}'s message to {as_what}"));
                }
            }
        }
        let is_sent = |name: &str| messages.contains(&format!("\"{name}\":"));
        let named = SENT_BACK.into_iter().find(|name| names(name));
        match named {
            Some(name) if is_sent(name) && has(&UNKNOWN) => {
                next.withheld.insert(name);
                next.wanted = next.wanted.filter(|wanted| *wanted != name);
                what.push(format!("doesn't send {name} back"));
            }
            Some(name @ ("reasoning_content" | "reasoning"))
                if has(&MISSING) && !is_sent(name) && !self.withheld.contains(name) =>
            {
                next.wanted = Some(name);
                what.push(format!("sends {name} back beside tool calls"));
            }
            _ => {}
        }
        (next != *self).then(|| (next, what.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::task::code;
    use crate::model::ModelError;

    fn learned(sent: &str, said: &str) -> Learned {
        let error = ModelError {
            code: code::UPSTREAM_REJECTED,
            message: String::new(),
            told: None,
            retryable: false,
            retry_after: None,
        };
        let refusal = Refusal { error, status: StatusCode::BAD_REQUEST, said: said.to_lowercase() };
        let sent = serde_json::from_str(sent).expect("an object");
        Learned::default().learn(&sent, &refusal).map(|(learned, _)| learned).unwrap_or_default()
    }

    #[test]
    fn what_rill_added_or_can_say_otherwise_is_learned_and_nothing_else() {
        let none = Learned::default;
        let stream =
            r#"{"messages":[],"stream_options":{"include_usage":true},"max_tokens":5,"seed":1}"#;
        let newer = r#"{"messages":[],"max_completion_tokens":5}"#;
        let system =
            r#"{"messages":[{"role":"system","content":"x"},{"role":"user","content":"y"}]}"#;
        let developer = r#"{"messages":[{"role":"developer","content":"x"}]}"#;
        let back = r#"{"messages":[{"role":"assistant","reasoning_content":"x"}]}"#;
        let plain = r#"{"messages":[{"role":"assistant","tool_calls":[]}]}"#;
        let no_stream_options = || Learned { no_stream_options: true, ..none() };
        let renamed = |max_tokens| Learned { max_tokens: Some(max_tokens), ..none() };
        let role = |role| Learned { system_role: Some(role), ..none() };
        for (sent, said, expected) in [
            (
                stream,
                r#"{"detail":[{"loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}"#,
                no_stream_options(),
            ),
            (stream, "Unrecognized request argument supplied: stream_options", no_stream_options()),
            (
                stream,
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
                renamed(MaxTokens::MaxCompletionTokens),
            ),
            (stream, "max_tokens is too large: 5. This model supports at most 4", none()),
            (stream, "Unsupported parameter: seed", none()),
            (stream, r#"{"detail":[{"msg":"Extra inputs are not permitted"}]}"#, none()),
            (
                newer,
                r#"{"loc":["body","max_completion_tokens"],"type":"extra_forbidden"}"#,
                renamed(MaxTokens::MaxTokens),
            ),
            (
                newer,
                "property 'max_completion_tokens' is unsupported",
                renamed(MaxTokens::MaxTokens),
            ),
            (
                system,
                "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
                role(SystemRole::User),
            ),
            (system, "System role not supported", role(SystemRole::User)),
            (system, "the system is unexpectedly busy", none()),
            (
                developer,
                "messages[0].role: unknown variant `developer`, expected one of `system`, `user`",
                role(SystemRole::System),
            ),
            (
                back,
                "property 'reasoning_content' is unsupported",
                Learned { withheld: ["reasoning_content"].into(), ..none() },
            ),
            (
                plain,
                "Missing `reasoning_content` field in the assistant message",
                Learned { wanted: Some("reasoning_content"), ..none() },
            ),
            (
                plain,
                "thinking is enabled but reasoning_content is missing in assistant tool call message",
                Learned { wanted: Some("reasoning_content"), ..none() },
            ),
            (plain, "reasoning_content is unsupported", none()),
        ] {
            assert_eq!(learned(sent, said), expected, "{sent} {said}");
        }
    }
}
