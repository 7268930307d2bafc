//! Where clients find the API: `--public-url`.

use std::str::FromStr;

use url::{Host, Url};

/// The address that a proxy serves the API at, with the path that it begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    origin: String,
    host: Host<String>,
    base: String,
}

impl PublicUrl {
    /// Scheme, host and port, as browsers write them in `Origin`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The name that requests are for.
    pub fn host(&self) -> &Host<String> {
        &self.host
    }

    /// What every path begins with, such as `/chat`; empty at the root.
    pub fn base(&self) -> &str {
        &self.base
    }
}

impl FromStr for PublicUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WANTED: &str = "it is an http: or https: URL without query, fragment and password, such as \
                              https://example.com/chat/";
        let url = Url::parse(text).map_err(|error| format!("{error}; {WANTED}"))?;
        let plain = matches!(url.scheme(), "http" | "https")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        let (true, Some(host)) = (plain, url.host()) else { return Err(WANTED.to_owned()) };
        let base = url.path().trim_end_matches('/');
        if base.contains("//") {
            return Err(format!("its path has an empty step; {WANTED}"));
        }
        Ok(Self {
            origin: url.origin().ascii_serialization(),
            host: host.to_owned(),
            base: base.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_has_an_origin_and_a_base_path() {
        let of = |text: &str| {
            let url: PublicUrl = text.parse().expect(text);
            (url.origin().to_owned(), url.base().to_owned())
        };
        let example = "https://example.com".to_owned();
        assert_eq!(of("https://example.com/chat/"), (example.clone(), "/chat".to_owned()));
        assert_eq!(of("https://Example.com:443/a/b"), (example.clone(), "/a/b".to_owned()));
        assert_eq!(of("https://example.com"), (example.clone(), String::new()));
        assert_eq!(of("https://example.com/"), (example, String::new()));
        assert_eq!(of("http://[::1]:8080/x").0, "http://[::1]:8080");
        for odd in [
            "",
            "example.com",
            "/chat/",
            "ftp://example.com",
            "https://",
            "https://example.com/?a",
            "https://example.com/#a",
            "https://u:p@example.com/",
            "https://example.com/a//b",
        ] {
            assert!(odd.parse::<PublicUrl>().is_err(), "{odd:?}");
        }
    }
}
