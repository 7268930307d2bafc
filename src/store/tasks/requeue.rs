//! Requeue: a failed task's question is asked again, by a task of its own.
//!
//! A task has one end, so the failed one stays as it is. The new one fills a new
//! message with the same parent: the question has two answers, and what follows
//! the newer one has that on its path ([`Store::turns`]).

use crate::domain::{MessageId, TaskId, TaskStatus};
use crate::store::tasks::corrupt;
use crate::store::{Result, Store, bounded};

/// What became of asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requeued {
    /// It is committed.
    New,
    /// It was asked again before.
    Before(TaskId),
    /// The task has not failed.
    NotFailed(TaskStatus),
    /// The conversation went on behind the failed answer.
    MovedOn,
    /// The conversation was deleted.
    Deleted,
    /// There is no such task: its conversation was deleted long ago.
    Gone,
}

impl Store {
    /// Commits a task that answers again what `failed` has failed to answer, with
    /// the same parameters and as much time. Once for each failed task: the new
    /// one has an idempotency key made of the old one's ID.
    ///
    /// # Errors
    /// When the outcome is unknown; repeating is safe.
    pub async fn requeue(
        &self,
        failed: TaskId,
        task: TaskId,
        message: MessageId,
    ) -> Result<Requeued> {
        let key = requeue_key(failed);
        bounded("requeue", async {
            let committed = sqlx::query_scalar!(
                r#"
                WITH failed AS (
                    SELECT t.*, m.parent_id AS question
                    FROM tasks t JOIN messages m ON m.id = t.message_id
                    WHERE t.id = $1 AND t.status = 'failed'
                ), conversation AS (
                    SELECT c.id, c.next_position
                    FROM conversations c JOIN failed f ON f.conversation_id = c.id
                    WHERE c.deleted_at IS NULL AND c.last_message_id = f.message_id
                    FOR UPDATE OF c
                ), task AS (
                    INSERT INTO tasks (id, account_id, subject, conversation_id, message_id, model,
                                       parameters, idempotency_key, traceparent, enqueued_at,
                                       deadline_at)
                    SELECT $2, f.account_id, f.subject, c.id, $3, f.model, f.parameters,
                           $4, f.traceparent, now(), now() + (f.deadline_at - f.created_at)
                    FROM failed f, conversation c
                    ON CONFLICT (account_id, subject, idempotency_key) DO NOTHING
                    RETURNING id
                ), place AS (
                    INSERT INTO messages (id, conversation_id, parent_id, position, role)
                    SELECT $3, c.id, f.question, c.next_position, 'assistant'
                    FROM failed f, conversation c, task
                ), moved AS (
                    UPDATE conversations
                    SET next_position = c.next_position + 1, last_message_id = $3, updated_at = now()
                    FROM conversation c, task
                    WHERE conversations.id = c.id
                )
                SELECT id FROM task
                "#,
                failed.0,
                task.0,
                message.0,
                key,
            )
            .fetch_optional(&self.pool)
            .await?;
            if committed.is_some() {
                return Ok(Requeued::New);
            }
            // A statement of its own: it sees what another requeue, or a message
            // that came first, has committed.
            let row = sqlx::query!(
                r#"
                SELECT t.status, c.deleted_at IS NOT NULL AS "deleted!",
                       (SELECT again.id FROM tasks again
                        WHERE again.account_id = t.account_id AND again.subject = t.subject
                          AND again.idempotency_key = $2
                       ) AS before
                FROM tasks t JOIN conversations c ON c.id = t.conversation_id
                WHERE t.id = $1
                "#,
                failed.0,
                key,
            )
            .fetch_optional(&self.pool)
            .await?;
            let Some(row) = row else { return Ok(Requeued::Gone) };
            let status: TaskStatus = row.status.parse().map_err(corrupt)?;
            Ok(match row.before {
                Some(task) => Requeued::Before(TaskId(task)),
                None if status != TaskStatus::Failed => Requeued::NotFailed(status),
                None if row.deleted => Requeued::Deleted,
                None => Requeued::MovedOn,
            })
        })
        .await
    }
}

/// What guards against asking twice.
pub(in crate::store) fn requeue_key(failed: TaskId) -> String {
    format!("{REQUEUE}{failed}")
}

/// What [`requeue_key`] begins with. No caller's key has a blank, so that none can
/// be mistaken for one of rill's own.
pub(in crate::store) const REQUEUE: &str = " requeue ";
