//! Whether each connection that a process uses takes a write.

use super::line::Line;
use super::{Result, Store, bounded};

/// A worker without a heartbeat for so long is not alive, whatever its lease is.
const ALIVE_SECONDS: f64 = 30.0;

/// What PostgreSQL says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreHealth {
    /// It is a standby, or was made read-only.
    pub read_only: bool,
    /// Workers that have said that they live within 30 s.
    pub workers: i64,
}

impl Store {
    /// Commits something that leaves nothing behind, by each connection that
    /// requests and tasks go by: one that hangs (for its disk, or for a synchronous
    /// standby) is noticed as well as one that refuses.
    ///
    /// # Errors
    /// When one doesn't answer, or refuses.
    pub async fn health(&self) -> Result<StoreHealth> {
        let [starts, ends] = &self.lines;
        let (pool, starts, ends) = tokio::join!(self.pool_health(), commits(starts), commits(ends));
        let health = pool?;
        // A line whose server is not the pool's any more.
        let read_only = health.read_only || !starts? || !ends?;
        Ok(StoreHealth { read_only, ..health })
    }

    async fn pool_health(&self) -> Result<StoreHealth> {
        bounded("health", async {
            let row = sqlx::query!(
                r#"
                SELECT current_setting('transaction_read_only')::bool AS "read_only!",
                       (SELECT count(*) FROM workers
                        WHERE heartbeat_at > now() - $1 * interval '1 s') AS "workers!",
                       CASE WHEN NOT current_setting('transaction_read_only')::bool
                            THEN pg_logical_emit_message(true, 'rill', '')::text END AS written
                "#,
                ALIVE_SECONDS,
            )
            .fetch_one(&self.pool)
            .await?;
            Ok(StoreHealth { read_only: row.read_only, workers: row.workers })
        })
        .await
    }
}

/// The line takes a write. False: its server is read-only.
async fn commits(line: &Line) -> Result<bool> {
    bounded("health", async {
        let mut line = line.hold().await?;
        let writable = sqlx::query_scalar!(
            r#"
            SELECT CASE WHEN NOT current_setting('transaction_read_only')::bool
                   THEN pg_logical_emit_message(true, 'rill', '')::text END IS NOT NULL AS "writable!"
            "#
        )
        .fetch_one(&mut line.connection)
        .await?;
        if writable {
            line.keep();
        }
        Ok(writable)
    })
    .await
}
