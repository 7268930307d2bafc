//! The HTTP client for models' servers.

use std::path::PathBuf;
use std::time::Duration;

/// Time to connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// As firewalls see it: some refuse calls without one.
const USER_AGENT: &str = concat!("rill/", env!("CARGO_PKG_VERSION"));

/// How models' servers are reached.
#[derive(Debug, Clone, Copy, Default)]
pub struct HttpOptions<'a> {
    /// Proxies that the environment names are used: `HTTPS_PROXY`, `HTTP_PROXY`,
    /// `ALL_PROXY`, but for the hosts in `NO_PROXY`.
    pub proxies: bool,
    /// A file of certificates (PEM) that are trusted beside the system's.
    pub ca_file: Option<&'a PathBuf>,
}

/// The client can't be made.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The file of certificates can't be read.
    #[error("the certificates in {path} can't be read: {error}")]
    CaFile {
        /// Where they should be.
        path: PathBuf,
        /// Why not.
        error: String,
    },
    /// TLS can't be set up.
    #[error("the HTTP client can't be set up: {0}")]
    Client(#[from] reqwest::Error),
}

/// An HTTP client for [`super::OpenAi`]; its connections are shared by all that use
/// it.
///
/// HTTP/1.1 only: hyper's pool has one HTTP/2 connection to a server, and calls
/// beyond the server's limit of streams (often 100) wait on it in silence
/// (hyperium/hyper#3623), while a worker runs 256 long ones. A connection for
/// each also keeps an answer that nobody reads from slowing the others.
///
/// # Errors
/// When TLS can't be set up: a `rustls` crypto provider must be installed.
pub fn http_client(options: HttpOptions<'_>) -> Result<reqwest::Client, HttpError> {
    let mut client = reqwest::Client::builder()
        .http1_only()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(Duration::from_secs(30))
        // The key goes to the configured server and nowhere else.
        .redirect(reqwest::redirect::Policy::none());
    if let Some(path) = options.ca_file {
        let failed = |error: String| HttpError::CaFile { path: path.clone(), error };
        let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem);
        let certificates = certificates.map_err(|error| failed(error.to_string()))?;
        if certificates.is_empty() {
            return Err(failed("there is none (PEM) in it".to_owned()));
        }
        client = client.tls_certs_merge(certificates);
    }
    Ok(if options.proxies { client } else { client.no_proxy() }.build()?)
}
