//! Everything in PostgreSQL: a chunk is a row, each open stream polls for its
//! own, and workers poll for jobs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use sqlx::PgPool;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};
use uuid::Uuid;

use super::gauges::Gauges;
use super::records::Records;
use super::{Chunk, Design, Job, Reader, Ticket};

/// How often each stream, and each worker without jobs, asks.
const POLL: Duration = Duration::from_millis(100);

/// Rows, polled.
#[derive(Debug, Clone)]
pub(super) struct Database {
    pool: PgPool,
    gauges: Arc<Gauges>,
}

impl Database {
    pub(super) fn new(records: &Records, gauges: Arc<Gauges>) -> Self {
        Self { pool: records.pool.clone(), gauges }
    }
}

impl Design for Database {
    type Reader = Poller;

    /// The row is the job.
    async fn submitted(&self, _: Uuid) -> Result<()> {
        Ok(())
    }

    async fn jobs(&self, most: usize) -> Result<Vec<Ticket>> {
        let jobs: Vec<Job> = sqlx::query_as(
            "UPDATE tasks SET status = 'running'
             WHERE id IN (SELECT id FROM tasks WHERE status = 'queued'
                          ORDER BY created_at LIMIT $1 FOR UPDATE SKIP LOCKED)
             RETURNING id, conversation_id, message_id",
        )
        .bind(i64::try_from(most)?)
        .fetch_all(&self.pool)
        .await?;
        if jobs.is_empty() {
            sleep(POLL).await;
        }
        Ok(jobs.into_iter().map(Ticket::Begun).collect())
    }

    async fn append(&self, task: Uuid, seq: u64, chunk: &Chunk) -> Result<()> {
        sqlx::query("INSERT INTO chunks (task_id, seq, event, data) VALUES ($1, $2, $3, $4)")
            .bind(task)
            .bind(i64::try_from(seq)?)
            .bind(&chunk.event)
            .bind(&chunk.data)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn read(&self, task: Uuid, after: u64) -> Result<Poller> {
        let mut due = interval(POLL);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (pool, gauges) = (self.pool.clone(), self.gauges.clone());
        Ok(Poller { pool, gauges, task, after: i64::try_from(after)?, due })
    }
}

/// One stream's.
pub(super) struct Poller {
    pool: PgPool,
    gauges: Arc<Gauges>,
    task: Uuid,
    after: i64,
    due: Interval,
}

impl Reader for Poller {
    async fn next(&mut self) -> Result<Vec<Chunk>> {
        loop {
            self.due.tick().await;
            let rows: Vec<(i64, String, String)> = sqlx::query_as(
                "SELECT seq, event, data FROM chunks WHERE task_id = $1 AND seq > $2 ORDER BY seq",
            )
            .bind(self.task)
            .bind(self.after)
            .fetch_all(&self.pool)
            .await?;
            self.gauges.read(rows.len());
            if let Some((last, ..)) = rows.last() {
                self.after = *last;
                let chunk = |(_, event, data)| Chunk { event, data };
                return Ok(rows.into_iter().map(chunk).collect());
            }
        }
    }
}
