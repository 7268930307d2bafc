//! The API's options.

use std::time::Duration;

use super::image_url::ImageUrls;
use super::public_url::PublicUrl;
use crate::config::{self, Invalid};
use crate::http::{self, Limits};

/// The time that a stopped API's reader is told to wait, at most.
const SHORTEST_TTL: Duration = Duration::from_secs(3);

/// What is served whatever the load: who restarts processes, routes requests
/// and looks at the load has to know.
pub const PROBES: &[&str] = &["/healthz", "/readyz", "/metrics"];

/// How the API is served.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "API")]
#[group(skip)]
pub struct Options {
    /// Where to listen: an address or a name (every address that it comes to at start), and a
    /// port. Everybody who reaches it may do everything
    #[arg(long, env = "RILL_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: http::Address,
    /// Connections open at most; beyond, idle ones end for new ones, and then requests are
    /// answered 503, but for probes
    #[arg(long, env = "RILL_MAX_CONNECTIONS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,
    /// Requests and event streams in progress at most, over all connections (HTTP/2 has many on
    /// one); beyond, requests are answered 503, but for probes. As many as connections if left out
    #[arg(long, env = "RILL_MAX_STREAMS", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_streams: Option<u32>,
    /// Bytes of a request's body at most
    #[arg(long, env = "RILL_MAX_BODY", default_value_t = 256 * 1024, value_parser = clap::value_parser!(u32).range(1024..=64 * 1024 * 1024))]
    pub max_body: u32,
    /// Bytes that the bodies of all requests may hold at a time; what comes beyond is answered 503
    #[arg(long, env = "RILL_BODY_MEMORY", default_value_t = 64 * 1024 * 1024)]
    pub body_memory: u32,
    /// Bytes of responses above 64 KiB that wait for slow clients, all together; what is
    /// beyond waits 5s and is answered 503
    #[arg(long, env = "RILL_RESPONSE_MEMORY", default_value_t = 64 * 1024 * 1024)]
    pub response_memory: usize,
    /// How long a request's body may take to arrive
    #[arg(long, env = "RILL_BODY_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub body_timeout: Duration,
    /// How long a client may leave what was written to it unread. What is unread because the
    /// client vanished ends its connection after 20s, or this time if it is longer
    #[arg(long, env = "RILL_WRITE_TIMEOUT", default_value = "20s", value_parser = duration)]
    pub write_timeout: Duration,
    /// How long an event stream may be silent before a ping is sent, so that
    /// proxies (most cut after 60 s) keep it open and clients know that it lives; 30s at most
    #[arg(long, env = "RILL_PING_INTERVAL", default_value = "15s", value_parser = ping_interval)]
    pub ping_interval: Duration,
    /// Which image URLs messages may have, beside data: ones; the model's server fetches them
    #[arg(long, env = "RILL_IMAGE_URLS", default_value = "public")]
    pub image_urls: ImageUrls,
    /// Origins whose pages may use the API.
    #[arg(
        long = "cors-origin",
        env = "RILL_CORS_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ',',
        value_parser = origin,
        help = "An origin whose pages may use the API, such as https://chat.example, or * for every \
                origin; repeatable"
    )]
    pub cors_origins: Vec<String>,
    /// Where browsers find the API.
    #[arg(
        long,
        env = "RILL_PUBLIC_URL",
        value_name = "URL",
        help = "Where browsers find the API, as https://example.com/chat/, if a proxy is in front: what the \
                page, links and the document begin with, and a Host and Origin that are this server's own"
    )]
    pub public_url: Option<PublicUrl>,
    /// A further name that requests may be for.
    #[arg(
        long = "allowed-host",
        env = "RILL_ALLOWED_HOSTS",
        value_name = "HOST",
        value_delimiter = ',',
        value_parser = host,
        help = "A further name that requests may be for, where the Host header is checked (listening on \
                loopback, or with --public-url), or * for any; repeatable"
    )]
    pub allowed_hosts: Vec<String>,
}

impl Options {
    /// Refuses combinations that would break a promise. (How long a stream may
    /// be silent only workers know.)
    ///
    /// # Errors
    /// With what to change.
    pub fn validate(&self, stream_ttl: Duration) -> Result<(), Invalid> {
        if stream_ttl < SHORTEST_TTL {
            return Err(Invalid(format!(
                "--stream-ttl {} is too short for a reader to come back: give API and workers the \
                 same, and at least {}",
                humantime::format_duration(stream_ttl),
                humantime::format_duration(SHORTEST_TTL),
            )));
        }
        if self.body_memory < self.max_body {
            return Err(Invalid(format!(
                "--body-memory {} doesn't hold the largest body: give it at least --max-body, {}",
                self.body_memory, self.max_body
            )));
        }
        Ok(())
    }

    /// What paths begin with behind the proxy, such as `/chat`; often empty.
    pub fn base_path(&self) -> &str {
        self.public_url.as_ref().map_or("", PublicUrl::base)
    }

    /// What the server allows its clients.
    pub fn limits(&self) -> Limits {
        Limits {
            max_connections: self.max_connections as usize,
            max_requests: self.max_streams.unwrap_or(self.max_connections) as usize,
            max_body: self.max_body as usize,
            probes: PROBES,
            ..Limits::default()
        }
        .write_timeout(self.write_timeout)
    }
}

/// A duration above zero.
fn duration(text: &str) -> Result<Duration, String> {
    match config::duration(text) {
        Ok(Duration::ZERO) => Err("it has to be above zero".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

/// Clients take a connection for dead that was silent for 45 s.
const MOST_SILENCE: Duration = Duration::from_secs(30);

fn ping_interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        interval if interval > MOST_SILENCE => {
            Err("it is 30s at most: clients take a connection for dead after 45s".to_owned())
        }
        interval => Ok(interval),
    }
}

/// An origin as browsers send it: scheme, host and port, no path.
fn origin(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match host {
        _ if text == "*" => Ok(text.to_owned()),
        Some(host)
            if !host.is_empty()
                && host.bytes().all(|b| b.is_ascii_graphic() && !b"/?#@,".contains(&b)) =>
        {
            Ok(text.to_ascii_lowercase())
        }
        _ => Err("an origin is a scheme and a host without a path, such as https://chat.example"
            .to_owned()),
    }
}

/// A name or an address, without a port; or any.
fn host(text: &str) -> Result<String, String> {
    match url::Host::parse(text) {
        _ if text == "*" => Ok(text.to_owned()),
        Ok(host) if !text.is_empty() => Ok(host.to_string()),
        _ => Err("it is a host without scheme, port and path, such as chat.example".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_above_zero() {
        assert_eq!(duration("15s"), Ok(Duration::from_secs(15)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for odd in ["", "15", "0s", "-1s"] {
            assert!(duration(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn pings_come_before_clients_give_up() {
        assert_eq!(ping_interval("30s"), Ok(Duration::from_secs(30)));
        assert!(ping_interval("31s").is_err() && ping_interval("0s").is_err());
    }

    #[test]
    fn origins_have_no_path() {
        assert_eq!(origin("https://Chat.example:8443").as_deref(), Ok("https://chat.example:8443"));
        assert_eq!(origin("*").as_deref(), Ok("*"));
        for odd in ["", "chat.example", "https://", "https://chat.example/", "null", "ftp://x"] {
            assert!(origin(odd).is_err(), "{odd:?}");
        }
    }
}
