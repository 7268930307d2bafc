//! Tasks: the transitions of `queued → running → done | failed | cancelled`.
//!
//! Each transition names the attempt that it leaves, so whoever was replaced
//! changes nothing (promise 3). None touches more than its task and message.

use std::time::Duration;

use serde_json::Value;
use sqlx::types::Json;
use time::OffsetDateTime;

use super::{Error, Result, Store, bounded, interval};
use crate::domain::message::Parameters;
use crate::domain::{
    AccountId, Answer, ClaimId, ConversationId, EventId, EventName, MessageId, TaskId, TaskStatus,
    Usage, WorkerId,
};

/// A message to accept, with the task that will answer it.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// Whose it is.
    pub account: AccountId,
    /// Where it is said.
    pub conversation: ConversationId,
    /// The task.
    pub task: TaskId,
    /// The message that is said, and its role and content.
    pub prompt: super::NewPrompt,
    /// The assistant's message, which the task will fill.
    pub message: MessageId,
    /// The model's public name.
    pub model: String,
    /// Passed on to the model.
    pub parameters: Parameters,
    /// Makes repeating safe.
    pub idempotency_key: Option<String>,
    /// The request as it came.
    pub request: Value,
    /// How long the task may take in all.
    pub deadline: Duration,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is committed.
    New,
    /// It was committed before, under the same key.
    Repeated {
        /// That task.
        task: TaskId,
        /// Its assistant's message.
        message: MessageId,
    },
    /// The key was used for another request.
    KeyReused,
    /// There is no such conversation.
    NoConversation,
}

/// What a claimed job turned out to be.
#[derive(Debug, Clone)]
pub enum Begin {
    /// An attempt of ours has begun.
    Begun(Box<Begun>),
    /// Ended, not due, or run by a live worker: the job is a duplicate.
    Duplicate,
    /// Its worker looks dead, but we were away ourselves: judge later.
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

/// A task's end, as it is committed.
#[derive(Debug, Clone)]
pub struct Final {
    /// `done`, `failed` or `cancelled`.
    pub status: TaskStatus,
    /// The ID that the terminal event has. Its attempt becomes the task's.
    pub id: EventId,
    /// The terminal event's data.
    pub data: String,
    /// What was answered, perhaps partial.
    pub answer: Answer,
    /// Why the model stopped.
    pub finish_reason: Option<String>,
    /// Tokens counted.
    pub usage: Option<Usage>,
    /// Why it failed.
    pub error: Option<TaskError>,
    /// Failures counted, where this end adds to them.
    pub failures: Option<u32>,
}

/// Which state an ending expects to find, so that it never overwrites another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The attempt that was seen.
    pub attempt: u32,
    /// The status that was seen.
    pub status: TaskStatus,
}

/// What became of an ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndOutcome {
    /// Committed now, so long after the task was accepted; or, without a time,
    /// by an earlier try whose reply was lost.
    Committed(Option<Duration>),
    /// The task is no longer as expected.
    Refused,
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

/// Why a task failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskError {
    /// A stable code, see [`crate::domain::task::code`].
    pub code: String,
    /// For people.
    pub message: String,
}

/// A task as shown to its owner.
#[derive(Debug, Clone)]
pub struct Task {
    /// Which.
    pub id: TaskId,
    /// Where it was asked.
    pub conversation: ConversationId,
    /// The assistant's message.
    pub message: MessageId,
    /// Where it is in its life.
    pub status: TaskStatus,
    /// The model's public name.
    pub model: String,
    /// The newest attempt.
    pub attempt: u32,
    /// Failures counted.
    pub failures: u32,
    /// Tokens counted.
    pub usage: Option<Usage>,
    /// Why it failed (or its last attempt did).
    pub error: Option<TaskError>,
    /// The caller asked to stop it.
    pub cancel_requested: bool,
    /// When it was accepted.
    pub created_at: OffsetDateTime,
    /// When its first attempt began.
    pub started_at: Option<OffsetDateTime>,
    /// When it ended.
    pub finished_at: Option<OffsetDateTime>,
}

impl Task {
    /// The state that an ending by a non-owner expects.
    pub const fn seen(&self) -> Ending {
        Ending { attempt: self.attempt, status: self.status }
    }
}

/// What opening a stream has to know; one statement.
#[derive(Debug, Clone)]
pub struct StreamHead {
    /// Where the task is in its life.
    pub status: TaskStatus,
    /// The newest attempt.
    pub attempt: u32,
    /// How it ended, if it did.
    pub end: Option<StreamEnd>,
}

/// The end of a stream, as PostgreSQL has it.
#[derive(Debug, Clone)]
pub struct StreamEnd {
    /// The terminal event's ID.
    pub id: EventId,
    /// The terminal event's name.
    pub name: EventName,
    /// The terminal event's data.
    pub data: String,
    /// The whole answer.
    pub answer: Answer,
}

pub(super) fn attempt(value: i64) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::Corrupt(format!("attempt {value}")))
}

fn corrupt(error: impl std::fmt::Display) -> Error {
    Error::Corrupt(error.to_string())
}

impl Store {
    /// Commits a message, the place for its answer, and the task.
    ///
    /// # Errors
    /// When the outcome is unknown; repeating is safe only with a key.
    pub async fn accept(&self, new: &NewTask) -> Result<Accepted> {
        let committed = bounded("accept", async {
            Ok(sqlx::query_scalar!(
                r#"
                WITH conversation AS (
                    SELECT id, next_position, last_message_id FROM conversations
                    WHERE id = $1 AND account_id = $2 AND deleted_at IS NULL
                    FOR UPDATE
                ), task AS (
                    INSERT INTO tasks (id, account_id, conversation_id, message_id, model, parameters,
                                       idempotency_key, request, enqueued_at, deadline_at)
                    SELECT $3, $2, id, $4, $5, $6, $7, $8, now(), now() + $9 FROM conversation
                    ON CONFLICT (account_id, idempotency_key) DO NOTHING
                    RETURNING id
                ), said AS (
                    INSERT INTO messages (id, conversation_id, parent_id, position, role, content)
                    SELECT $10, c.id, c.last_message_id, c.next_position, $11, $12
                    FROM conversation c, task
                ), place AS (
                    INSERT INTO messages (id, conversation_id, parent_id, position, role)
                    SELECT $4, c.id, $10, c.next_position + 1, 'assistant'
                    FROM conversation c, task
                ), moved AS (
                    UPDATE conversations
                    SET next_position = c.next_position + 2, last_message_id = $4, updated_at = now()
                    FROM conversation c, task
                    WHERE conversations.id = c.id
                )
                SELECT id FROM task
                "#,
                new.conversation.0,
                new.account.0,
                new.task.0,
                new.message.0,
                new.model,
                Json(&new.parameters) as _,
                new.idempotency_key,
                new.request,
                interval(new.deadline),
                new.prompt.id.0,
                new.prompt.role.as_str(),
                new.prompt.content,
            )
            .fetch_optional(&self.pool)
            .await?)
        })
        .await?;
        if committed.is_some() {
            return Ok(Accepted::New);
        }
        match &new.idempotency_key {
            Some(key) => self.accepted_before(new, key).await,
            None => Ok(Accepted::NoConversation),
        }
    }

    async fn accepted_before(&self, new: &NewTask, key: &str) -> Result<Accepted> {
        bounded("accepted_before", async {
            let row = sqlx::query!(
                r#"SELECT id, message_id, request = $3 AS "same!"
                   FROM tasks WHERE account_id = $1 AND idempotency_key = $2"#,
                new.account.0,
                key,
                new.request,
            )
            .fetch_optional(&self.pool)
            .await?;
            Ok(match row {
                None => Accepted::NoConversation,
                Some(row) if row.same => {
                    Accepted::Repeated { task: TaskId(row.id), message: MessageId(row.message_id) }
                }
                Some(_) => Accepted::KeyReused,
            })
        })
        .await
    }

    /// The job surely isn't in the queue: the relay need not wait a lease.
    ///
    /// # Errors
    /// When PostgreSQL is away; the relay then finds the task a lease later.
    pub async fn not_enqueued(&self, task: TaskId) -> Result<()> {
        bounded("not_enqueued", async {
            sqlx::query!(
                "UPDATE tasks SET enqueued_at = NULL WHERE id = $1 AND status = 'queued'",
                task.0
            )
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }

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
                           EXISTS (
                               SELECT FROM workers me
                               WHERE me.id = $3 AND me.heartbeat_at > now() - $4::interval / 2
                                 AND me.steady_since <= now() - $4::interval
                           ) AS may_judge
                    FROM tasks t WHERE t.id = $1
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
                      AND (seen.due OR seen.repeated OR (seen.orphaned AND seen.may_judge))
                    RETURNING t.*
                )
                SELECT seen.orphaned AS "orphaned!",
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
                _ if row.orphaned => Begin::Later,
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

    /// Commits a task's end and its message, if the task is as expected.
    ///
    /// # Errors
    /// When the outcome is unknown; repeating is safe.
    pub async fn end(&self, task: TaskId, seen: Ending, last: &Final) -> Result<EndOutcome> {
        bounded("end", async {
            let usage = last.usage.map(Json);
            let calls =
                (!last.answer.tool_calls.is_empty()).then_some(Json(&last.answer.tool_calls));
            let took = sqlx::query_scalar!(
                r#"
                WITH ended AS (
                    UPDATE tasks
                    SET status = $4, attempt = $5, final_id = $6, final_event = $4, final_data = $7,
                        usage = $8, error_code = $9, error_message = $10, finished_at = now(),
                        failures = coalesce($15, failures)
                    WHERE id = $1 AND attempt = $2 AND status = $3
                    RETURNING message_id, created_at
                ), said AS (
                    UPDATE messages
                    SET answer = $11, reasoning = $12, tool_calls = $13, finish_reason = $14
                    FROM ended WHERE messages.id = ended.message_id
                )
                SELECT extract(epoch FROM now() - created_at)::float8 AS "took!" FROM ended
                "#,
                task.0,
                i64::from(seen.attempt),
                seen.status.as_str(),
                last.status.as_str(),
                i64::from(last.id.attempt),
                last.id.to_string(),
                last.data,
                usage as _,
                last.error.as_ref().map(|e| e.code.as_str()),
                last.error.as_ref().map(|e| e.message.as_str()),
                last.answer.text,
                (!last.answer.reasoning.is_empty()).then_some(last.answer.reasoning.as_str()),
                calls as _,
                last.finish_reason,
                last.failures.map(|failures| i32::try_from(failures).unwrap_or(i32::MAX)),
            )
            .fetch_optional(&self.pool)
            .await?;
            if let Some(took) = took {
                return Ok(EndOutcome::Committed(Duration::try_from_secs_f64(took).ok()));
            }
            // A statement of its own: it sees what a try of ours that ran at the
            // same time has committed.
            let ours = sqlx::query_scalar!(
                r#"SELECT EXISTS (
                       SELECT FROM tasks WHERE id = $1 AND final_id = $2 AND final_data = $3
                   ) AS "ours!""#,
                task.0,
                last.id.to_string(),
                last.data,
            )
            .fetch_one(&self.pool)
            .await?;
            Ok(if ours { EndOutcome::Committed(None) } else { EndOutcome::Refused })
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

    /// Records that the caller wants the task stopped; answers with the task as
    /// it is then. An ended task stays as it is.
    ///
    /// # Errors
    /// When the outcome is unknown; repeating is safe.
    pub async fn request_cancel(&self, account: AccountId, task: TaskId) -> Result<Option<Task>> {
        bounded("request_cancel", async {
            sqlx::query_as!(
                TaskRow,
                r#"
                UPDATE tasks
                SET cancel_requested_at = CASE
                    WHEN final_id IS NULL THEN coalesce(cancel_requested_at, now())
                    ELSE cancel_requested_at END
                WHERE id = $2 AND account_id = $1
                RETURNING id, conversation_id, message_id, status, model, attempt, failures,
                          usage AS "usage: Json<Usage>", error_code, error_message,
                          cancel_requested_at, created_at, started_at, finished_at
                "#,
                account.0,
                task.0,
            )
            .fetch_optional(&self.pool)
            .await?
            .map(Task::try_from)
            .transpose()
        })
        .await
    }

    /// One task of the account.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn task(&self, account: AccountId, task: TaskId) -> Result<Option<Task>> {
        bounded("task", async {
            sqlx::query_as!(
                TaskRow,
                r#"
                SELECT id, conversation_id, message_id, status, model, attempt, failures,
                       usage AS "usage: Json<Usage>", error_code, error_message,
                       cancel_requested_at, created_at, started_at, finished_at
                FROM tasks WHERE id = $2 AND account_id = $1
                "#,
                account.0,
                task.0,
            )
            .fetch_optional(&self.pool)
            .await?
            .map(Task::try_from)
            .transpose()
        })
        .await
    }

    /// What opening a stream has to know, of a task of the account if one is
    /// given. The answer comes along once the task has ended.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn stream_head(
        &self,
        account: Option<AccountId>,
        task: TaskId,
    ) -> Result<Option<StreamHead>> {
        bounded("stream_head", async {
            let row = sqlx::query!(
                r#"
                SELECT t.status, t.attempt, t.final_id, t.final_event, t.final_data,
                       CASE WHEN t.final_id IS NOT NULL THEN m.answer END AS answer,
                       m.reasoning, m.tool_calls AS "tool_calls: Json<Vec<crate::domain::answer::ToolCall>>"
                FROM tasks t JOIN messages m ON m.id = t.message_id
                WHERE t.id = $2 AND ($1::uuid IS NULL OR t.account_id = $1)
                "#,
                account.map(|account| account.0),
                task.0,
            )
            .fetch_optional(&self.pool)
            .await?;
            let Some(row) = row else { return Ok(None) };
            let end = match (row.final_id, row.final_event, row.final_data) {
                (Some(id), Some(name), Some(data)) => Some(StreamEnd {
                    id: id.parse().map_err(corrupt)?,
                    name: name.parse().map_err(corrupt)?,
                    data,
                    answer: Answer {
                        text: row.answer.unwrap_or_default(),
                        reasoning: row.reasoning.unwrap_or_default(),
                        tool_calls: row.tool_calls.map(|calls| calls.0).unwrap_or_default(),
                    },
                }),
                _ => None,
            };
            Ok(Some(StreamHead {
                status: row.status.parse().map_err(corrupt)?,
                attempt: attempt(row.attempt)?,
                end,
            }))
        })
        .await
    }

    /// Those of `tasks` that have ended or are gone.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn ended_among(&self, tasks: &[TaskId]) -> Result<Vec<TaskId>> {
        let ids: Vec<_> = tasks.iter().map(|task| task.0).collect();
        let running = bounded("ended_among", async {
            Ok(sqlx::query_scalar!(
                "SELECT id FROM tasks WHERE id = ANY($1) AND final_id IS NULL",
                &ids
            )
            .fetch_all(&self.pool)
            .await?)
        })
        .await?;
        let running: std::collections::HashSet<_> = running.into_iter().collect();
        Ok(tasks.iter().copied().filter(|task| !running.contains(&task.0)).collect())
    }

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
                        },
                    };
                    Ok((orphan, row.cancelled))
                })
                .collect()
        })
        .await
    }
}

/// Names the relay's advisory lock: `rill` in ASCII.
const RELAY_LOCK: i64 = 0x7269_6c6c;

struct TaskRow {
    id: uuid::Uuid,
    conversation_id: uuid::Uuid,
    message_id: uuid::Uuid,
    status: String,
    model: String,
    attempt: i64,
    failures: i32,
    usage: Option<Json<Usage>>,
    error_code: Option<String>,
    error_message: Option<String>,
    cancel_requested_at: Option<OffsetDateTime>,
    created_at: OffsetDateTime,
    started_at: Option<OffsetDateTime>,
    finished_at: Option<OffsetDateTime>,
}

impl TryFrom<TaskRow> for Task {
    type Error = Error;

    fn try_from(row: TaskRow) -> Result<Self> {
        Ok(Self {
            id: TaskId(row.id),
            conversation: ConversationId(row.conversation_id),
            message: MessageId(row.message_id),
            status: row.status.parse().map_err(corrupt)?,
            model: row.model,
            attempt: attempt(row.attempt)?,
            failures: u32::try_from(row.failures).map_err(corrupt)?,
            usage: row.usage.map(|usage| usage.0),
            error: row
                .error_code
                .map(|code| TaskError { code, message: row.error_message.unwrap_or_default() }),
            cancel_requested: row.cancel_requested_at.is_some(),
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
        })
    }
}
