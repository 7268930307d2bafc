//! Redis: the job queue, each task's stream of events, and the tail that
//! serves them.
//!
//! The only module that knows `redis`. What is in Redis is temporary: losing
//! all of it delays answers and resets readers, but loses nothing that was
//! accepted and shows nobody a gap.

mod blocking;
pub mod cancel;
mod checks;
pub mod dead;
mod deployment;
mod entry;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod health;
mod hint;
pub mod history;
pub mod inspect;
mod keys;
mod lane;
mod link;
pub mod log;
pub mod queue;
mod reads;
mod resp;
mod rights;
pub mod tail;
mod tap;
mod tls;
pub mod trace;
mod wrong_server;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::{Client, IntoConnectionInfo, ProtocolVersion, ServerErrorKind, Value};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use blocking::BlockingPool;
use deployment::Deployment;
pub use entry::Entry;
pub use health::LinkHealth;
use health::Register;
use keys::Keys;
use lane::Lane;
pub(crate) use lane::Receipt;
use link::{Connected, Link, as_one};
pub use rights::Uses;
use tap::Wires;

/// Where Redis is.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Redis")]
#[group(skip)]
pub struct Address {
    /// Where Redis is: redis://user:password@host:port/db, rediss:// with TLS, unix:///path on the same machine
    #[arg(
        long,
        global = true,
        env = "REDIS_URL",
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379"
    )]
    pub redis_url: crate::config::Secret,
    /// What every key begins with
    #[arg(long, global = true, env = "RILL_REDIS_PREFIX", default_value = "rill")]
    pub redis_prefix: String,
    /// PEM file of the certificate authority that a rediss:// server is trusted by; the system's if left out
    #[arg(long, global = true, env = "RILL_REDIS_CA", value_name = "FILE")]
    pub redis_ca: Option<PathBuf>,
    /// PEM file of the certificate that rill shows to a rediss:// server
    #[arg(
        long,
        global = true,
        env = "RILL_REDIS_CERT",
        value_name = "FILE",
        requires = "redis_key"
    )]
    pub redis_cert: Option<PathBuf>,
    /// PEM file of that certificate's key
    #[arg(
        long,
        global = true,
        env = "RILL_REDIS_KEY",
        value_name = "FILE",
        requires = "redis_cert"
    )]
    pub redis_key: Option<PathBuf>,
}

/// Where Redis is, and how streams are kept.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Redis")]
#[group(skip)]
pub struct Options {
    /// Where it is.
    #[command(flatten)]
    pub address: Address,
    /// How long a task's stream is kept after its last sign of life
    #[arg(long, env = "RILL_STREAM_TTL", default_value = "1h", value_parser = crate::config::duration)]
    pub stream_ttl: Duration,
    /// Events that a stream keeps, about (older ones are summed up in snapshots)
    #[arg(long, env = "RILL_STREAM_MAXLEN", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    pub stream_maxlen: u64,
}

/// Why something was not done in Redis.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no connection, or it broke: the outcome is unknown.
    #[error("Redis is not available")]
    Disconnected,
    /// Redis refused the command, or the outcome is unknown.
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// The URL and the files that belong to it don't fit.
    #[error("{0}")]
    Tls(String),
    /// An answer was not of the form that it should be.
    #[error("Redis answered something unexpected to {0}")]
    Unexpected(&'static str),
}

impl Error {
    /// Nobody is there, or answers.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Disconnected => true,
            Self::Redis(error) => {
                error.is_connection_refusal() || error.is_connection_dropped() || error.is_timeout()
            }
            Self::Unexpected(_) | Self::Tls(_) => false,
        }
    }

    fn code(&self) -> Option<&str> {
        match self {
            Self::Redis(error) => error.code(),
            _ => None,
        }
    }
}

/// What every operation answers.
pub type Result<T> = std::result::Result<T, Error>;

/// The connection to Redis; clones share it.
#[derive(Clone)]
pub struct Streams {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    keys: Keys,
    deployment: Deployment,
    link: Link,
    lane: Lane,
    ttl: Duration,
    maxlen: u64,
    /// Histories are read in turn.
    histories: Semaphore,
    stop: CancellationToken,
    /// The connections that there are.
    register: Register,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("keys", &self.inner.keys).finish_non_exhaustive()
    }
}

/// How long a command waits for a connection before it gives up.
const PATIENCE: Duration = Duration::from_secs(3);

impl Streams {
    /// Starts connecting once it is known whose Redis it should be
    /// ([`Streams::belongs_to`]); Redis need not be there yet. Connections are
    /// closed when `stop` is cancelled.
    ///
    /// # Errors
    /// When the URL can't be read.
    pub fn start(options: &Options, stop: CancellationToken) -> Result<Self> {
        Self::connect(&options.address, options.stream_ttl, options.stream_maxlen, false, stop)
    }

    /// As [`Streams::start`], for whoever looks on and writes no task's stream:
    /// whose Redis it is doesn't matter then.
    ///
    /// # Errors
    /// When the URL can't be read.
    pub fn observe(address: &Address, stop: CancellationToken) -> Result<Self> {
        Self::connect(address, Duration::ZERO, 0, true, stop)
    }

    fn connect(
        address: &Address,
        ttl: Duration,
        maxlen: u64,
        observes: bool,
        stop: CancellationToken,
    ) -> Result<Self> {
        let info = address.redis_url.expose().into_connection_info()?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        let client = tls::client(info, address)?;
        let keys = Keys::new(&address.redis_prefix);
        let deployment = Deployment::new(keys.deployment(), observes);
        let wires = Wires::to(deployment.clone());
        let (link, driver) = Link::new(client.clone(), wires, stop.clone());
        let register = Register::default();
        register.link("commands", &link);
        let (lane, appends) = Lane::new(link.clone(), keys.wake());
        tokio::spawn(as_one(driver, appends));
        Ok(Self {
            inner: Arc::new(Inner {
                client,
                keys,
                deployment,
                link,
                lane,
                ttl,
                maxlen,
                histories: Semaphore::new(history::AT_ONCE),
                stop,
                register,
            }),
        })
    }

    async fn connection(&self) -> Result<Connected> {
        self.inner.link.get(PATIENCE).await
    }

    fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    fn blocking_pool(&self, name: &'static str, size: u32) -> BlockingPool {
        let Inner { client, deployment, register, .. } = &*self.inner;
        BlockingPool::new(client.clone(), deployment.clone(), register.pool(name), size)
    }
}

/// An answer that may be an error of the server's. (What it contains is not
/// looked through.)
fn answered(value: Value) -> Result<Value> {
    match value {
        Value::ServerError(error) => Err(Error::Redis(error.into())),
        value => Ok(value),
    }
}

/// `XADD` refused an ID that is not above the stream's last.
fn is_stale_id(error: &Error) -> bool {
    matches!(error, Error::Redis(error)
        if error.kind() == redis::ErrorKind::Server(ServerErrorKind::ResponseError)
            && error.detail().is_some_and(|detail| detail.contains("equal or smaller")))
}
