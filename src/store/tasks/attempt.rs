//! Attempts: begun, queued again, handed back. Each names the attempt that it
//! leaves, so whoever was replaced changes nothing.

use std::time::Duration;

use sqlx::types::Json;

use super::{TaskError, attempt, corrupt};
use crate::domain::message::Parameters;
use crate::domain::{ClaimId, ConversationId, MessageId, TaskId, WorkerId};
use crate::store::{Result, Store, bounded, interval};

/// What a claimed job turned out to be.
#[derive(Debug, Clone)]
pub enum Begin {
    /// An attempt of ours has begun.
    Begun(Box<Begun>),
    /// Ended, not due, or run by a live worker: the job is a duplicate.
    Duplicate,
    /// It could be begun, but our own heartbeat is not on record, or not for long
    /// enough to judge its worker dead: try again.
    Later,
}

/// An attempt that has begun.
#[derive(Debug, Clone)]
pub struct Begun {
    /// The attempt's number: our fence.
    pub attempt: u32,
    /// Failures counted so far, a dead worker's included.
    pub failures: u32,
    /// Where it was said.
    pub conversation: ConversationId,
    /// The assistant's message to fill.
    pub message: MessageId,
    /// The model's public name.
    pub model: String,
    /// Passed on to the model.
    pub parameters: Parameters,
    /// What is left until the deadline.
    pub remaining: Duration,
    /// The caller wants it stopped.
    pub cancelled: bool,
}

/// What became of handing an attempt back for another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryOutcome {
    /// Queued again.
    Queued,
    /// The caller wants it stopped: end it.
    CancelRequested,
    /// Not our attempt any more.
    Refused,
}

impl Store {
    /// Begins an attempt: of a task that is queued and due, or running under a
    /// worker that has missed its lease. Repeating it with the same claim gives
    /// the same attempt.
    ///
    /// Taking over charges a failure, so a task that kills its workers ends. Only
    /// a worker that has itself been steady for a lease may take over: after an
    /// outage of PostgreSQL every worker looks dead.
    ///
    /// # Errors
    /// When the outcome is unknown; repeat with the same claim.
    pub async fn begin_attempt(
        &self,
        task: TaskId,
        claim: ClaimId,
        worker: WorkerId,
        lease: Duration,
    ) -> Result<Begin> {
        bounded("begin", async {
            let row = sqlx::query!(
                r#"
                WITH seen AS (
                    SELECT t.id,
                           t.status = 'queued' AND coalesce(t.run_after <= now(), true) AS due,
                           t.status = 'running' AND t.claim_id = $2 AS repeated,
                           t.status = 'running' AND t.claim_id <> $2 AND NOT EXISTS (
                               SELECT FROM workers w
                               WHERE w.id = t.worker_id AND w.heartbeat_at > now() - $4::interval
                           ) AS orphaned,
                           coalesce(me.heartbeat_at > now() - $4::interval / 2, false) AS fresh,
                           coalesce(me.steady_since <= now() - $4::interval, false) AS steady
                    FROM tasks t LEFT JOIN workers me ON me.id = $3
                    WHERE t.id = $1
                    FOR UPDATE OF t
                ), begun AS (
                    UPDATE tasks t
                    SET status = 'running',
                        attempt = t.attempt + CASE WHEN seen.repeated THEN 0 ELSE 1 END,
                        failures = t.failures + CASE WHEN seen.orphaned THEN 1 ELSE 0 END,
                        claim_id = $2, worker_id = $3, run_after = NULL,
                        started_at = coalesce(t.started_at, now())
                    FROM seen
                    WHERE t.id = seen.id
                      AND (seen.repeated OR seen.fresh AND (seen.due OR seen.orphaned AND seen.steady))
                    RETURNING t.*
                )
                SELECT seen.orphaned OR seen.due AS "later!",
                       begun.attempt AS "attempt?", begun.failures AS "failures?",
                       begun.conversation_id AS "conversation_id?", begun.message_id AS "message_id?",
                       begun.model AS "model?",
                       begun.parameters AS "parameters?: Json<Parameters>",
                       extract(epoch FROM begun.deadline_at - now())::float8 AS "remaining?",
                       begun.cancel_requested_at IS NOT NULL AS "cancelled!"
                FROM seen LEFT JOIN begun ON true
                "#,
                task.0,
                claim.0,
                worker.0,
                interval(lease),
            )
            .fetch_optional(&self.pool)
            .await?;
            let Some(row) = row else { return Ok(Begin::Duplicate) };
            Ok(match (row.attempt, row.failures, row.conversation_id, row.message_id, row.model, row.parameters) {
                (Some(number), Some(failures), Some(conversation), Some(message), Some(model), Some(parameters)) => {
                    Begin::Begun(Box::new(Begun {
                        attempt: attempt(number)?,
                        failures: u32::try_from(failures).map_err(corrupt)?,
                        conversation: ConversationId(conversation),
                        message: MessageId(message),
                        model,
                        parameters: parameters.0,
                        remaining: Duration::try_from_secs_f64(row.remaining.unwrap_or(0.0))
                            .unwrap_or(Duration::ZERO),
                        cancelled: row.cancelled,
                    }))
                }
                _ if row.later => Begin::Later,
                _ => Begin::Duplicate,
            })
        })
        .await
    }

    /// The attempt is still ours and running.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn owns(&self, task: TaskId, attempt: u32) -> Result<bool> {
        bounded("owns", async {
            Ok(sqlx::query_scalar!(
                r#"SELECT EXISTS (
                       SELECT FROM tasks WHERE id = $1 AND attempt = $2 AND status = 'running'
                   ) AS "owns!""#,
                task.0,
                i64::from(attempt),
            )
            .fetch_one(&self.pool)
            .await?)
        })
        .await
    }

    /// Queues a failed attempt's task for another try, with its failures counted
    /// so far, unless a stop was asked for.
    ///
    /// # Errors
    /// When the outcome is unknown; repeating is safe.
    pub async fn retry(
        &self,
        task: TaskId,
        number: u32,
        failures: u32,
        after: Duration,
        error: &TaskError,
    ) -> Result<RetryOutcome> {
        bounded("retry", async {
            let queued = sqlx::query!(
                r#"
                UPDATE tasks
                SET status = 'queued', failures = $6, run_after = now() + $3::interval,
                    enqueued_at = NULL, error_code = $4, error_message = $5
                WHERE id = $1 AND attempt = $2 AND status = 'running' AND cancel_requested_at IS NULL
                "#,
                task.0,
                i64::from(number),
                interval(after),
                error.code,
                error.message,
                i32::try_from(failures).unwrap_or(i32::MAX),
            )
            .execute(&self.pool)
            .await?;
            if queued.rows_affected() > 0 {
                return Ok(RetryOutcome::Queued);
            }
            // A statement of its own: it sees what a try of ours that ran at the
            // same time has committed.
            let status = sqlx::query_scalar!(
                "SELECT status FROM tasks WHERE id = $1 AND attempt = $2",
                task.0,
                i64::from(number),
            )
            .fetch_optional(&self.pool)
            .await?;
            Ok(match status.as_deref() {
                Some("queued") => RetryOutcome::Queued,
                Some("running") => RetryOutcome::CancelRequested,
                _ => RetryOutcome::Refused,
            })
        })
        .await
    }

    /// Hands a running attempt back uncharged, for another worker to begin.
    /// True when the task is queued again.
    ///
    /// # Errors
    /// When the outcome is unknown; repeating is safe.
    pub async fn release(&self, task: TaskId, number: u32) -> Result<bool> {
        bounded("release", async {
            Ok(sqlx::query_scalar!(
                r#"
                WITH queued AS (
                    UPDATE tasks SET status = 'queued', run_after = NULL, enqueued_at = now()
                    WHERE id = $1 AND attempt = $2 AND status = 'running'
                    RETURNING id
                )
                SELECT EXISTS (SELECT FROM queued) OR EXISTS (
                    SELECT FROM tasks WHERE id = $1 AND attempt = $2 AND status = 'queued'
                ) AS "queued!"
                "#,
                task.0,
                i64::from(number),
            )
            .fetch_one(&self.pool)
            .await?)
        })
        .await
    }

    /// Queues a task again that is running under a worker which doesn't run it
    /// (a defect of ours; the failure is charged).
    ///
    /// # Errors
    /// When the outcome is unknown; the worker's next heartbeat says.
    pub async fn requeue_stray(&self, task: TaskId, number: u32, worker: WorkerId) -> Result<()> {
        bounded("requeue_stray", async {
            sqlx::query!(
                r#"
                UPDATE tasks
                SET status = 'queued', failures = failures + 1, run_after = NULL, enqueued_at = NULL
                WHERE id = $1 AND attempt = $2 AND worker_id = $3 AND status = 'running'
                "#,
                task.0,
                i64::from(number),
                worker.0,
            )
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }
}
