//! Whether a pooler stands before PostgreSQL that keeps no session.
//!
//! In PgBouncer's transaction mode, each transaction may go by another session: what
//! was set is another client's, and a statement that was prepared may not be there.
//! It is told by its reuse of sessions: of two connections that are open at the same
//! time, both would be answered by one and the same backend.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, Executor, PgConnection, Row};

use super::{CLOSE_LIMIT, Error, Result, Store};
use crate::config::Finding;

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How often the two are compared: another client may get the session in between.
const TRIES: u32 = 5;

impl Store {
    /// What is wrong with the pooler, if there is one and it is.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub(super) async fn check_pooler(&self) -> Result<Option<Finding>> {
        let shared = match tokio::time::timeout(LIMIT, self.sessions_are_shared()).await {
            Ok(shared) => shared?,
            Err(_) => return Err(Error::Timeout(LIMIT)),
        };
        Ok(shared.then(|| {
            Finding::breaking(
                "a pooler before PostgreSQL gives each transaction another session (PgBouncer's pool_mode \
                 = transaction or statement): rill's settings and prepared statements would be lost; set \
                 pool_mode = session for this database (rill pools by itself: one process opens \
                 --database-connections at most), or let DATABASE_URL lead to PostgreSQL itself",
            )
        }))
    }

    async fn sessions_are_shared(&self) -> Result<bool> {
        let mut first = self.connect.connect().await?;
        let mut second = self.connect.connect().await?;
        let mut shared = false;
        for _ in 0..TRIES {
            shared |= backend(&mut first).await? == backend(&mut second).await?;
        }
        let close = async { drop(tokio::join!(first.close(), second.close())) };
        let _ = tokio::time::timeout(CLOSE_LIMIT, close).await;
        Ok(shared)
    }
}

/// Which backend answers. Not prepared: that may be what doesn't work.
async fn backend(connection: &mut PgConnection) -> Result<i32> {
    let row = connection.fetch_one(sqlx::raw_sql("SELECT pg_backend_pid()")).await?;
    let pid: String = row.try_get_unchecked(0)?;
    pid.parse().map_err(|_| Error::Corrupt(format!("a backend's pid: {pid}")))
}
