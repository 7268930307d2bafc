//! Which models there are: an allow-list of public names, each leading to a
//! server ("upstream") and to the model's name there.
//!
//! Built once at start from [`Options`], and then fixed.

mod address;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod upstreams;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

pub use self::error::Error;
use self::upstreams::{Upstream, Upstreams};
use super::ChatModel;
use super::openai::profile::Profile;
use super::openai::{ApiKey, HttpOptions, http_client};
use crate::config::Secret;

/// OpenAI's own server, used when only a key is given.
const OPENAI_URL: &str = "https://api.openai.com/v1";

/// The upstream that `OPENAI_BASE_URL` and `OPENAI_API_KEY` describe.
const OPENAI: &str = "openai";

/// The model at OpenAI's own server when none is named.
const OPENAI_MODEL: &str = "gpt-4o-mini";

/// The built-in simulator, as upstream and as model.
const SIMULATOR: &str = "simulator";

/// Characters of a name, at most.
const LONGEST_NAME: usize = 200;

/// Where answers come from.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Base URL of an OpenAI-compatible server, the upstream "openai"
    /// [default with a key: OpenAI's own, api.openai.com]
    #[arg(long, env = "OPENAI_BASE_URL", value_name = "URL")]
    pub openai_base_url: Option<String>,

    /// That server's API key; better given in the environment, as arguments
    /// show up in lists of processes
    #[arg(long, env = "OPENAI_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub openai_api_key: Option<Secret>,

    /// A file with that server's API key, read before each call: the key can be
    /// replaced while rill runs
    #[arg(long, env = "OPENAI_API_KEY_FILE", value_name = "FILE")]
    pub openai_api_key_file: Option<PathBuf>,

    /// A further OpenAI-compatible server; its key, where it needs one, is read
    /// from RILL_UPSTREAM_NAME_API_KEY, or before each call from the file that
    /// RILL_UPSTREAM_NAME_API_KEY_FILE names (NAME in capitals, what is no letter or
    /// digit as _)
    #[arg(
        long = "upstream",
        env = "RILL_UPSTREAMS",
        value_name = "NAME=URL",
        value_delimiter = ','
    )]
    pub upstreams: Vec<String>,

    /// A model that may be used, by its public name; its upstream may be left
    /// out when there is one (or "openai"), its name there when it is the same.
    /// The first one is the default [default at api.openai.com: gpt-4o-mini; of an Azure
    /// deployment's URL: the deployment]
    #[arg(
        long = "model",
        env = "RILL_MODELS",
        value_name = "NAME[=UPSTREAM[/REMOTE]]",
        value_delimiter = ','
    )]
    pub models: Vec<String>,

    /// How to speak to an upstream, or to a model (by its public name): the profile of
    /// a server, such as mistral, vllm or default, and settings that differ, such as
    /// local=vllm:think_tags=on:drop=seed+top_p (docs/models.md has them). Unset, it is
    /// taken from the upstream's host
    #[arg(
        long = "profile",
        env = "RILL_PROFILES",
        value_name = "UPSTREAM|MODEL=PROFILE[:SETTING=VALUE]…",
        value_delimiter = ','
    )]
    pub profiles: Vec<String>,

    /// A file of certificates (PEM) that upstreams are trusted by, beside the system's:
    /// a private CA's
    #[arg(long, env = "RILL_UPSTREAM_CA", value_name = "FILE")]
    pub upstream_ca: Option<PathBuf>,

    /// The address of a `rill simulate`: its invented answers are there as the model
    /// "simulator", behind all others
    #[arg(long, env = "RILL_SIMULATOR_URL", value_name = "URL")]
    pub simulator_url: Option<String>,
}

/// A model that may be used.
#[derive(Clone)]
pub struct Model {
    /// Its public name.
    pub name: String,
    /// The name of its upstream.
    pub upstream: String,
    /// The upstream's base URL, without what may be secret.
    pub address: String,
    /// Its name there, for [`super::ChatRequest::model`].
    pub remote: String,
    /// How it is spoken to.
    pub profile: Profile,
    /// What answers.
    pub chat: Arc<dyn ChatModel>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}/{})", self.name, self.upstream, self.remote)
    }
}

/// The models that may be used; at least one.
#[derive(Debug, Clone)]
pub struct Catalog {
    default: Model,
    others: Vec<Model>,
}

impl Catalog {
    /// `default`, and `others` by other names.
    pub fn new(default: Model, others: Vec<Model>) -> Self {
        Self { default, others }
    }

    /// The model for requests that name none.
    pub fn default_model(&self) -> &Model {
        &self.default
    }

    /// The model of that public name.
    pub fn get(&self, name: &str) -> Option<&Model> {
        self.models().find(|model| model.name == name)
    }

    /// All models, the default first.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        std::iter::once(&self.default).chain(&self.others)
    }
}

impl Options {
    /// Nothing says where models are. (What is set but empty counts as unset:
    /// compose files write `${OPENAI_API_KEY:-}`.)
    pub fn name_no_upstream(&self) -> bool {
        !self.name_openai()
            && given(&self.upstreams).next().is_none()
            && self.simulator_url().is_none()
    }

    /// The models that the options describe, with keys from the environment.
    ///
    /// # Errors
    /// When they describe none, or contradict themselves; says what to do.
    pub fn catalog(&self) -> Result<Catalog, Error> {
        self.catalog_with(|variable| std::env::var(variable).ok())
    }

    fn catalog_with(&self, environment: impl Fn(&str) -> Option<String>) -> Result<Catalog, Error> {
        let ca_file = self.upstream_ca.as_ref().filter(|path| !path.as_os_str().is_empty());
        let http = http_client(HttpOptions { proxies: true, ca_file })?;
        self.catalog_through(&http, environment)
    }

    fn catalog_through(
        &self,
        http: &reqwest::Client,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Catalog, Error> {
        let simulator = self.simulator_url().map(Upstream::simulator).transpose()?;
        let upstreams = Upstreams { real: self.upstreams(http, environment)?, simulator };
        let mut models: Vec<Model> = Vec::new();
        let profiles = self.profiles()?;
        for spec in self.specs(&upstreams)? {
            let model = model(spec, &upstreams, &profiles)?;
            if models.iter().any(|other| other.name == model.name) {
                return Err(Error::Twice { what: "model", name: model.name, hint: "" });
            }
            models.push(model);
        }
        if upstreams.simulator.is_some() && models.iter().all(|model| model.name != SIMULATOR) {
            models.push(model(SIMULATOR, &upstreams, &profiles)?);
        }
        for name in profiles.keys() {
            if upstreams.get(name).is_none() && models.iter().all(|model| model.name != *name) {
                let reason = "there is no upstream and no model of that name".to_owned();
                return Err(Error::Profile { spec: name.clone(), reason });
            }
        }
        // There is at least one.
        let others = models.split_off(1);
        models.pop().map(|default| Catalog::new(default, others)).ok_or(Error::Nothing)
    }

    /// The models, but for the simulator's where it isn't named.
    fn specs<'a>(&'a self, upstreams: &'a Upstreams) -> Result<Vec<&'a str>, Error> {
        let specs: Vec<_> = given(&self.models).collect();
        match upstreams.preferred() {
            None if upstreams.simulator.is_none() => Err(Error::Nothing),
            _ if !specs.is_empty() => Ok(specs),
            None => Ok(Vec::new()),
            Some(one) if upstreams.real.len() == 1 && one.url == OPENAI_URL => {
                Ok(vec![OPENAI_MODEL])
            }
            Some(one) if upstreams.real.len() == 1 && one.deployment().is_some() => {
                Ok(one.deployment().into_iter().collect())
            }
            Some(one) => Err(Error::NoModels { upstream: one.name.clone(), url: one.address() }),
        }
    }

    fn upstreams(
        &self,
        http: &reqwest::Client,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<BTreeMap<String, Upstream>, Error> {
        let mut upstreams = BTreeMap::new();
        if self.name_openai() {
            let url = self.base_url().unwrap_or(OPENAI_URL);
            let key = api_key(OPENAI, self.key().cloned(), self.key_file().cloned())?;
            let upstream = Upstream::new(http, OPENAI, url, key)?;
            upstreams.insert(OPENAI.to_owned(), upstream);
        }
        for spec in given(&self.upstreams) {
            let form = || Error::UpstreamForm(spec.to_owned());
            let (name, url) = spec.split_once('=').ok_or_else(form)?;
            let (name, url) = (name.trim(), url.trim());
            if name.is_empty()
                || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            {
                let rule = "names of upstreams have letters, digits, '-', '_' and '.' only";
                return Err(Error::Name { what: "upstream", name: name.into(), rule });
            }
            let variable = key_variable(name);
            let file = environment(&format!("{variable}_FILE")).filter(|path| !path.is_empty());
            let key = environment(&variable).filter(|key| !key.is_empty());
            let key = api_key(name, key.as_deref().map(Secret::from), file.map(PathBuf::from))?;
            let upstream = Upstream::new(http, name, url, key)?;
            if upstreams.insert(name.to_owned(), upstream).is_some() {
                let hint = " (\"openai\" is OPENAI_BASE_URL's)";
                let hint = if name == OPENAI { hint } else { "" };
                return Err(Error::Twice { what: "upstream", name: name.into(), hint });
            }
        }
        if self.simulator_url().is_some() && upstreams.contains_key(SIMULATOR) {
            let hint = " (\"simulator\" is RILL_SIMULATOR_URL's)";
            return Err(Error::Twice { what: "upstream", name: SIMULATOR.into(), hint });
        }
        Ok(upstreams)
    }

    /// The profiles, by the upstream or the model that they are for.
    fn profiles(&self) -> Result<BTreeMap<String, Profile>, Error> {
        let mut profiles = BTreeMap::new();
        for spec in given(&self.profiles) {
            let wrong = |reason: String| Error::Profile { spec: spec.to_owned(), reason };
            let (name, profile) = spec.split_once('=').ok_or_else(|| {
                wrong("expected UPSTREAM=PROFILE or MODEL=PROFILE, such as local=vllm".into())
            })?;
            let name = name.trim().to_owned();
            let profile = Profile::parse(profile.trim()).map_err(wrong)?;
            if profiles.insert(name.clone(), profile).is_some() {
                return Err(Error::Twice { what: "profile of", name, hint: "" });
            }
        }
        Ok(profiles)
    }

    /// The upstream "openai" is described.
    fn name_openai(&self) -> bool {
        self.base_url().is_some() || self.key().is_some() || self.key_file().is_some()
    }

    fn key_file(&self) -> Option<&PathBuf> {
        self.openai_api_key_file.as_ref().filter(|path| !path.as_os_str().is_empty())
    }

    fn base_url(&self) -> Option<&str> {
        self.openai_base_url.as_deref().map(str::trim).filter(|url| !url.is_empty())
    }

    fn simulator_url(&self) -> Option<&str> {
        self.simulator_url.as_deref().map(str::trim).filter(|url| !url.is_empty())
    }

    fn key(&self) -> Option<&Secret> {
        self.openai_api_key.as_ref().filter(|key| !key.expose().is_empty())
    }
}

fn api_key(upstream: &str, key: Option<Secret>, file: Option<PathBuf>) -> Result<ApiKey, Error> {
    let key = match (key, file) {
        (None, None) => Ok(ApiKey::None),
        (Some(key), None) => ApiKey::fixed(key),
        (None, Some(path)) => ApiKey::file(path),
        (Some(_), Some(_)) => return Err(Error::TwoKeys(upstream.to_owned())),
    };
    key.map_err(|error| Error::Key { upstream: upstream.to_owned(), error })
}

/// `NAME[=UPSTREAM[/REMOTE]]`; both names may have slashes of their own.
fn model(
    spec: &str,
    upstreams: &Upstreams,
    profiles: &BTreeMap<String, Profile>,
) -> Result<Model, Error> {
    let (name, place) = match spec.split_once('=') {
        Some((name, place)) => (name.trim(), Some(place.trim())),
        None => (spec, None),
    };
    let (upstream, remote) = match place.map(|place| place.split_once('/').unwrap_or((place, ""))) {
        Some((upstream, remote)) => (Some(upstream), remote),
        None => (None, ""),
    };
    let remote = if remote.is_empty() { name } else { remote };
    for name in [name, remote] {
        if name.is_empty()
            || name.len() > LONGEST_NAME
            || name.contains(|c: char| c.is_control() || c.is_whitespace())
        {
            let rule = "names of models have 1 to 200 bytes, without spaces";
            return Err(Error::Name { what: "model", name: name.into(), rule });
        }
    }
    let upstream = match upstream {
        Some(upstream) => upstreams.get(upstream).ok_or_else(|| Error::UnknownUpstream {
            model: name.into(),
            upstream: upstream.into(),
            known: upstreams.names(),
        })?,
        None => upstreams.of_model(name)?,
    };
    let profile = profiles.get(name).or_else(|| profiles.get(&upstream.name)).cloned();
    let profile = profile.unwrap_or_else(|| upstream.known.profile());
    Ok(Model {
        name: name.to_owned(),
        upstream: upstream.name.clone(),
        address: upstream.address(),
        remote: remote.to_owned(),
        chat: Arc::new(upstream.server.clone().with_profile(profile.clone())),
        profile,
    })
}

/// Options that aren't empty.
fn given(specs: &[String]) -> impl Iterator<Item = &str> {
    specs.iter().map(|spec| spec.trim()).filter(|spec| !spec.is_empty())
}

fn key_variable(upstream: &str) -> String {
    let name: String = upstream
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect();
    format!("RILL_UPSTREAM_{name}_API_KEY")
}

#[cfg(test)]
mod tests;
