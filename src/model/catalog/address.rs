//! Base URLs of upstreams.

use super::Error;

/// `url` without a slash at its path's end, if requests can be built upon it.
pub(super) fn base_url(upstream: &str, url: &str) -> Result<String, Error> {
    let wrong = |reason: &str| Error::Url {
        upstream: upstream.to_owned(),
        url: printable(url),
        reason: reason.to_owned(),
    };
    let parsed = reqwest::Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
        return Err(wrong("it must begin with http:// or https://"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(wrong("a key belongs into the API key's variable"));
    }
    if parsed.fragment().is_some() {
        return Err(wrong("it can't have a fragment (#…)"));
    }
    if parsed.path().trim_end_matches('/').ends_with("/chat/completions") {
        return Err(wrong("leave /chat/completions away, it is appended"));
    }
    // As it was written: what a server compares, nobody should encode anew.
    Ok(match url.split_once('?') {
        Some((base, query)) => format!("{}?{query}", base.trim_end_matches('/')),
        None => url.trim_end_matches('/').to_owned(),
    })
}

/// What is before an @ may be a password, and what is in a query a key.
fn printable(url: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, None), |(base, rest)| (base, Some(rest)));
    if query.is_some_and(|query| query.contains('@')) {
        return "…".to_owned();
    }
    let base = base.rsplit_once('@').map_or(base.to_owned(), |(_, rest)| format!("…@{rest}"));
    base + query.map_or("", |_| "?…")
}
