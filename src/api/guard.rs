//! Requests that somebody else's page made a browser send.
//!
//! A browser lets any page send requests anywhere, to `127.0.0.1` too; without
//! accounts, being able to reach the API is all the permission there is. Two
//! checks, of headers that a page can't choose:
//!
//! - **`Host`**, against DNS rebinding: a name of the attacker's that turns into our
//!   address makes its page one of our own origin. Only names that can be ours are
//!   served, where they are known: those of loopback when it is loopback that is
//!   listened on, and what `--public-url` and `--allowed-host` say.
//! - **`Sec-Fetch-Site` and `Origin`**, against cross-site requests that need no
//!   permission (a form, a `POST` as `text/plain`): whatever may change something is
//!   refused unless the page is ours or one that CORS allows. Clients that aren't
//!   browsers send neither. (The order of the steps is that of Go's
//!   `http.CrossOriginProtection`.)

use std::net::IpAddr;

use poem::Request;
use poem::http::uri::Authority;
use poem::http::{HeaderMap, HeaderValue, Method, header};
use url::{Host, Url};

use super::cors::Cors;
use super::options::Options;
use super::problem::{Code, Problem};
use crate::domain::quoted;

const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Names that requests may be for.
#[derive(Debug, Clone)]
struct Hosts {
    named: Vec<Host<String>>,
    /// Listening on loopback: nothing but those and loopback's own. Otherwise
    /// addresses are served too, and names without a dot: containers' and services',
    /// which no page on the web has.
    strict: bool,
}

impl Hosts {
    fn of(options: &Options, listening: IpAddr) -> Option<Self> {
        if options.allowed_hosts.iter().any(|host| host == "*") {
            return None;
        }
        let allowed = options.allowed_hosts.iter().filter_map(|host| Host::parse(host).ok());
        let public = options.public_url.as_ref().map(|url| url.host().clone());
        let named: Vec<_> = allowed.chain(public).collect();
        let strict = listening.is_loopback();
        (strict || !named.is_empty()).then_some(Self { named, strict })
    }

    fn know(&self, host: &Host<String>) -> bool {
        is_loopback(host)
            || self.named.iter().any(|named| same(named, host))
            || !self.strict
                && match host {
                    Host::Domain(name) => !name.trim_end_matches('.').contains('.'),
                    Host::Ipv4(_) | Host::Ipv6(_) => true,
                }
    }
}

/// A name with a dot at its end is the same name.
fn same(one: &Host<String>, other: &Host<String>) -> bool {
    match (one, other) {
        (Host::Domain(one), Host::Domain(other)) => {
            one.trim_end_matches('.') == other.trim_end_matches('.')
        }
        _ => one == other,
    }
}

fn is_loopback(host: &Host<String>) -> bool {
    match host {
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        }
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => IpAddr::from(*address).to_canonical().is_loopback(),
    }
}

/// Checks every request before anything looks at it.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    hosts: Option<Hosts>,
    /// The public URL's.
    origin: Option<String>,
}

impl Guard {
    /// `listening` is the address that requests arrive at.
    pub(super) fn new(options: &Options, listening: IpAddr) -> Self {
        let origin = options.public_url.as_ref().map(|url| url.origin().to_owned());
        Self { hosts: Hosts::of(options, listening), origin }
    }

    /// For what only tells of itself.
    pub(super) const fn open() -> Self {
        Self { hosts: None, origin: None }
    }

    /// # Errors
    /// With the option that would allow the request.
    pub(super) fn check(&self, request: &Request, cors: &Cors) -> Result<(), Problem> {
        if ["/healthz", "/readyz", "/metrics"].contains(&request.uri().path()) {
            return Ok(());
        }
        self.check_host(request)?;
        if [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method()) {
            return Ok(());
        }
        self.check_origin(request, cors)
    }

    fn check_host(&self, request: &Request) -> Result<(), Problem> {
        let Some(hosts) = &self.hosts else { return Ok(()) };
        match authorities(request)
            .find(|text| !host_of(text).is_some_and(|(host, _)| hosts.know(&host)))
        {
            None => Ok(()),
            Some(foreign) => Err(unknown_host(&foreign, hosts.strict)),
        }
    }

    fn check_origin(&self, request: &Request, cors: &Cors) -> Result<(), Problem> {
        let headers = request.headers();
        let origins = || headers.get_all(header::ORIGIN).iter();
        let allowed = |origin: &HeaderValue| {
            cors.allows(origin)
                || self.origin.as_ref().is_some_and(|own| own.as_bytes() == origin.as_bytes())
        };
        if origins().count() == 1 && origins().all(allowed) {
            return Ok(());
        }
        let sites: Vec<_> = headers.get_all(SEC_FETCH_SITE).iter().collect();
        let ours = match &sites[..] {
            [] => origins().all(|origin| is_of(origin, request)),
            // `none`: the person themselves, by the address bar or a bookmark.
            sites => sites.iter().all(|site| matches!(site.as_bytes(), b"same-origin" | b"none")),
        };
        if ours { Ok(()) } else { Err(foreign_origin(headers)) }
    }
}

/// What the request says that it is for: its target, and `Host`. Without either, it
/// is no browser's.
fn authorities(request: &Request) -> impl Iterator<Item = String> {
    let target = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let hosts = request.headers().get_all(header::HOST).iter();
    target.into_iter().chain(
        hosts.map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()).collect::<Vec<_>>(),
    )
}

fn host_of(authority: &str) -> Option<(Host<String>, Option<u16>)> {
    let parsed: Authority = authority.parse().ok()?;
    let host = Host::parse(parsed.host()).ok()?;
    // Whatever follows the host is a port.
    let rest = authority.strip_prefix(parsed.host())?;
    let port = match rest.strip_prefix(':') {
        Some(port) => Some(port.parse().ok()?),
        None if rest.is_empty() => None,
        None => return None,
    };
    Some((host, port))
}

/// The origin is the one that the request is sent to. Its scheme doesn't count: a
/// proxy may have ended TLS.
fn is_of(origin: &HeaderValue, request: &Request) -> bool {
    let origin = origin.to_str().ok().and_then(|text| Url::parse(text).ok());
    let Some(origin) = origin else { return false };
    let (Some(host), Some(port)) = (origin.host(), origin.port_or_known_default()) else {
        return false;
    };
    let mut asked = authorities(request).peekable();
    asked.peek().is_some()
        && asked.all(|text| {
            host_of(&text).is_some_and(|(asked, asked_port)| {
                same(&asked, &host.to_owned())
                    && asked_port.or_else(|| default_port(origin.scheme())) == Some(port)
            })
        })
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

fn unknown_host(host: &str, loopback: bool) -> Problem {
    let host = quoted(host);
    let detail = if loopback {
        format!(
            "This server doesn't answer for {host}: it listens on loopback, so it answers for localhost, \
             127.0.0.1 and [::1], lest a page on the web reaches it under a name of its own. If a proxy or a \
             tunnel leads here, start it with --public-url (RILL_PUBLIC_URL), the address that browsers see; \
             other names go to --allowed-host (RILL_ALLOWED_HOSTS)."
        )
    } else {
        format!(
            "This server doesn't answer for {host}, which is neither the host of its --public-url \
             (RILL_PUBLIC_URL) nor an --allowed-host (RILL_ALLOWED_HOSTS). Use one of these, let the proxy \
             pass the Host header on, or start the server with that name as an --allowed-host."
        )
    };
    Problem::new(Code::UnknownHost, detail)
}

fn foreign_origin(headers: &HeaderMap) -> Problem {
    let origin =
        headers.get(header::ORIGIN).map(|origin| String::from_utf8_lossy(origin.as_bytes()));
    let origin = origin.map_or_else(|| "another site".to_owned(), |origin| quoted(&origin));
    Problem::new(
        Code::ForeignOrigin,
        format!(
            "A page of {origin} sent this, and pages of other origins may not change anything. To allow \
             them, start the server with that origin as --cors-origin (RILL_CORS_ORIGINS). If it is this \
             server's own, a proxy has replaced the Host header: say the address that browsers see by \
             --public-url (RILL_PUBLIC_URL)."
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Options {
        use clap::{Args, FromArgMatches};
        let command = Options::augment_args(clap::Command::new("rill").no_binary_name(true));
        Options::from_arg_matches(&command.get_matches_from(arguments)).expect("options")
    }

    /// What a request is answered with, before anything looks at it.
    fn code(
        listening: &str,
        arguments: &[&str],
        method: Method,
        target: &str,
        headers: &[(&'static str, &'static str)],
    ) -> Option<Code> {
        let options = options(arguments);
        let guard = Guard::new(&options, listening.parse().expect("an address"));
        let mut request = Request::builder().method(method).uri_str(target).finish();
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        guard.check(&request, &Cors::new(&options.cors_origins)).err().map(|problem| problem.code())
    }

    fn for_host(listening: &str, arguments: &[&str], host: &'static str) -> Option<Code> {
        code(listening, arguments, Method::GET, "/v1/models", &[("host", host)])
    }

    const LOOPBACK: [&str; 11] = [
        "localhost",
        "LOCALHOST:8080",
        "localhost.",
        "chat.localhost:1",
        "a.b.localhost",
        "127.0.0.1",
        "127.0.0.1:65535",
        "127.8.9.10:80",
        "[::1]",
        "[::1]:8080",
        "[::ffff:127.0.0.1]:8080",
    ];
    const FOREIGN: [&str; 14] = [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "notlocalhost",
        "127.0.0.1.evil.example",
        "evil.example@localhost",
        "localhost@evil.example",
        "10.0.0.5:8080",
        "0.0.0.0:8080",
        "[::]:8080",
        "[::2]",
        "",
        "localhost:x",
        "localhost, evil.example",
    ];

    #[test]
    fn on_loopback_only_loopbacks_names_are_served() {
        for listening in ["127.0.0.1", "::1", "127.0.0.2"] {
            for host in LOOPBACK {
                assert_eq!(for_host(listening, &[], host), None, "{host}");
            }
            for host in FOREIGN {
                assert_eq!(for_host(listening, &[], host), Some(Code::UnknownHost), "{host:?}");
            }
        }
        // The target counts as well, and each of several.
        let ask = |target, headers: &[_]| code("127.0.0.1", &[], Method::GET, target, headers);
        assert_eq!(ask("http://evil.example/v1/models", &[]), Some(Code::UnknownHost));
        assert_eq!(ask("http://localhost/v1/models", &[("host", "localhost")]), None);
        let target = "http://localhost/v1/models";
        assert_eq!(ask(target, &[("host", "evil.example")]), Some(Code::UnknownHost));
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(ask("/", &twice), Some(Code::UnknownHost));
        assert_eq!(ask("/", &[]), None);
    }

    #[test]
    fn probes_answer_under_any_name() {
        for path in ["/healthz", "/readyz", "/metrics"] {
            let headers = [("host", "evil.example")];
            assert_eq!(code("127.0.0.1", &[], Method::GET, path, &headers), None, "{path}");
        }
    }

    #[test]
    fn what_the_options_name_is_served_too() {
        let public = ["--public-url=https://example.com/chat/"];
        for host in ["example.com", "Example.COM:8443", "example.com.", "localhost:8080"] {
            assert_eq!(for_host("127.0.0.1", &public, host), None, "{host}");
        }
        for host in ["evil.example", "10.0.0.5", "api", "sub.example.com", "rill"] {
            assert_eq!(for_host("127.0.0.1", &public, host), Some(Code::UnknownHost), "{host}");
        }
        assert_eq!(for_host("127.0.0.1", &["--allowed-host=rill"], "rill:80"), None);
        assert_eq!(for_host("127.0.0.1", &["--allowed-host=*"], "evil.example"), None);
    }

    #[test]
    fn elsewhere_any_host_is_served_until_its_own_are_named() {
        for host in FOREIGN.into_iter().chain(LOOPBACK) {
            assert_eq!(for_host("0.0.0.0", &[], host), None, "{host}");
        }
        let public = ["--public-url=https://example.com"];
        for host in ["example.com", "127.0.0.1:8080", "10.0.0.5:8080", "[fd00::1]", "api:8080"] {
            assert_eq!(for_host("0.0.0.0", &public, host), None, "{host}");
        }
        for host in ["evil.example", "rill.ns.svc.cluster.local"] {
            assert_eq!(for_host("0.0.0.0", &public, host), Some(Code::UnknownHost), "{host}");
        }
        let named =
            ["--public-url=https://example.com", "--allowed-host=rill.ns.svc.cluster.local"];
        assert_eq!(for_host("0.0.0.0", &named, "rill.ns.svc.cluster.local:8080"), None);
    }

    fn change(arguments: &[&str], headers: &[(&'static str, &'static str)]) -> Option<Code> {
        let methods = [Method::POST, Method::PATCH, Method::DELETE, Method::PUT];
        let mut codes =
            methods.map(|method| code("0.0.0.0", arguments, method, "/v1/x", headers)).into_iter();
        let first = codes.next().expect("one");
        assert!(codes.all(|code| code == first), "{headers:?}");
        // What changes nothing is never refused for its origin.
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert_eq!(code("0.0.0.0", arguments, method, "/v1/x", headers), None);
        }
        first
    }

    #[test]
    fn a_foreign_page_changes_nothing() {
        let foreign = Some(Code::ForeignOrigin);
        let host = ("host", "127.0.0.1:8080");
        for origin in [
            "https://evil.example",
            "null",
            "",
            "http://127.0.0.1:3000",
            "http://localhost:8080",
            "http://127.0.0.1",
            "http://127.0.0.1:8080@evil.example",
            "127.0.0.1:8080",
        ] {
            assert_eq!(change(&[], &[host, ("origin", origin)]), foreign, "{origin:?}");
        }
        for site in ["cross-site", "same-site", "odd", ""] {
            assert_eq!(change(&[], &[host, ("sec-fetch-site", site)]), foreign, "{site:?}");
        }
        // The browser's own word wins over what looks alike.
        let both = [host, ("origin", "http://127.0.0.1:8080"), ("sec-fetch-site", "cross-site")];
        assert_eq!(change(&[], &both), foreign);
        let two = [host, ("origin", "http://127.0.0.1:8080"), ("origin", "https://evil.example")];
        assert_eq!(change(&["--cors-origin=https://evil.example"], &two), foreign);
    }

    #[test]
    fn our_own_pages_allowed_ones_and_what_is_no_browser_may_change_things() {
        let host = ("host", "127.0.0.1:8080");
        assert_eq!(change(&[], &[host]), None);
        assert_eq!(change(&[], &[host, ("origin", "http://127.0.0.1:8080")]), None);
        assert_eq!(change(&[], &[host, ("sec-fetch-site", "none")]), None);
        let public = [("host", "chat.example"), ("origin", "https://chat.example")];
        assert_eq!(change(&[], &public), None);
        assert_eq!(
            change(&[], &[("host", "chat.example:443"), ("origin", "https://chat.example")]),
            None
        );
        // A proxy that replaced the host, seen by a browser that says where it is.
        let replaced = [("host", "rill:8080"), ("origin", "https://chat.example")];
        assert_eq!(change(&[], &replaced), Some(Code::ForeignOrigin));
        assert_eq!(change(&["--public-url=https://chat.example/x/"], &replaced), None);
        assert_eq!(
            change(&[], &[replaced[0], replaced[1], ("sec-fetch-site", "same-origin")]),
            None
        );
        let allowed = [host, ("origin", "https://app.example"), ("sec-fetch-site", "cross-site")];
        assert_eq!(change(&["--cors-origin=https://app.example"], &allowed), None);
        assert_eq!(change(&["--cors-origin=*"], &allowed), None);
        assert_eq!(
            change(&["--cors-origin=https://app.example:8443"], &allowed),
            Some(Code::ForeignOrigin)
        );
    }
}
