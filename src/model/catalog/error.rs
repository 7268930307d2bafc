//! What options of the catalogue can have wrong with them.

use crate::model::openai::{HttpError, KeyError};

/// What is wrong with the [`super::Options`], and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing says where models are.
    #[error(
        "no model is configured: set OPENAI_API_KEY for OpenAI, OPENAI_BASE_URL for another \
         OpenAI-compatible server, or RILL_UPSTREAMS (NAME=URL,…) for several"
    )]
    Nothing,
    /// A server is known, but none of its models.
    #[error(
        "which models may be used? Name them in RILL_MODELS, as {upstream} calls them (its list: \
         GET {url}/models); for example RILL_MODELS=llama3.2"
    )]
    NoModels {
        /// The upstream.
        upstream: String,
        /// Its base URL.
        url: String,
    },
    /// Not `NAME=URL`.
    #[error("upstream {0:?}: expected NAME=URL, such as local=http://127.0.0.1:11434/v1")]
    UpstreamForm(String),
    /// A name with other characters.
    #[error("{what} {name:?}: {rule}")]
    Name {
        /// What is named.
        what: &'static str,
        /// The name.
        name: String,
        /// What names must be.
        rule: &'static str,
    },
    /// Not a base URL.
    #[error("upstream {upstream:?}: {url:?} is not a base URL: {reason}")]
    Url {
        /// The upstream.
        upstream: String,
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A key that can't be used.
    #[error("the API key of upstream {upstream:?} {error}")]
    Key {
        /// The upstream.
        upstream: String,
        /// What is wrong with it.
        error: KeyError,
    },
    /// A key and a file with one.
    #[error("upstream {0:?} has an API key and a file with one: set one of them")]
    TwoKeys(String),
    /// Not `UPSTREAM|MODEL=PROFILE…`, or of something that isn't there.
    #[error("profile {spec:?}: {reason}")]
    Profile {
        /// What was given.
        spec: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Two of one name.
    #[error("{what} {name:?} is given twice: names must differ{hint}")]
    Twice {
        /// What is named.
        what: &'static str,
        /// The name.
        name: String,
        /// Where the other one may come from.
        hint: &'static str,
    },
    /// A model of an upstream that isn't there.
    #[error("model {model:?} is to come from upstream {upstream:?}, but there are only: {known}")]
    UnknownUpstream {
        /// The model.
        model: String,
        /// Its upstream.
        upstream: String,
        /// The upstreams that there are.
        known: String,
    },
    /// A model, and only the simulator to ask.
    #[error(
        "model {0:?}: nothing says where it is. Set OPENAI_API_KEY for OpenAI, OPENAI_BASE_URL for \
         another OpenAI-compatible server, or RILL_UPSTREAMS (NAME=URL,…) for several; the \
         simulator's model is \"simulator\""
    )]
    OnlySimulator(String),
    /// Several upstreams, and the model doesn't say which.
    #[error("model {model:?}: which upstream is it from? Write {model}=UPSTREAM, one of: {known}")]
    WhichUpstream {
        /// The model.
        model: String,
        /// The upstreams that there are.
        known: String,
    },
    /// The HTTP client can't be made.
    #[error(transparent)]
    Http(#[from] HttpError),
}
