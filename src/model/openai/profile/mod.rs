//! What a server wants that another doesn't: settings of an upstream or a model.
//!
//! Everything that can be read in one way only is read so, whatever the profile
//! (`super::decode`), and what every server takes is sent to all
//! ([`crate::domain::prompt`]). Settings are for what contradicts itself. The table
//! of servers, with reports and tests, is `docs/models.md`.

mod known;

use std::collections::BTreeSet;

pub use self::key_header::KeyHeader;
pub use self::known::Known;
pub use super::decode::SignsOfLife;
pub use super::decode::think::ThinkTags;
use crate::domain::message::Parameters;

/// How to speak to a server, or to one of its models.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// Whether usage is asked for (`stream_options`).
    pub stream_options: StreamOptions,
    /// What the message with the instructions is called.
    pub system_role: SystemRole,
    /// What the limit of the answer's tokens is called.
    pub max_tokens: MaxTokens,
    /// Callers' parameters that are left out, as the server refuses them. Tasks say so.
    pub drop: BTreeSet<String>,
    /// Whether a server's own data is sent back to it.
    pub send_back: SendBack,
    /// The form of tool calls' IDs.
    pub tool_call_ids: ToolCallIds,
    /// Whether neighbouring messages of one role are joined.
    pub turns: Turns,
    /// Whether tags in the text mean reasoning.
    pub think_tags: ThinkTags,
    /// What shows that a silent server lives.
    pub signs_of_life: SignsOfLife,
    /// The header that the key is in.
    pub key_header: KeyHeader,
}

/// A setting whose values have names.
macro_rules! setting {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub enum $name {
            $($(#[$doc])* $variant),+
        }

        impl std::str::FromStr for $name {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(concat!("one of", $(" ", $text),+)),
                }
            }
        }
    };
}

// Behind the macro that it uses.
mod key_header;

setting!(
    /// Whether usage is asked for.
    StreamOptions {
        /// `stream_options: {"include_usage": true}`.
        #[default]
        On = "on",
        /// No `stream_options`: servers that refuse it, or send usage anyway.
        Off = "off",
    }
);

setting!(
    /// What the message with the instructions is called.
    SystemRole {
        /// `system`.
        #[default]
        System = "system",
        /// `developer`.
        Developer = "developer",
        /// There is none: they go before the first message of the user.
        User = "user",
    }
);

setting!(
    /// What the limit of the answer's tokens is called.
    MaxTokens {
        /// As the caller calls it.
        #[default]
        AsIs = "as_is",
        /// `max_tokens`.
        MaxTokens = "max_tokens",
        /// `max_completion_tokens`.
        MaxCompletionTokens = "max_completion_tokens",
    }
);

setting!(
    /// Whether data that the server sent with an answer is sent back to it.
    SendBack {
        /// Signatures and the like; reasoning beside tool calls.
        #[default]
        On = "on",
        /// Only data that isn't text: signatures and the like.
        Opaque = "opaque",
        /// Nothing.
        Off = "off",
    }
);

setting!(
    /// The form of tool calls' IDs.
    ToolCallIds {
        /// As the server gave them; of another's, what OpenAI takes.
        #[default]
        AsIs = "as_is",
        /// Nine letters and digits.
        Nine = "nine",
    }
);

setting!(
    /// Whether neighbouring messages of one role are joined.
    Turns {
        /// They are: roles alternate, as strict templates want it.
        #[default]
        Alternate = "alternate",
        /// They are sent as they were written.
        AsWritten = "as_written",
    }
);

impl Profile {
    /// `NAME[:SETTING=VALUE]…`.
    ///
    /// # Errors
    /// With what is wrong, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default().trim();
        let known = Known::by_name(name).ok_or_else(|| {
            let names: Vec<_> = Known::ALL.iter().map(|known| known.name).collect();
            format!("there is no profile {name:?}; there are: {}", names.join(", "))
        })?;
        let mut profile = known.profile();
        for setting in parts {
            let (name, value) = setting
                .split_once('=')
                .ok_or_else(|| format!("{setting:?}: expected SETTING=VALUE"))?;
            profile.set(name.trim(), value.trim())?;
        }
        Ok(profile)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        fn read<T: std::str::FromStr<Err = &'static str>>(
            place: &mut T,
            value: &str,
        ) -> Result<(), &'static str> {
            value.parse().map(|value| *place = value)
        }
        let set = match name {
            "stream_options" => read(&mut self.stream_options, value),
            "system_role" => read(&mut self.system_role, value),
            "max_tokens" => read(&mut self.max_tokens, value),
            "send_back" => read(&mut self.send_back, value),
            "tool_call_ids" => read(&mut self.tool_call_ids, value),
            "turns" => read(&mut self.turns, value),
            "think_tags" => read(&mut self.think_tags, value),
            "signs_of_life" => read(&mut self.signs_of_life, value),
            "key_header" => read(&mut self.key_header, value),
            "drop" => {
                let names = value.split('+').map(str::trim).filter(|name| !name.is_empty());
                self.drop = names.map(str::to_owned).collect();
                Ok(())
            }
            _ => {
                return Err(format!(
                    "there is no setting {name:?}; there are: stream_options, system_role, \
                     max_tokens, drop, send_back, tool_call_ids, turns, think_tags, signs_of_life, \
                     key_header"
                ));
            }
        };
        set.map_err(|expected| format!("{name}={value:?}: expected {expected}"))
    }

    /// The caller's parameters that are not passed on.
    pub fn dropped(&self, parameters: &Parameters) -> Vec<String> {
        let names = parameters.iter().map(|(name, _)| name);
        names.filter(|name| self.drop.contains(*name)).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_a_name_and_settings() {
        assert_eq!(Profile::parse("default"), Ok(Profile::default()));
        let profile =
            Profile::parse("mistral:think_tags=on:drop=seed+logprobs").expect("a profile");
        assert_eq!(profile.tool_call_ids, ToolCallIds::Nine);
        assert_eq!(profile.think_tags, ThinkTags::On);
        let parameters = serde_json::from_str(r#"{"temperature":1,"seed":2}"#).expect("an object");
        assert_eq!(profile.dropped(&parameters), ["seed"]);
    }

    #[test]
    fn what_is_no_profile_says_what_would_be_one() {
        for (text, part) in [
            ("mistrl", "mistral"),
            ("", "default"),
            ("default:think", "SETTING=VALUE"),
            ("default:think=on", "think_tags"),
            ("default:think_tags=yes", "off, on or implied"),
            ("default:system_role=boss", "one of system developer user"),
        ] {
            let complaint = Profile::parse(text).expect_err("a complaint");
            assert!(complaint.contains(part), "{text:?}: {complaint}");
        }
    }

    #[test]
    fn every_known_profile_has_a_name_of_its_own_and_a_host_finds_it() {
        let mut names: Vec<_> = Known::ALL.iter().map(|known| known.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Known::ALL.len());
        for (url, name) in [
            ("https://api.openai.com/v1", "openai"),
            ("https://me.openai.azure.com/openai/v1", "azure"),
            ("https://me.openai.azure.com/openai/deployments/d?api-version=2024-10-21", "azure"),
            ("https://me.cognitiveservices.azure.com/openai/v1", "azure"),
            ("https://api.mistral.ai/v1", "mistral"),
            ("https://generativelanguage.googleapis.com/v1beta/openai", "gemini"),
            ("http://localhost:11434/v1", "ollama"),
            ("https://openrouter.ai/api/v1", "openrouter"),
            ("https://api.mistral.ai.example.org/v1", "default"),
            ("http://10.0.0.1:8000/v1", "default"),
        ] {
            assert_eq!(Known::of_url(url).name, name, "{url}");
        }
    }
}
