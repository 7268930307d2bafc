//! Which deployment the database is: each connection is compared before it is used.
//!
//! Behind one address there may be another database tomorrow. Redis, whose jobs and
//! streams name this one's rows, would not go with it (`streams/deployment.rs`).

use std::sync::{Arc, OnceLock};

use sqlx::PgConnection;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{Result, Store, bounded};
use crate::config::Finding;
use crate::domain::ids::PARTITIONS;
use crate::log_limit::LogLimit;

/// The deployment that the first connection led to.
#[derive(Debug, Clone, Default)]
pub(super) struct Deployment {
    id: Arc<OnceLock<Uuid>>,
    /// Held while somebody asks for it: at start several want to know, and each
    /// would open a connection.
    asking: Arc<Mutex<()>>,
}

impl Deployment {
    /// Compares a new connection's database with the first one's.
    ///
    /// # Errors
    /// When it is another deployment's, or the connection breaks.
    pub(super) async fn admit(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        static OTHER: LogLimit = LogLimit::new();
        let found =
            sqlx::query_scalar!("SELECT id FROM deployment").fetch_optional(connection).await;
        let id = match found {
            Ok(Some(id)) => id,
            Ok(None) => return Ok(()),
            // A database without a schema, or with an older one: for `rill migrate`,
            // and the checks at start, to judge.
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(NO_TABLE) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let first = *self.id.get_or_init(|| id);
        if first == id {
            return Ok(());
        }
        let why = format!(
            "PostgreSQL's database is another deployment's ({id}) than when this process started ({first}): \
             does DATABASE_URL lead to the right one? Restart rill if it does"
        );
        if let Some(skipped) = OTHER.pass() {
            tracing::error!(skipped, "{why}");
        }
        Err(sqlx::Error::Protocol(why))
    }
}

/// `undefined_table`.
const NO_TABLE: &str = "42P01";

impl Store {
    /// The deployment's ID.
    ///
    /// # Errors
    /// When PostgreSQL is away, or has no schema yet.
    pub async fn deployment(&self) -> Result<Uuid> {
        let _asking = self.deployment.asking.lock().await;
        if let Some(id) = self.deployment.id.get() {
            return Ok(*id);
        }
        let id = bounded("deployment", async {
            Ok(sqlx::query_scalar!("SELECT id FROM deployment").fetch_one(&self.pool).await?)
        })
        .await?;
        Ok(*self.deployment.id.get_or_init(|| id))
    }

    /// What of the deployment this version can't serve.
    pub(super) async fn check_deployment(&self) -> Result<Option<Finding>> {
        let partitions = bounded("check_deployment", async {
            Ok(sqlx::query_scalar!("SELECT partitions FROM deployment")
                .fetch_one(&self.pool)
                .await?)
        })
        .await?;
        Ok((partitions != i32::from(PARTITIONS)).then(|| {
            Finding::breaking(format!(
                "PostgreSQL's database spreads tasks over {partitions} partitions, and this rill over \
                 {PARTITIONS}: it would look for their streams under other keys; use the version of rill \
                 that the database was set up by, or a newer one"
            ))
        }))
    }
}
