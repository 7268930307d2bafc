//! Attempts: begun, queued again, handed back. Each names the attempt that it
//! leaves, so whoever was replaced changes nothing.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::types::Json;
use uuid::Uuid;

use super::{TaskError, attempt, corrupt};
use crate::domain::message::Parameters;
use crate::domain::{ClaimId, ConversationId, Fence, MessageId, TaskId, Usage, WorkerId};
use crate::store::line::Line;
use crate::store::together::{BRIEFLY, Statement, each, weight_of};
use crate::store::{Result, Store, bounded, interval};

/// What a claimed job turned out to be.
#[derive(Debug, Clone)]
pub enum Begin {
    /// An attempt of ours has begun.
    Begun(Box<Begun>),
    /// Ended, not due, or run by a live worker: the job is a duplicate.
    Duplicate,
    /// It was lost with that many workers: begin it in quarantine.
    Suspect(u32),
    /// It could be begun, but our own heartbeat is not on record, or not for long
    /// enough to judge its worker dead: try again.
    Later,
}

/// An attempt that has begun.
#[derive(Debug, Clone)]
pub struct Begun {
    /// The attempt's number.
    pub attempt: u32,
    /// The claim that began it: with the number, our fence.
    pub claim: ClaimId,
    /// Failures counted so far.
    pub failures: u32,
    /// Workers that were lost while they ran it.
    pub losses: u32,
    /// Where it was said.
    pub conversation: ConversationId,
    /// The assistant's message to fill.
    pub message: MessageId,
    /// The model's public name.
    pub model: String,
    /// Passed on to the model.
    pub parameters: Parameters,
    /// The trace that the request belongs to (W3C Trace Context).
    pub traceparent: Option<String>,
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

impl Begun {
    /// What it is ours by.
    pub const fn fence(&self) -> Fence {
        Fence { attempt: self.attempt, claim: self.claim }
    }
}

/// Losses of a task that make it a suspect: it may be what its workers died of.
pub const SUSPECT: u32 = 2;

impl Store {
    /// Begins an attempt: of a task that is queued and due, or running under a
    /// worker that has missed its lease. Repeating it with the same claim gives
    /// the same attempt. One statement for all that come while the one before it
    /// is under way.
    ///
    /// Taking over counts a loss, so a task that kills its workers ends; one with
    /// [`SUSPECT`] losses or more begins only if `quarantined`. Only a worker that
    /// has itself been steady for a lease may take over: after an outage of
    /// PostgreSQL every worker looks dead.
    ///
    /// # Errors
    /// When the outcome is unknown; repeat with the same claim.
    pub async fn begin_attempt(
        &self,
        task: TaskId,
        claim: ClaimId,
        worker: WorkerId,
        lease: Duration,
        quarantined: bool,
    ) -> Result<Begin> {
        self.begins.ask(Claim { task, claim, worker, lease, quarantined }).await
    }

    /// The attempt is still ours and running.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn owns(&self, task: TaskId, fence: Fence) -> Result<bool> {
        bounded("owns", async {
            Ok(sqlx::query_scalar!(
                r#"SELECT EXISTS (
                       SELECT FROM tasks
                       WHERE id = $1 AND attempt = $2 AND claim_id = $3 AND status = 'running'
                   ) AS "owns!""#,
                task.0,
                i64::from(fence.attempt),
                fence.claim.0,
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
        fence: Fence,
        failures: u32,
        after: Duration,
        error: &TaskError,
        usage: Option<Usage>,
    ) -> Result<RetryOutcome> {
        bounded("retry", async {
            let queued = sqlx::query!(
                r#"
                WITH queued AS (
                    UPDATE tasks
                    SET status = 'queued', failures = $6, run_after = now() + $3::interval,
                        enqueued_at = NULL, error_code = $4, error_message = $5
                    WHERE id = $1 AND attempt = $2 AND claim_id = $8 AND status = 'running'
                      AND cancel_requested_at IS NULL
                    RETURNING id
                ), counted AS (
                    UPDATE attempts a
                    SET ended_at = now(), outcome = 'retried', error_code = $4, usage = $7,
                        usage_source = CASE WHEN $7::jsonb IS NOT NULL THEN 'reported' END
                    FROM queued
                    WHERE a.task_id = queued.id AND a.number = $2 AND a.ended_at IS NULL
                )
                SELECT id FROM queued
                "#,
                task.0,
                i64::from(fence.attempt),
                interval(after),
                error.code,
                error.message,
                i32::try_from(failures).unwrap_or(i32::MAX),
                usage.map(Json) as _,
                fence.claim.0,
            )
            .fetch_optional(&self.pool)
            .await?;
            if queued.is_some() {
                return Ok(RetryOutcome::Queued);
            }
            // A statement of its own: it sees what a try of ours that ran at the
            // same time has committed.
            let status = sqlx::query_scalar!(
                "SELECT status FROM tasks WHERE id = $1 AND attempt = $2 AND claim_id = $3",
                task.0,
                i64::from(fence.attempt),
                fence.claim.0,
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

    /// Hands a running attempt back uncharged, for another worker to begin: at
    /// once, with a job that its owner adds; or `after` a while, when the relay
    /// does, for a newer worker to begin it. True when the task is queued again.
    ///
    /// # Errors
    /// When the outcome is unknown; repeating is safe.
    pub async fn release(
        &self,
        task: TaskId,
        fence: Fence,
        after: Option<Duration>,
    ) -> Result<bool> {
        bounded("release", async {
            Ok(sqlx::query_scalar!(
                r#"
                WITH queued AS (
                    UPDATE tasks
                    SET status = 'queued', run_after = now() + $3::interval,
                        enqueued_at = CASE WHEN $3::interval IS NULL THEN now() END
                    WHERE id = $1 AND attempt = $2 AND claim_id = $4 AND status = 'running'
                    RETURNING id
                ), counted AS (
                    UPDATE attempts a
                    SET ended_at = now(),
                        outcome = CASE WHEN $3::interval IS NULL THEN 'released' ELSE 'yielded' END
                    FROM queued
                    WHERE a.task_id = queued.id AND a.number = $2 AND a.ended_at IS NULL
                )
                SELECT EXISTS (SELECT FROM queued) OR EXISTS (
                    SELECT FROM tasks
                    WHERE id = $1 AND attempt = $2 AND claim_id = $4 AND status = 'queued'
                ) AS "queued!"
                "#,
                task.0,
                i64::from(fence.attempt),
                after.map(interval),
                fence.claim.0,
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
                WITH queued AS (
                    UPDATE tasks
                    SET status = 'queued', failures = failures + 1, run_after = NULL, enqueued_at = NULL
                    WHERE id = $1 AND attempt = $2 AND worker_id = $3 AND status = 'running'
                    RETURNING id
                )
                UPDATE attempts a SET ended_at = now(), outcome = 'lost'
                FROM queued
                WHERE a.task_id = queued.id AND a.number = $2 AND a.ended_at IS NULL
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

/// Who wants to begin what.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Claim {
    task: TaskId,
    claim: ClaimId,
    worker: WorkerId,
    lease: Duration,
    quarantined: bool,
}

/// Begins attempts.
#[derive(Debug, Clone)]
pub(in crate::store) struct BeginAttempt(pub(in crate::store) Line);

impl Statement for BeginAttempt {
    type Question = Claim;
    type Answer = Begin;

    const PACE: Duration = BRIEFLY;

    fn changes(claim: &Claim) -> Option<Uuid> {
        Some(claim.task.0)
    }

    /// Its answer has the request's parameters.
    fn weight(_: &Claim) -> usize {
        weight_of(0)
    }

    async fn run(&self, questions: &[Claim]) -> Result<Vec<Result<Begin>>> {
        // Everybody locks rows in the same order, so nobody waits for ever.
        let mut claims: Vec<_> = questions.iter().collect();
        claims.sort_unstable_by_key(|claim| claim.task.0);
        let rows = bounded("begin", async {
            let mut line = self.0.hold().await?;
            let rows = sqlx::query!(
                r#"
                WITH seen AS (
                    SELECT t.id, t.attempt, asked.claim_id, asked.worker_id,
                           t.status = 'queued' AND coalesce(t.run_after <= now(), true) AS due,
                           t.status = 'running' AND t.claim_id = asked.claim_id AS repeated,
                           t.status = 'running' AND t.claim_id <> asked.claim_id AND NOT EXISTS (
                               SELECT FROM workers w
                               WHERE w.id = t.worker_id AND w.heartbeat_at > now() - asked.lease
                           ) AS orphaned,
                           coalesce(me.heartbeat_at > now() - asked.lease / 2, false) AS fresh,
                           coalesce(me.steady_since <= now() - asked.lease, false) AS steady,
                           asked.quarantined,
                           -- Workers lost with it; what takes over now adds one.
                           CASE WHEN t.attempt = 0 THEN 0 ELSE (
                               SELECT count(*) FROM attempts a
                               WHERE a.task_id = t.id AND a.outcome = 'lost'
                           ) END AS losses
                    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::interval[], $5::bool[])
                         AS asked (task_id, claim_id, worker_id, lease, quarantined)
                    CROSS JOIN LATERAL (
                        SELECT id, status, attempt, run_after, claim_id, worker_id FROM tasks
                        WHERE id = asked.task_id
                        FOR UPDATE
                    ) t
                    LEFT JOIN workers me ON me.id = asked.worker_id
                ), begun AS (
                    UPDATE tasks t
                    SET status = 'running',
                        attempt = t.attempt + CASE WHEN seen.repeated THEN 0 ELSE 1 END,
                        claim_id = seen.claim_id, worker_id = seen.worker_id, run_after = NULL,
                        started_at = coalesce(t.started_at, now())
                    FROM seen
                    WHERE t.id = seen.id
                      AND (seen.repeated OR seen.fresh AND (seen.due OR seen.orphaned AND seen.steady)
                           AND (seen.quarantined OR seen.losses + seen.orphaned::int < $6))
                    RETURNING t.*
                ), lost AS (
                    UPDATE attempts a SET ended_at = now(), outcome = 'lost'
                    FROM seen JOIN begun ON begun.id = seen.id
                    WHERE seen.orphaned AND a.task_id = seen.id AND a.number = seen.attempt
                      AND a.ended_at IS NULL
                ), counted AS (
                    INSERT INTO attempts (task_id, number, account_id, subject, conversation_id, model,
                                          worker_id)
                    SELECT id, attempt, account_id, subject, conversation_id, model, worker_id
                    FROM begun
                    ON CONFLICT DO NOTHING
                )
                SELECT seen.id, seen.claim_id AS "claim_id!", seen.orphaned OR seen.due AS "later!",
                       seen.fresh AND (seen.due OR seen.orphaned AND seen.steady) AS "ready!",
                       seen.losses + seen.orphaned::int AS "losses!",
                       begun.attempt AS "attempt?", begun.failures AS "failures?",
                       begun.conversation_id AS "conversation_id?", begun.message_id AS "message_id?",
                       begun.model AS "model?",
                       begun.parameters AS "parameters?: Json<Parameters>", begun.traceparent,
                       extract(epoch FROM begun.deadline_at - now())::float8 AS "remaining?",
                       begun.cancel_requested_at IS NOT NULL AS "cancelled!"
                FROM seen LEFT JOIN begun ON begun.id = seen.id
                "#,
                &each(&claims, |claim| claim.task.0),
                &each(&claims, |claim| claim.claim.0),
                &each(&claims, |claim| claim.worker.0),
                &each(&claims, |claim| interval(claim.lease)),
                &each(&claims, |claim| claim.quarantined),
                i64::from(SUSPECT),
            )
            .fetch_all(&mut line.connection)
            .await?;
            line.keep();
            Ok(rows)
        })
        .await?;
        let mut begins: HashMap<_, _> = rows
            .into_iter()
            .map(|row| {
                let losses = u32::try_from(row.losses).unwrap_or(u32::MAX);
                let begin = match (
                    row.attempt,
                    row.failures,
                    row.conversation_id,
                    row.message_id,
                    row.model,
                    row.parameters,
                ) {
                    (
                        Some(number),
                        Some(failures),
                        Some(conversation),
                        Some(message),
                        Some(model),
                        Some(parameters),
                    ) => attempt(number).and_then(|attempt| {
                        Ok(Begin::Begun(Box::new(Begun {
                            attempt,
                            claim: ClaimId(row.claim_id),
                            failures: u32::try_from(failures).map_err(corrupt)?,
                            losses,
                            conversation: ConversationId(conversation),
                            message: MessageId(message),
                            model,
                            parameters: parameters.0,
                            traceparent: row.traceparent,
                            remaining: Duration::try_from_secs_f64(row.remaining.unwrap_or(0.0))
                                .unwrap_or(Duration::ZERO),
                            cancelled: row.cancelled,
                        })))
                    }),
                    _ if row.ready => Ok(Begin::Suspect(losses)),
                    _ if row.later => Ok(Begin::Later),
                    _ => Ok(Begin::Duplicate),
                };
                (row.id, begin)
            })
            .collect();
        let answer = |claim: &Claim| begins.remove(&claim.task.0).unwrap_or(Ok(Begin::Duplicate));
        Ok(questions.iter().map(answer).collect())
    }
}
