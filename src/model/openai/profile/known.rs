//! Profiles of servers that are known, by name.

use super::{KeyHeader, MaxTokens, Profile, SendBack, StreamOptions, ToolCallIds, Turns};

/// A server that is known.
#[derive(Debug)]
pub struct Known {
    /// The profile's name.
    pub name: &'static str,
    /// Hosts (or their ends, with a dot in front) that it is taken for unasked.
    hosts: &'static [&'static str],
    /// How its profile differs from the default.
    differs: fn(&mut Profile),
}

const fn known(
    name: &'static str,
    hosts: &'static [&'static str],
    differs: fn(&mut Profile),
) -> Known {
    Known { name, hosts, differs }
}

/// Its hosts, those of its clouds for governments and in China as well.
const AZURE: &[&str] = &[
    ".openai.azure.com",
    ".services.ai.azure.com",
    ".cognitiveservices.azure.com",
    ".openai.azure.us",
    ".openai.azure.cn",
];

const fn as_default(_: &mut Profile) {}

impl Known {
    /// All of them; the first is for servers that nothing is known of.
    pub const ALL: &'static [Self] = &[
        known("default", &[], as_default),
        known("openai", &["api.openai.com"], |profile| profile.send_back = SendBack::Opaque),
        known("azure", AZURE, |profile| {
            profile.send_back = SendBack::Opaque;
            profile.key_header = KeyHeader::ApiKey;
        }),
        // Usage comes with the last chunk, and `stream_options` was refused (422).
        known("mistral", &["api.mistral.ai", "codestral.mistral.ai"], |profile| {
            profile.stream_options = StreamOptions::Off;
            profile.max_tokens = MaxTokens::MaxTokens;
            profile.tool_call_ids = ToolCallIds::Nine;
            profile.send_back = SendBack::Opaque;
        }),
        known("gemini", &["generativelanguage.googleapis.com"], |profile| {
            profile.send_back = SendBack::Opaque;
        }),
        known("deepseek", &["api.deepseek.com"], |profile| {
            profile.max_tokens = MaxTokens::MaxTokens;
        }),
        known("kimi", &["api.moonshot.ai", "api.moonshot.cn"], |profile| {
            profile.max_tokens = MaxTokens::MaxTokens;
        }),
        known("glm", &["open.bigmodel.cn", "api.z.ai"], |profile| {
            profile.max_tokens = MaxTokens::MaxTokens;
        }),
        known("groq", &["api.groq.com"], |profile| profile.send_back = SendBack::Opaque),
        known("openrouter", &["openrouter.ai"], as_default),
        known("anthropic", &["api.anthropic.com"], |profile| {
            profile.max_tokens = MaxTokens::MaxTokens;
            profile.send_back = SendBack::Opaque;
        }),
        known("workers-ai", &["api.cloudflare.com"], |profile| {
            profile.max_tokens = MaxTokens::MaxTokens;
        }),
        known("ollama", &[], |profile| profile.max_tokens = MaxTokens::MaxTokens),
        known("vllm", &[], as_default),
        known("llama.cpp", &[], as_default),
        known("lmstudio", &[], |profile| profile.max_tokens = MaxTokens::MaxTokens),
        // It obeys the directives of the last message alone, as it was written.
        known("simulator", &[], |profile| profile.turns = Turns::AsWritten),
    ];

    /// The one of that name.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|known| known.name == name)
    }

    /// The one that a base URL's server is taken for.
    pub fn of_url(url: &str) -> &'static Self {
        let url = reqwest::Url::parse(url).ok();
        let host = url.as_ref().and_then(|url| url.host_str()).unwrap_or_default();
        let is_one = |pattern: &&str| match pattern.strip_prefix('.') {
            Some(end) => host.strip_suffix(end).is_some_and(|rest| rest.ends_with('.')),
            None => host == *pattern,
        };
        let by_host = Self::ALL.iter().find(|known| known.hosts.iter().any(&is_one));
        // Ollama's port is its own.
        let by_port = || {
            let port = url.as_ref().and_then(reqwest::Url::port)?;
            Self::by_name((port == 11434).then_some("ollama")?)
        };
        by_host.or_else(by_port).unwrap_or(&Self::ALL[0])
    }

    /// Its settings.
    pub fn profile(&self) -> Profile {
        let mut profile = Profile::default();
        (self.differs)(&mut profile);
        profile
    }
}
