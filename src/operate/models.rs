//! `rill models`: what the models' options come to, before anything is started with
//! them.

use serde::Serialize;

use super::output::{self, table};
use super::{Error, Result};
use crate::model::catalog;

/// What is described, and how to answer.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Options {
    /// The models.
    #[command(flatten)]
    pub models: catalog::Options,
    /// Refuse upstreams on this machine's own loopback address: in a container, that is
    /// the container
    #[arg(long)]
    pub no_loopback: bool,
    /// Answer in JSON, for scripts
    #[arg(long)]
    pub json: bool,
}

/// A model, as it is printed.
#[derive(Debug, Serialize)]
struct View<'a> {
    name: &'a str,
    default: bool,
    upstream: &'a str,
    name_there: &'a str,
    address: &'a str,
}

/// Prints the models, the default first.
///
/// # Errors
/// When the options don't fit together; says what to do.
pub fn models(options: &Options) -> Result<()> {
    let catalog = options.models.catalog()?;
    let views: Vec<_> = catalog
        .models()
        .enumerate()
        .map(|(at, model)| View {
            name: &model.name,
            default: at == 0,
            upstream: &model.upstream,
            name_there: &model.remote,
            address: &model.address,
        })
        .collect();
    if let Some(view) = views.iter().find(|view| options.no_loopback && is_loopback(view.address)) {
        return Err(Error::Refused(format!(
            "upstream {:?} is at {}: in a container, that is the container itself. Write \
             host.docker.internal for the machine that it runs on; the server there has to listen \
             on more than its loopback address (Ollama: OLLAMA_HOST=0.0.0.0)",
            view.upstream, view.address
        )));
    }
    if options.json {
        output::json(&views);
    } else {
        let row = |view: &View<'_>| {
            [view.name, view.upstream, view.name_there, view.address].map(str::to_owned).to_vec()
        };
        let rows: Vec<_> = views.iter().map(row).collect();
        output::text(&table(&["MODEL", "UPSTREAM", "NAME THERE", "ADDRESS"], &rows));
    }
    Ok(())
}

/// No other machine's address.
fn is_loopback(address: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(address) else { return false };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    match host.parse::<std::net::IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback() || ip.is_unspecified(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_many_names() {
        for address in [
            "http://127.0.0.1:11434/v1",
            "http://127.1/v1",
            "http://LOCALHOST/v1",
            "http://ollama.localhost/v1",
            "http://[::1]:1/v1",
            "http://[::ffff:127.0.0.1]/v1",
            "http://0.0.0.0:11434/v1",
        ] {
            assert!(is_loopback(address), "{address}");
        }
        for address in ["http://host.docker.internal:11434/v1", "https://api.openai.com/v1"] {
            assert!(!is_loopback(address), "{address}");
        }
    }
}
