//! Workers: their heartbeats, which are what makes a task theirs.

use std::time::Duration;

use super::tasks::attempt;
use super::{Result, Store, bounded, interval};
use crate::domain::{Fence, TaskId, WorkerId};

/// What a heartbeat says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beat {
    /// Tasks of which another attempt has begun: stop, and write nothing more.
    pub lost: Vec<TaskId>,
    /// Tasks that the caller wants stopped.
    pub cancelled: Vec<TaskId>,
    /// Tasks that are the worker's, but that it did not say it runs: just begun,
    /// just ended, or forgotten.
    pub strays: Vec<(TaskId, u32)>,
}

impl Store {
    /// Renews the worker's lease on all its tasks and tells which of them
    /// (given with their fences) changed under it. A worker that has missed
    /// half a lease is not steady any more.
    ///
    /// # Errors
    /// When PostgreSQL is away. That is no reason to stop: not being able to
    /// renew is not losing.
    pub async fn heartbeat(
        &self,
        worker: WorkerId,
        lease: Duration,
        tasks: &[(TaskId, Fence)],
    ) -> Result<Beat> {
        let ids: Vec<_> = tasks.iter().map(|(task, _)| task.0).collect();
        let attempts: Vec<_> = tasks.iter().map(|(_, fence)| i64::from(fence.attempt)).collect();
        let claims: Vec<_> = tasks.iter().map(|(_, fence)| fence.claim.0).collect();
        bounded("heartbeat", async {
            let rows = sqlx::query!(
                r#"
                WITH me AS (
                    INSERT INTO workers AS w (id) VALUES ($1)
                    ON CONFLICT (id) DO UPDATE
                    SET heartbeat_at = now(),
                        steady_since = CASE WHEN w.heartbeat_at < now() - $2::interval / 2
                                            THEN now() ELSE w.steady_since END
                )
                SELECT mine.id AS "id!", NULL::bigint AS stray,
                       t.id IS NULL OR t.attempt <> mine.attempt
                           OR t.claim_id IS DISTINCT FROM mine.claim_id AS "lost!",
                       t.cancel_requested_at IS NOT NULL AS "cancelled!"
                FROM unnest($3::uuid[], $4::bigint[], $5::uuid[]) AS mine (id, attempt, claim_id)
                LEFT JOIN tasks t ON t.id = mine.id
                WHERE t.id IS NULL OR t.attempt <> mine.attempt
                   OR t.claim_id IS DISTINCT FROM mine.claim_id OR t.cancel_requested_at IS NOT NULL
                UNION ALL
                SELECT t.id, t.attempt, false, false FROM tasks t
                WHERE t.worker_id = $1 AND t.status = 'running' AND t.id <> ALL ($3)
                "#,
                worker.0,
                interval(lease),
                &ids,
                &attempts,
                &claims,
            )
            .fetch_all(&self.heartbeats)
            .await?;
            let mut beat = Beat::default();
            for row in rows {
                let task = TaskId(row.id);
                if let Some(number) = row.stray {
                    beat.strays.push((task, attempt(number)?));
                }
                if row.lost {
                    beat.lost.push(task);
                }
                if row.cancelled {
                    beat.cancelled.push(task);
                }
            }
            Ok(beat)
        })
        .await
    }

    /// Those of `tasks` that the caller wants stopped.
    ///
    /// # Errors
    /// When PostgreSQL is away; the next heartbeat tells.
    pub async fn cancelled_among(&self, tasks: &[TaskId]) -> Result<Vec<TaskId>> {
        let ids: Vec<_> = tasks.iter().map(|task| task.0).collect();
        bounded("cancelled_among", async {
            let ids = sqlx::query_scalar!(
                "SELECT id FROM tasks WHERE id = ANY($1) AND cancel_requested_at IS NOT NULL",
                &ids
            )
            .fetch_all(&self.pool)
            .await?;
            Ok(ids.into_iter().map(TaskId).collect())
        })
        .await
    }

    /// The worker has nothing any more and stops.
    ///
    /// # Errors
    /// When PostgreSQL is away; the row is removed later, by [`Store::tidy`].
    pub async fn worker_stopped(&self, worker: WorkerId) -> Result<()> {
        bounded("worker_stopped", async {
            sqlx::query!("DELETE FROM workers WHERE id = $1", worker.0).execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    /// Removes what nobody needs: workers dead for an hour, and deleted
    /// conversations whose tasks have ended for longer than `keep`.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn tidy(&self, keep: Duration) -> Result<()> {
        bounded("tidy", async {
            sqlx::query!(
                r#"
                WITH dead AS (
                    DELETE FROM workers w
                    WHERE w.heartbeat_at < now() - interval '1 hour'
                      AND NOT EXISTS (
                          SELECT FROM tasks t WHERE t.worker_id = w.id AND t.status = 'running')
                )
                DELETE FROM conversations c
                WHERE c.id IN (
                    SELECT d.id FROM conversations d
                    WHERE d.deleted_at < now() - $1::interval
                      AND NOT EXISTS (
                          SELECT FROM tasks t
                          WHERE t.conversation_id = d.id AND t.status IN ('queued', 'running'))
                    LIMIT 100
                )
                "#,
                interval(keep),
            )
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }
}
