//! What the queue should have and hasn't, and what nobody else will end.

use std::time::Duration;

use super::{Ending, attempt, corrupt};
use crate::domain::{MessageId, TaskId};
use crate::store::{Result, Store, bounded, interval};

/// A task that has to be ended by somebody who doesn't own its attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orphan {
    /// Which task.
    pub task: TaskId,
    /// Its assistant's message.
    pub message: MessageId,
    /// As it was seen.
    pub seen: Ending,
}

/// Names the relay's advisory lock: `rill` in ASCII.
const RELAY_LOCK: i64 = 0x7269_6c6c;

impl Store {
    /// Takes tasks whose job has to be added again, and notes that it was:
    /// queued, due and last added more than `age` ago (or surely not in the
    /// queue); or running under a worker that missed its lease. Only one
    /// process at a time gets any.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn take_unqueued(
        &self,
        lease: Duration,
        age: Duration,
        limit: i64,
    ) -> Result<Vec<TaskId>> {
        bounded("relay", async {
            let ids = sqlx::query_scalar!(
                r#"
                WITH turn AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($4) AS mine)
                UPDATE tasks SET enqueued_at = now()
                WHERE id IN (
                    SELECT t.id FROM tasks t
                    WHERE (SELECT mine FROM turn)
                      AND t.status IN ('queued', 'running')
                      AND (t.enqueued_at IS NULL OR t.enqueued_at < now() - $2::interval)
                      AND CASE t.status
                          WHEN 'queued' THEN coalesce(t.run_after <= now(), true)
                          ELSE NOT EXISTS (
                              SELECT FROM workers w
                              WHERE w.id = t.worker_id AND w.heartbeat_at > now() - $1::interval
                          ) END
                    ORDER BY t.id
                    LIMIT $3
                    FOR UPDATE OF t SKIP LOCKED
                )
                RETURNING id
                "#,
                interval(lease),
                interval(age),
                limit,
                RELAY_LOCK,
            )
            .fetch_all(&self.pool)
            .await?;
            Ok(ids.into_iter().map(TaskId).collect())
        })
        .await
    }

    /// Tasks that somebody other than an attempt's owner has to end: past their
    /// deadline (a running one gets a lease more, to end itself), or queued
    /// although a stop was asked for.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn overdue(&self, lease: Duration, limit: i64) -> Result<Vec<(Orphan, bool)>> {
        bounded("overdue", async {
            let rows = sqlx::query!(
                r#"
                SELECT id, message_id, attempt, status, cancel_requested_at IS NOT NULL AS "cancelled!"
                FROM tasks
                WHERE status = 'queued' AND (deadline_at < now() OR cancel_requested_at < now() - $1::interval)
                   OR status = 'running' AND deadline_at < now() - $1::interval
                LIMIT $2
                "#,
                interval(lease),
                limit,
            )
            .fetch_all(&self.pool)
            .await?;
            rows.into_iter()
                .map(|row| {
                    let orphan = Orphan {
                        task: TaskId(row.id),
                        message: MessageId(row.message_id),
                        seen: Ending {
                            attempt: attempt(row.attempt)?,
                            status: row.status.parse().map_err(corrupt)?,
                            claim: None,
                        },
                    };
                    Ok((orphan, row.cancelled))
                })
                .collect()
        })
        .await
    }
}
