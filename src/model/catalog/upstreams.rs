//! The servers that a catalogue's models are from.

use std::collections::BTreeMap;

use super::address::base_url;
use super::{Error, OPENAI, SIMULATOR};
use crate::model::openai::profile::Known;
use crate::model::openai::{ApiKey, HttpOptions, OpenAi, http_client};

/// A server.
pub(super) struct Upstream {
    pub(super) name: String,
    pub(super) url: String,
    /// What it is taken for where no profile is given.
    pub(super) known: &'static Known,
    pub(super) server: OpenAi,
}

impl Upstream {
    pub(super) fn new(
        http: &reqwest::Client,
        name: &str,
        url: &str,
        key: ApiKey,
    ) -> Result<Self, Error> {
        let url = base_url(name, url)?;
        let server = OpenAi::new(http.clone(), &url, key);
        Ok(Self { name: name.to_owned(), known: Known::of_url(&url), url, server })
    }

    /// The simulator at that address, `http://host:port`.
    pub(super) fn simulator(address: &str) -> Result<Self, Error> {
        let address = address.trim_end_matches('/');
        let url = format!("{}/v1", address.strip_suffix("/v1").unwrap_or(address));
        // It is near: no proxy reaches it.
        let http = http_client(HttpOptions::default())?;
        let mut upstream = Self::new(&http, SIMULATOR, &url, ApiKey::None)?;
        upstream.known = Known::by_name(SIMULATOR).unwrap_or(upstream.known);
        Ok(upstream)
    }

    /// The only model that is there: Azure's classic URLs are of one deployment.
    pub(super) fn deployment(&self) -> Option<&str> {
        let (_, rest) = self.url.split_once("/openai/deployments/")?;
        rest.split(['/', '?']).next().filter(|name| !name.is_empty())
    }

    /// Its base URL, without what may be secret.
    pub(super) fn address(&self) -> String {
        self.url.split('?').next().unwrap_or_default().to_owned()
    }
}

/// All that are described.
pub(super) struct Upstreams {
    /// Those that nobody invents the answers of.
    pub(super) real: BTreeMap<String, Upstream>,
    pub(super) simulator: Option<Upstream>,
}

impl Upstreams {
    pub(super) fn get(&self, name: &str) -> Option<&Upstream> {
        self.real.get(name).or(self.simulator.as_ref().filter(|_| name == SIMULATOR))
    }

    /// Whose models are meant where no upstream is named.
    pub(super) fn preferred(&self) -> Option<&Upstream> {
        self.real.get(OPENAI).or_else(|| self.real.values().next())
    }

    /// Where a model is that doesn't say.
    pub(super) fn of_model(&self, model: &str) -> Result<&Upstream, Error> {
        let simulator = self.simulator.as_ref().filter(|_| model == SIMULATOR);
        let only = || self.real.values().next().filter(|_| self.real.len() == 1);
        let found = simulator.or_else(|| self.real.get(OPENAI)).or_else(only);
        found.ok_or_else(|| match self.real.is_empty() {
            true => Error::OnlySimulator(model.to_owned()),
            false => Error::WhichUpstream { model: model.to_owned(), known: self.names() },
        })
    }

    pub(super) fn names(&self) -> String {
        let simulator = self.simulator.as_ref().map(|simulator| simulator.name.as_str());
        self.real.keys().map(String::as_str).chain(simulator).collect::<Vec<_>>().join(", ")
    }
}
