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
mod inspect;
mod line;
mod messages;
mod tasks;
mod together;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, types::PgInterval};

pub use conversations::{Conversation, ConversationChange};
pub use inspect::{Letter, TaskCounts, TaskStory, WorkerView};
pub use messages::{MessageTask, NewPrompt, StoredMessage};
pub use tasks::{
    Accepted, Begin, Begun, EndOutcome, Ending, Final, Idempotency, NewTask, Orphan, Parent,
    Requeued, RetryOutcome, StreamEnd, StreamPlace, Task, TaskError,
};
pub use workers::Beat;

use deployment::Deployment;
use line::Line;
use messages::Prompt;
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

    /// The statement failed, and not the connection: another might not.
    fn was_answered(&self) -> bool {
        match self {
            Self::Unavailable(error) => matches!(**error, sqlx::Error::Database(_)),
            Self::Refused(_) | Self::Corrupt(_) => true,
            Self::Timeout(_) | Self::Url(_) | Self::OtherMigrations | Self::Migrate(_) => false,
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
                _ => Self::Refused(Arc::new(error)),
            },
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                Self::Corrupt(error.to_string())
            }
            _ => Self::Refused(Arc::new(error)),
        }
    }
}

impl From<sqlx::migrate::MigrateError> for Error {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        match error {
            sqlx::migrate::MigrateError::VersionMismatch(_) => Self::OtherMigrations,
            error => Self::Migrate(Arc::new(error)),
        }
    }
}

/// What every statement answers.
pub type Result<T> = std::result::Result<T, Error>;

/// How long a statement may take, connecting included.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait for a connection of the pool.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(3);
/// How long a connection may take to answer when it goes back to the pool.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);
/// A connection that was idle for longer is tried before it is used: if it broke
/// meanwhile, nobody's statement has to fail to find that out.
const TRUST_IDLE: Duration = Duration::from_millis(50);

/// The connection to PostgreSQL; clones share one pool.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    /// One connection that nothing else waits for: a burst of requests must not
    /// cost a worker its lease.
    heartbeats: PgPool,
    /// Connections that this process opens at most.
    connections: u32,
    /// What each task needs: two lines for it, so that no end waits for a start.
    accepts: Together<Accept>,
    begins: Together<BeginAttempt>,
    prompts: Together<Prompt>,
    places: Together<Place>,
    ends: Together<End>,
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
        let limit = STATEMENT_LIMIT.as_millis().to_string();
        let connect = connect
            .application_name("rill")
            // A commit that answered must survive a crash, whatever the
            // server's default is (promise 1).
            .options([
                ("statement_timeout", limit.as_str()),
                ("synchronous_commit", "on"),
                ("jit", "off"),
            ]);
        let deployment = Deployment::default();
        let [starts, ends] = [(); 2].map(|()| Line::new(connect.clone(), deployment.clone()));
        let heartbeats = pool(connect.clone(), 1, Duration::ZERO, deployment.clone());
        Ok(Self {
            pool: pool(connect, connections.max(4) - 3, TRUST_IDLE, deployment.clone()),
            heartbeats,
            connections,
            accepts: Together::new(Accept(starts.clone())),
            begins: Together::new(BeginAttempt(starts.clone())),
            prompts: Together::new(Prompt(starts.clone())),
            places: Together::new(Place(ends.clone())),
            ends: Together::new(End(ends.clone())),
            lines: [starts, ends],
            deployment,
        })
    }

    /// Brings the schema up to date. Safe to run from many processes at once.
    ///
    /// # Errors
    /// When PostgreSQL is away, or the schema is of another rill.
    pub async fn migrate(&self) -> Result<()> {
        MIGRATOR.run(&self.pool).await?;
        Ok(())
    }

    /// PostgreSQL answers.
    ///
    /// # Errors
    /// When it doesn't.
    pub async fn ping(&self) -> Result<()> {
        bounded("ping", async {
            sqlx::query("SELECT 1").execute(&self.pool).await?;
            Ok(())
        })
        .await
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
            Box::pin(async move { deployment.admit(connection).await })
        })
        .max_connections(size)
        .acquire_timeout(ACQUIRE_LIMIT)
        .test_before_acquire(false)
        .after_release(|connection, _| {
            // A statement that was given up leaves a connection that may be
            // dead. The pool would wait for its answer as long as TCP does, and
            // count it as taken.
            Box::pin(async move {
                match tokio::time::timeout(RELEASE_LIMIT, sqlx::Connection::ping(connection)).await
                {
                    Ok(answer) => answer.map(|()| true),
                    Err(_) => Err(sqlx::Error::PoolTimedOut),
                }
            })
        })
        .before_acquire(move |connection, meta| {
            Box::pin(async move {
                if meta.idle_for > trusted {
                    sqlx::Connection::ping(connection).await?;
                }
                Ok(true)
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
