//! PostgreSQL: the authority on what was accepted, who runs it, how it ended.
//!
//! The only module that knows `sqlx`. One file an aggregate; each function is
//! one statement, so it happens whole or not at all and needs no transaction
//! around it. When the connection breaks under a statement its outcome is
//! unknown: callers repeat it, and each statement is written so that they can.
//! Every clock reading is PostgreSQL's own `now()`.

mod checks;
mod conversations;
mod deployment;
mod health;
mod inspect;
mod line;
mod messages;
mod migrate;
mod pooler;
mod prompts;
mod session;
mod tasks;
mod together;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, types::PgInterval};
use tokio::sync::{Semaphore, SemaphorePermit};

pub use conversations::{Conversation, ConversationChange, ConversationPage};
pub use health::StoreHealth;
pub use inspect::{Letter, TaskCounts, TaskStory, WorkerView};
pub use messages::{MessagePage, MessageTask, NewPrompt, StoredMessage};
pub use prompts::{Prompt, SMALL_PROMPT};
pub use tasks::{
    Accepted, Begin, Begun, EndOutcome, Ending, Final, Idempotency, NewTask, Orphan, Parent,
    Requeued, RetryOutcome, SUSPECT, StreamEnd, StreamPlace, Task, TaskError,
};
pub use workers::Beat;

use deployment::Deployment;
use line::Line;
use prompts::SmallPrompts;
use tasks::{Accept, BeginAttempt, End, Place};
use together::Together;

static MIGRATOR: Migrator = sqlx::migrate!();

/// Where PostgreSQL is.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "PostgreSQL")]
#[group(skip)]
pub struct Address {
    /// Where PostgreSQL is: postgres://user:password@host:port/database
    #[arg(
        long,
        global = true,
        env = "DATABASE_URL",
        hide_env_values = true,
        default_value = "postgres://rill:rill@127.0.0.1:5432/rill"
    )]
    pub database_url: crate::config::Secret,
}

/// Where PostgreSQL is, and how it is used.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "PostgreSQL")]
#[group(skip)]
pub struct Options {
    /// Where it is.
    #[command(flatten)]
    pub address: Address,
    /// Connections that this process opens at most
    #[arg(long, env = "RILL_DATABASE_CONNECTIONS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(4..=1000))]
    pub database_connections: u32,
}

/// Why a statement did not do its work.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// PostgreSQL can't be reached, or broke off: the outcome is unknown.
    /// Repeating helps when it is back.
    #[error("PostgreSQL is not available: {0}")]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// PostgreSQL did not answer in time: the outcome is unknown.
    #[error("PostgreSQL did not answer within {0:?}")]
    Timeout(Duration),
    /// The URL can't be read.
    #[error("it should be postgres://user:password@host:port/database, but: {0}")]
    Url(#[source] Arc<sqlx::Error>),
    /// PostgreSQL refused the statement: a defect, or a schema that doesn't fit.
    #[error("PostgreSQL refused a statement: {0}")]
    Refused(#[source] Arc<sqlx::Error>),
    /// A stored value is not what it should be.
    #[error("a stored value is corrupt: {0}")]
    Corrupt(String),
    /// The schema was made by other migrations than this version's.
    #[error("{}", checks::OTHER_MIGRATIONS)]
    OtherMigrations,
    /// The schema could not be brought up to date.
    #[error("the migrations failed: {0}")]
    Migrate(#[source] Arc<sqlx::migrate::MigrateError>),
}

impl Error {
    /// What was to be stored can't be, or what is stored can't be read: repeating
    /// won't help. (Other refusals are about the moment: a standby that is not
    /// promoted yet, credentials that change, a migration under way.)
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Corrupt(_) => true,
            Self::Refused(error) => match &**error {
                sqlx::Error::Encode(_) => true,
                // 22 data exception, 23 constraint violation, 54 limit exceeded.
                sqlx::Error::Database(error) => error.code().is_some_and(|code| {
                    ["22", "23", "54"].iter().any(|class| code.starts_with(class))
                }),
                _ => false,
            },
            _ => false,
        }
    }

    /// What a probe is told: no address, and no statement.
    pub fn brief(&self) -> String {
        match self {
            Self::Unavailable(error) | Self::Refused(error) => match &**error {
                sqlx::Error::Database(error) => format!("refused: {}", error.message()),
                _ => "no connection".to_owned(),
            },
            Self::Timeout(after) => format!("no answer within {after:?}"),
            _ => "misconfigured; its log says how".to_owned(),
        }
    }

    /// The statement failed, and not the connection: another might not.
    fn was_answered(&self) -> bool {
        match self {
            Self::Unavailable(error) => matches!(**error, sqlx::Error::Database(_)),
            Self::Refused(_) | Self::Corrupt(_) => true,
            Self::Timeout(_) | Self::Url(_) | Self::OtherMigrations | Self::Migrate(_) => false,
        }
    }

    /// The statement took too long, by our clock or by PostgreSQL's.
    fn is_timeout(&self) -> bool {
        match self {
            Self::Timeout(_) => true,
            // 57014: statement_timeout.
            Self::Unavailable(error) => matches!(&**error,
                sqlx::Error::Database(error) if error.code().as_deref() == Some("57014")),
            _ => false,
        }
    }

    /// Repeating the call later may help.
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Timeout(_))
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(Arc::new(error)),
            sqlx::Error::Database(database) => match database.code().as_deref() {
                // 08 connection exception, 53 insufficient resources, 57 operator
                // intervention (shutdown, starting up, cancelled), 40 rollback, 55 not
                // now (a lock that somebody else holds).
                // https://www.postgresql.org/docs/current/errcodes-appendix.html
                Some(code) if ["08", "53", "57", "40", "55"].contains(&&code[..2]) => {
                    Self::Unavailable(Arc::new(error))
                }
                // A standby, or a primary that was made read-only: `session.rs`.
                Some("25006") => {
                    session::suspect();
                    Self::Unavailable(Arc::new(error))
                }
                _ => Self::Refused(Arc::new(error)),
            },
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                Self::Corrupt(error.to_string())
            }
            _ => Self::Refused(Arc::new(error)),
        }
    }
}

/// What every statement answers.
pub type Result<T> = std::result::Result<T, Error>;

/// How long a statement may take, connecting included.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait for a connection of the pool.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(3);
/// How long closing a connection may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// A connection that was idle for longer is tried before it is used: if it broke
/// meanwhile, nobody's statement has to fail to find that out.
const TRUST_IDLE: Duration = Duration::from_millis(50);

/// Bytes of a page of a list, unless its first item alone is larger. PostgreSQL
/// counts: what is beyond is not sent.
const PAGE_BYTES: i64 = 1024 * 1024;

/// The connection to PostgreSQL; clones share one pool.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    /// One connection that nothing else waits for: a burst of requests must not
    /// cost a worker its lease.
    heartbeats: PgPool,
    /// Connections that this process opens at most.
    connections: u32,
    /// How a connection is opened.
    connect: PgConnectOptions,
    /// What each task needs: two lines for it, so that no end waits for a start.
    accepts: Together<Accept>,
    begins: Together<BeginAttempt>,
    prompts: Together<SmallPrompts>,
    places: Together<Place>,
    ends: Together<End>,
    /// Large prompts are read in turn, and leave the pool to others.
    large_prompts: Arc<Semaphore>,
    /// Pages of lists are read over half of the pool, and leave the rest to what is small.
    lists: Arc<Semaphore>,
    lines: [Line; 2],
    deployment: Deployment,
}

impl Store {
    /// A pool that connects when it is first used, so that a process starts
    /// while PostgreSQL is still away.
    ///
    /// # Errors
    /// When the URL can't be read.
    pub fn new(options: &Options) -> Result<Self> {
        Self::at(&options.address, options.database_connections)
    }

    /// As [`Store::new`], for whoever asks a few questions only.
    ///
    /// # Errors
    /// When the URL can't be read.
    pub fn at(address: &Address, connections: u32) -> Result<Self> {
        let url = address.database_url.expose();
        let connect: PgConnectOptions = url.parse().map_err(|error| Error::Url(Arc::new(error)))?;
        let connect = session::ours(connect);
        let deployment = Deployment::default();
        let [starts, ends] = [(); 2].map(|()| Line::new(connect.clone(), deployment.clone()));
        let heartbeats = pool(connect.clone(), 1, Duration::ZERO, deployment.clone());
        Ok(Self {
            pool: pool(connect.clone(), connections.max(4) - 3, TRUST_IDLE, deployment.clone()),
            heartbeats,
            connect,
            connections,
            accepts: Together::new(Accept(starts.clone())),
            begins: Together::new(BeginAttempt(starts.clone())),
            prompts: Together::new(SmallPrompts(starts.clone())),
            places: Together::new(Place(ends.clone())),
            ends: Together::new(End(ends.clone())),
            large_prompts: Arc::new(Semaphore::new(prompts::LARGE_AT_ONCE)),
            lists: Arc::new(Semaphore::new((connections.max(4) - 3).div_ceil(2) as usize)),
            lines: [starts, ends],
            deployment,
        })
    }

    /// A turn to read a page of a list.
    async fn list_turn(&self) -> Result<SemaphorePermit<'_>> {
        match tokio::time::timeout(ACQUIRE_LIMIT, self.lists.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Error::Timeout(ACQUIRE_LIMIT)),
        }
    }

    /// Closes every connection.
    pub async fn close(&self) {
        let [starts, ends] = &self.lines;
        tokio::join!(self.pool.close(), self.heartbeats.close(), starts.close(), ends.close());
    }
}

/// At most `size` connections, opened as they are needed; one that was idle for
/// longer than `trusted` is tried before it is used.
fn pool(connect: PgConnectOptions, size: u32, trusted: Duration, deployment: Deployment) -> PgPool {
    PgPoolOptions::new()
        .after_connect(move |connection, _| {
            let deployment = deployment.clone();
            Box::pin(async move {
                session::begin(connection, session::SETTINGS).await?;
                deployment.admit(connection).await
            })
        })
        .max_connections(size)
        .acquire_timeout(ACQUIRE_LIMIT)
        .test_before_acquire(false)
        .after_release(|connection, meta| Box::pin(session::is_kept(connection, meta.age)))
        .before_acquire(move |connection, meta| {
            Box::pin(async move {
                match session::is_trusted(meta.idle_for, trusted) {
                    true => Ok(true),
                    false => session::is_kept(connection, meta.age).await,
                }
            })
        })
        .connect_lazy_with(connect)
}

/// Counts the statement under its name and bounds how long it may take.
async fn bounded<T>(name: &'static str, statement: impl Future<Output = Result<T>>) -> Result<T> {
    crate::metrics::store_statement(name);
    match tokio::time::timeout(STATEMENT_LIMIT, statement).await {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout(STATEMENT_LIMIT)),
    }
}

fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
    }
}
