//! What operators ask: how much there is to do, who works, what became of a
//! task. Read only; ages are on PostgreSQL's clock, in milliseconds.

use std::time::Duration;

use serde::Serialize;
use sqlx::types::Json;
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;

use super::tasks::{REQUEUE, attempt, corrupt, requeue_key};
use super::{Error, Result, Store, bounded, interval};
use crate::domain::{ConversationId, MessageId, TaskId, TaskStatus, Usage, WorkerId};

/// Tasks that have not ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TaskCounts {
    /// Queued, and due.
    pub queued_due: i64,
    /// Accepted so long ago: the oldest of those.
    pub oldest_due_ms: Option<i64>,
    /// Queued for later, after a failure.
    pub queued_later: i64,
    /// Until the first of those is due.
    pub next_due_in_ms: Option<i64>,
    /// Running.
    pub running: i64,
    /// Begun for the first time so long ago: the oldest of those.
    pub oldest_running_ms: Option<i64>,
    /// Of those, under workers without a heartbeat within a lease.
    pub orphaned: i64,
    /// To be stopped, and not stopped yet.
    pub cancelling: i64,
}

/// A worker, as PostgreSQL knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerView {
    /// Which.
    pub id: WorkerId,
    /// Its heartbeat is younger than a lease.
    pub alive: bool,
    /// When it started.
    #[serde(serialize_with = "rfc3339")]
    pub started_at: OffsetDateTime,
    /// How long ago that was.
    pub up_ms: i64,
    /// Its last heartbeat was so long ago.
    pub heartbeat_age_ms: i64,
    /// It has not missed half a lease for so long.
    pub steady_ms: i64,
    /// Tasks that run under it.
    pub running: i64,
}

/// A task that a dead letter names, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Letter {
    /// Where it is in its life.
    pub status: TaskStatus,
    /// The model's public name.
    pub model: String,
    /// Why it failed.
    pub error_code: Option<String>,
    /// Why it failed, for people.
    pub error_message: Option<String>,
    /// Where it was asked.
    pub conversation_id: ConversationId,
    /// The task that answers instead, if one was asked for.
    pub asked_again_as: Option<TaskId>,
}

/// All that PostgreSQL knows of a task.
#[derive(Debug, Clone, Serialize)]
pub struct TaskStory {
    /// Which.
    pub id: TaskId,
    /// Where it is in its life.
    pub status: TaskStatus,
    /// The newest attempt.
    pub attempt: u32,
    /// Failures counted.
    pub failures: i32,
    /// The model's public name.
    pub model: String,
    /// Where it was asked.
    pub conversation_id: ConversationId,
    /// The conversation was deleted.
    pub conversation_deleted: bool,
    /// The assistant's message that it fills.
    pub message_id: MessageId,
    /// When it was accepted.
    #[serde(serialize_with = "rfc3339")]
    pub created_at: OffsetDateTime,
    /// How long ago that was.
    pub age_ms: i64,
    /// When its first attempt began.
    #[serde(serialize_with = "rfc3339_option")]
    pub started_at: Option<OffsetDateTime>,
    /// From the acceptance to that.
    pub waited_ms: Option<i64>,
    /// When it ended.
    #[serde(serialize_with = "rfc3339_option")]
    pub finished_at: Option<OffsetDateTime>,
    /// From the acceptance to that.
    pub took_ms: Option<i64>,
    /// Until it is due again; below zero: since.
    pub due_in_ms: Option<i64>,
    /// Until its deadline; below zero: since.
    pub deadline_in_ms: i64,
    /// Since its job was last added to the queue; nothing: it surely isn't there.
    pub enqueued_ms: Option<i64>,
    /// Since a stop was asked for.
    pub cancel_requested_ms: Option<i64>,
    /// Who ran it last.
    pub worker_id: Option<WorkerId>,
    /// That worker's heartbeat was so long ago; nothing: it is not there any more.
    pub worker_heartbeat_age_ms: Option<i64>,
    /// Workers that are alive.
    pub workers_alive: i64,
    /// Until the first of them has been steady for a lease, and so may take over;
    /// below zero: since.
    pub takeover_in_ms: Option<i64>,
    /// Why it failed, or its last attempt did.
    pub error_code: Option<String>,
    /// Why it failed, for people.
    pub error_message: Option<String>,
    /// Tokens counted.
    pub usage: Option<Usage>,
    /// The terminal event's ID.
    pub final_id: Option<String>,
    /// Why the model stopped.
    pub finish_reason: Option<String>,
    /// Characters of the stored answer.
    pub answer_chars: Option<i32>,
    /// The task that this one repeats.
    pub asked_again_for: Option<TaskId>,
    /// The task that answers instead.
    pub asked_again_as: Option<TaskId>,
}

impl Store {
    /// Connects once, to say why if that can't be done. (A pool says that it has
    /// waited in vain.)
    ///
    /// # Errors
    /// When PostgreSQL can't be reached within `limit`.
    pub async fn reach(&self, limit: Duration) -> Result<()> {
        let options = self.pool.connect_options();
        let connect = PgConnection::connect_with(&options);
        match tokio::time::timeout(limit, connect).await {
            Ok(Ok(connection)) => {
                let _ = tokio::time::timeout(limit, connection.close()).await;
                Ok(())
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Error::Timeout(limit)),
        }
    }

    /// How many tasks wait and run.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn task_counts(&self, lease: Duration) -> Result<TaskCounts> {
        bounded("task_counts", async {
            Ok(sqlx::query_as!(
                TaskCounts,
                r#"
                WITH active AS (
                    SELECT status = 'queued' AS queued, coalesce(run_after <= now(), true) AS due,
                           created_at, started_at, run_after,
                           cancel_requested_at IS NOT NULL AS cancelling,
                           status = 'running' AND NOT EXISTS (
                               SELECT FROM workers w
                               WHERE w.id = t.worker_id AND w.heartbeat_at > now() - $1::interval
                           ) AS orphaned
                    FROM tasks t WHERE status IN ('queued', 'running')
                )
                SELECT count(*) FILTER (WHERE queued AND due) AS "queued_due!",
                       (extract(epoch FROM now() - min(created_at) FILTER (WHERE queued AND due)) * 1000)::bigint AS oldest_due_ms,
                       count(*) FILTER (WHERE queued AND NOT due) AS "queued_later!",
                       (extract(epoch FROM min(run_after) FILTER (WHERE queued AND NOT due) - now()) * 1000)::bigint AS next_due_in_ms,
                       count(*) FILTER (WHERE NOT queued) AS "running!",
                       (extract(epoch FROM now() - min(started_at) FILTER (WHERE NOT queued)) * 1000)::bigint AS oldest_running_ms,
                       count(*) FILTER (WHERE orphaned) AS "orphaned!",
                       count(*) FILTER (WHERE cancelling) AS "cancelling!"
                FROM active
                "#,
                interval(lease),
            )
            .fetch_one(&self.pool)
            .await?)
        })
        .await
    }

    /// The workers, the oldest first.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn workers(&self, lease: Duration) -> Result<Vec<WorkerView>> {
        bounded("workers", async {
            let rows = sqlx::query!(
                r#"
                SELECT w.id, w.started_at, w.heartbeat_at > now() - $1::interval AS "alive!",
                       (extract(epoch FROM now() - w.started_at) * 1000)::bigint AS "up_ms!",
                       (extract(epoch FROM now() - w.heartbeat_at) * 1000)::bigint AS "heartbeat_age_ms!",
                       (extract(epoch FROM now() - w.steady_since) * 1000)::bigint AS "steady_ms!",
                       (SELECT count(*) FROM tasks t
                        WHERE t.worker_id = w.id AND t.status = 'running') AS "running!"
                FROM workers w
                ORDER BY w.started_at, w.id
                "#,
                interval(lease),
            )
            .fetch_all(&self.pool)
            .await?;
            Ok(rows
                .into_iter()
                .map(|row| WorkerView {
                    id: WorkerId(row.id),
                    alive: row.alive,
                    started_at: row.started_at,
                    up_ms: row.up_ms,
                    heartbeat_age_ms: row.heartbeat_age_ms,
                    steady_ms: row.steady_ms,
                    running: row.running,
                })
                .collect())
        })
        .await
    }

    /// Those of `tasks` that there are, as they are now.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn letters(&self, tasks: &[TaskId]) -> Result<Vec<(TaskId, Letter)>> {
        let ids: Vec<_> = tasks.iter().map(|task| task.0).collect();
        bounded("letters", async {
            let rows = sqlx::query!(
                r#"
                SELECT t.id, t.status, t.model, t.error_code, t.error_message, t.conversation_id,
                       (SELECT again.id FROM tasks again
                        WHERE again.account_id = t.account_id AND again.subject = t.subject
                          AND again.idempotency_key = $2 || t.id::text) AS again
                FROM tasks t WHERE t.id = ANY ($1)
                "#,
                &ids,
                REQUEUE,
            )
            .fetch_all(&self.pool)
            .await?;
            rows.into_iter()
                .map(|row| {
                    let letter = Letter {
                        status: row.status.parse().map_err(corrupt)?,
                        model: row.model,
                        error_code: row.error_code,
                        error_message: row.error_message,
                        conversation_id: ConversationId(row.conversation_id),
                        asked_again_as: row.again.map(TaskId),
                    };
                    Ok((TaskId(row.id), letter))
                })
                .collect()
        })
        .await
    }

    /// All that is known of a task.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn task_story(&self, task: TaskId, lease: Duration) -> Result<Option<TaskStory>> {
        bounded("task_story", async {
            let row = sqlx::query!(
                r#"
                SELECT t.*, c.deleted_at IS NOT NULL AS "deleted!", m.finish_reason,
                       char_length(m.answer) AS answer_chars, t.usage AS "tokens: Json<Usage>",
                       (extract(epoch FROM now() - t.created_at) * 1000)::bigint AS "age_ms!",
                       (extract(epoch FROM t.started_at - t.created_at) * 1000)::bigint AS waited_ms,
                       (extract(epoch FROM t.finished_at - t.created_at) * 1000)::bigint AS took_ms,
                       (extract(epoch FROM t.run_after - now()) * 1000)::bigint AS due_in_ms,
                       (extract(epoch FROM t.deadline_at - now()) * 1000)::bigint AS "deadline_in_ms!",
                       (extract(epoch FROM now() - t.enqueued_at) * 1000)::bigint AS enqueued_ms,
                       (extract(epoch FROM now() - t.cancel_requested_at) * 1000)::bigint AS cancel_requested_ms,
                       (extract(epoch FROM now() - w.heartbeat_at) * 1000)::bigint AS worker_heartbeat_age_ms,
                       (SELECT count(*) FROM workers l
                        WHERE l.heartbeat_at > now() - $2::interval) AS "workers_alive!",
                       (SELECT (extract(epoch FROM min(l.steady_since) + $2::interval - now()) * 1000)::bigint
                        FROM workers l
                        WHERE l.heartbeat_at > now() - $2::interval) AS takeover_in_ms,
                       (SELECT again.id FROM tasks again
                        WHERE again.account_id = t.account_id AND again.subject = t.subject
                          AND again.idempotency_key = $3) AS again
                FROM tasks t
                JOIN messages m ON m.id = t.message_id
                JOIN conversations c ON c.id = t.conversation_id
                LEFT JOIN workers w ON w.id = t.worker_id
                WHERE t.id = $1
                "#,
                task.0,
                interval(lease),
                requeue_key(task),
            )
            .fetch_optional(&self.pool)
            .await?;
            let Some(row) = row else { return Ok(None) };
            let repeats = row.idempotency_key.as_deref().and_then(|key| key.strip_prefix(REQUEUE));
            Ok(Some(TaskStory {
                id: task,
                status: row.status.parse().map_err(corrupt)?,
                attempt: attempt(row.attempt)?,
                failures: row.failures,
                model: row.model,
                conversation_id: ConversationId(row.conversation_id),
                conversation_deleted: row.deleted,
                message_id: MessageId(row.message_id),
                created_at: row.created_at,
                age_ms: row.age_ms,
                started_at: row.started_at,
                waited_ms: row.waited_ms,
                finished_at: row.finished_at,
                took_ms: row.took_ms,
                due_in_ms: row.due_in_ms,
                deadline_in_ms: row.deadline_in_ms,
                enqueued_ms: row.enqueued_ms,
                cancel_requested_ms: row.cancel_requested_ms,
                worker_id: row.worker_id.map(WorkerId),
                worker_heartbeat_age_ms: row.worker_heartbeat_age_ms,
                workers_alive: row.workers_alive,
                takeover_in_ms: row.takeover_in_ms,
                error_code: row.error_code,
                error_message: row.error_message,
                usage: row.tokens.map(|usage| usage.0),
                final_id: row.final_id,
                finish_reason: row.finish_reason,
                answer_chars: row.answer_chars,
                asked_again_for: repeats.and_then(|id| id.parse().ok()),
                asked_again_as: row.again.map(TaskId),
            }))
        })
        .await
    }
}

fn rfc3339<S: serde::Serializer>(
    at: &OffsetDateTime,
    to: S,
) -> std::result::Result<S::Ok, S::Error> {
    time::serde::rfc3339::serialize(at, to)
}

fn rfc3339_option<S: serde::Serializer>(
    at: &Option<OffsetDateTime>,
    to: S,
) -> std::result::Result<S::Ok, S::Error> {
    time::serde::rfc3339::option::serialize(at, to)
}
