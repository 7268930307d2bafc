//! The schema, brought up to date.
//!
//! By a connection of its own, whose statements may take as long as they need: an
//! index on a large table takes minutes. What waits for a lock gives up after two
//! seconds and is tried again, since everybody else's statements queue up behind
//! whoever waits for a table. Two that migrate at the same time take turns, by an
//! advisory lock that sqlx takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::migrate::MigrateError;
use sqlx::{ConnectOptions, Connection};

use super::{CLOSE_LIMIT, Error, MIGRATOR, Result, Store, session};

/// What a session that migrates is set to.
const SETTINGS: &str =
    "SET statement_timeout = 0; SET lock_timeout = 2000; SET synchronous_commit = on";
/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait after a lock was not to be had.
const AGAIN: Duration = Duration::from_millis(500);
/// How often a wait is told of.
const TELL: Duration = Duration::from_secs(10);
/// How long locks are waited for in all.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// `lock_not_available`.
const LOCKED: &str = "55P03";

impl Store {
    /// Brings the schema up to date. Safe to run from many processes at once.
    ///
    /// # Errors
    /// When PostgreSQL is away, the schema is of another rill, or somebody holds a
    /// lock for a quarter of an hour.
    pub async fn migrate(&self) -> Result<()> {
        let (started, mut told) = (Instant::now(), None::<Instant>);
        loop {
            let error = match self.try_to_migrate().await {
                Err(error) if is_locked(&error) && started.elapsed() < PATIENCE => error,
                outcome => return outcome,
            };
            if told.is_none_or(|told| told.elapsed() >= TELL) {
                told = Some(Instant::now());
                tracing::info!(
                    %error,
                    "waiting for a lock to migrate ({} s so far): another migration, or a transaction \
                     that uses the tables (pg_stat_activity names it)",
                    started.elapsed().as_secs()
                );
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn try_to_migrate(&self) -> Result<()> {
        let connect = tokio::time::timeout(CONNECT_LIMIT, self.connect.connect());
        let mut connection = connect.await.map_err(|_| Error::Timeout(CONNECT_LIMIT))??;
        session::begin(&mut connection, SETTINGS).await?;
        let outcome = told_of(MIGRATOR.run(&mut connection)).await;
        // On failure as well: its locks go with it.
        let _ = tokio::time::timeout(CLOSE_LIMIT, connection.close()).await;
        Ok(outcome?)
    }
}

/// Says now and then that it goes on.
async fn told_of<T>(migrating: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let mut migrating = std::pin::pin!(migrating);
    loop {
        match tokio::time::timeout(TELL, &mut migrating).await {
            Ok(outcome) => return outcome,
            Err(_) => tracing::info!("migrating for {} s; going on", started.elapsed().as_secs()),
        }
    }
}

fn is_locked(error: &Error) -> bool {
    let Error::Migrate(error) = error else { return false };
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = &**error else {
        return false;
    };
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == LOCKED)
}

impl From<MigrateError> for Error {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::VersionMismatch(_) => Self::OtherMigrations,
            error => Self::Migrate(Arc::new(error)),
        }
    }
}
