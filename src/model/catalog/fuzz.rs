//! Options of the catalogue from arbitrary text. See `crate::fuzz`.

use std::sync::LazyLock;

use super::{HttpOptions, Options, http_client};
use crate::config::{Secret, duration};
use crate::fuzz::Input;

/// A base URL, a key, upstreams, models and profiles, a line each; durations as well.
pub(crate) fn catalog(input: &[u8]) {
    // Made once: it reads the machine's certificates.
    static HTTP: LazyLock<reqwest::Client> = LazyLock::new(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
        http_client(HttpOptions::default()).expect("a client")
    });
    let input = Input(input);
    let mut lines = input.lines();
    let mut next = || lines.next().unwrap_or_default().to_owned();
    let list = |line: String| line.split(',').map(str::to_owned).collect::<Vec<_>>();
    let options = Options {
        openai_base_url: Some(next()),
        openai_api_key: Some(Secret::from(next().as_str())),
        upstreams: list(next()),
        models: list(next()),
        profiles: list(next()),
        ..Options::default()
    };
    match options.catalog_through(&HTTP, |_| None) {
        Ok(catalog) => {
            assert!(!options.name_no_upstream());
            for model in catalog.models() {
                assert!((1..=200).contains(&model.name.len()), "{model:?}");
                assert!(!model.name.contains(char::is_whitespace), "{model:?}");
                assert_eq!(catalog.get(&model.name).map(|same| &same.remote), Some(&model.remote));
            }
        }
        // It says what is wrong, and no key.
        Err(error) => {
            let key = options.openai_api_key.as_ref().map_or("", Secret::expose);
            let other = [&options.upstreams, &options.models, &options.profiles];
            let other = other.into_iter().flatten();
            let other =
                options.openai_base_url.iter().chain(other).any(|given| given.contains(key));
            assert!(key.len() < 16 || other || !error.to_string().contains(key), "{error}");
        }
    }
    for line in input.lines() {
        if let Ok(read) = duration(line) {
            let written = humantime::format_duration(read).to_string();
            assert_eq!(duration(&written), Ok(read), "{line:?}");
        }
    }
}
