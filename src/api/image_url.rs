//! Which image URLs are accepted. The model's server fetches them, perhaps from
//! within the operator's network: an address there must not be reachable by asking.
//!
//! A URL is judged when it is posted, as `url` (WHATWG) reads it, which knows the
//! odd notations of addresses. Names that resolve to private addresses can't be
//! told from others here: who runs the model's server guards its fetching as well.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Which image URLs are accepted, beside `data:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ImageUrls {
    /// https, and no address or name of a private network
    #[default]
    Public,
    /// http and https, wherever
    Any,
    /// None
    None,
}

/// Names that private networks use, whole or as an ending.
const PRIVATE: [&str; 9] =
    ["localhost", "local", "internal", "localdomain", "intranet", "lan", "corp", "home", "arpa"];

impl ImageUrls {
    /// Why a URL is not accepted.
    pub(super) fn refusal(self, text: &str) -> Option<&'static str> {
        let starts = |scheme: &str| {
            text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        };
        if starts("data:") {
            return None;
        }
        match self {
            Self::None => Some("only data: URLs are accepted here; send the image inline"),
            Self::Any if starts("https://") || starts("http://") => None,
            Self::Any => Some("it is an https:, http: or data: URL"),
            Self::Public if !starts("https://") => Some("it is an https: or data: URL"),
            Self::Public => not_public(text),
        }
    }
}

fn not_public(text: &str) -> Option<&'static str> {
    // Parsers differ in what they make of these.
    if text.chars().any(|c| crate::text::is_hidden(c) || c.is_whitespace() || c == '\\') {
        return Some("it has white space, control characters or backslashes; percent-encode them");
    }
    let Ok(url) = Url::parse(text) else { return Some("it is no URL") };
    // `https:///host` means `https://host` to some.
    if text[8..].starts_with('/') {
        return Some("it has no host");
    }
    if !url.username().is_empty() || url.password().is_some() || authority(text).contains('@') {
        return Some("it names a user; leave that away");
    }
    let is_public = match url.host() {
        Some(Host::Domain(name)) => is_public_name(name),
        Some(Host::Ipv4(address)) => is_public_v4(address),
        Some(Host::Ipv6(address)) => is_public_v6(address),
        None => false,
    };
    (!is_public)
        .then_some("its host is not on the public internet; send the image inline, as data:")
}

fn authority(text: &str) -> &str {
    text[8..].split(['/', '?', '#']).next().unwrap_or_default()
}

fn is_public_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let ends = |private: &str| {
        name.strip_suffix(private).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    // A name without a dot is looked up in the operator's own domain.
    name.contains('.') && name.parse::<IpAddr>().is_err() && !PRIVATE.iter().any(|p| ends(p))
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || a == 0
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b))
        || a >= 224)
}

/// Global unicast but what carries an address of version 4 or is no place.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let is_special = a == 0x2002 || a == 0x3fff || (a == 0x2001 && (b < 0x200 || b == 0xdb8));
    (0x2000..0x4000).contains(&a) && !is_special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_on_the_public_web_however_its_address_is_written() {
        for good in [
            "https://a.example/b.png?x=@y",
            "HTTPS://A.example:8443/b",
            "https://8.8.8.8/x",
            "https://[2606:4700:4700::1111]/x",
            "https://b\u{fc}cher.example/x",
            "https://notlocalhost.example/x",
            "data:image/png;base64,AA==",
            "DATA:image/png;base64,AA==",
        ] {
            assert_eq!(ImageUrls::Public.refusal(good), None, "{good}");
        }
        for bad in [
            "",
            "/b.png",
            "file:///etc/passwd",
            "ftp://a.example",
            "http://a.example/b.png",
            "https://",
            "https:///127.0.0.1/x",
            "https://localhost/x",
            "https://LOCALHOST./x",
            "https://a.localhost/x",
            "https://printer.local/x",
            "https://metadata.google.internal/x",
            "https://metadata/x",
            "https://redis:6379/x",
            "https://1.0.168.192.in-addr.arpa/x",
            "https://127.0.0.1/x",
            "https://127.1/x",
            "https://0x7f.1/x",
            "https://0x7f000001/x",
            "https://017700000001/x",
            "https://2130706433/x",
            "https://2852039166/latest/meta-data/",
            "https://0/x",
            "https://169.254.169.254/latest/meta-data/",
            "https://169.254.169.254./x",
            "https://%31%36%39.254.169.254/x",
            "https://\u{ff11}\u{ff12}\u{ff17}.0.0.1/x",
            "https://127\u{3002}0\u{3002}0\u{3002}1/x",
            "https://10.1.2.3/x",
            "https://172.16.0.1/x",
            "https://192.168.0.1/x",
            "https://100.100.100.200/x",
            "https://192.0.0.192/x",
            "https://198.18.0.1/x",
            "https://224.0.0.1/x",
            "https://255.255.255.255/x",
            "https://[::1]/x",
            "https://[::]/x",
            "https://[::ffff:127.0.0.1]/x",
            "https://[::ffff:a9fe:a9fe]/x",
            "https://[::169.254.169.254]/x",
            "https://[64:ff9b::a9fe:a9fe]/x",
            "https://[2002:a9fe:a9fe::]/x",
            "https://[2001:0:1::1]/x",
            "https://[fe80::1]/x",
            "https://[fc00::1]/x",
            "https://[fd00:ec2::254]/x",
            "https://[fec0::1]/x",
            "https://[ff02::1]/x",
            "https://[2001:db8::1]/x",
            "https://[::1%25eth0]/x",
            "https://a.example@169.254.169.254/x",
            "https://user:pw@a.example/x",
            "https://@a.example/x",
            "https://169.254.169.254#@a.example/x",
            "https://169.254.169.254\\@a.example/x",
            "https://a.example\\@169.254.169.254/x",
            "https://a.exa\tmple/x",
            " https://a.example/x",
            "https://a.example/\nx",
            "https://a.example:99999/x",
            "\u{e9}",
        ] {
            assert!(ImageUrls::Public.refusal(bad).is_some(), "{bad}");
        }
        assert_eq!(ImageUrls::Any.refusal("http://169.254.169.254/"), None);
        assert!(ImageUrls::Any.refusal("file:///etc/passwd").is_some());
        assert!(ImageUrls::None.refusal("https://a.example/b.png").is_some());
        assert_eq!(ImageUrls::None.refusal("data:image/png;base64,AA=="), None);
    }
}
