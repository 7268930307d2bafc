//! Accept: a message, the place for its answer and the task, in one statement.

use std::time::Duration;

use serde_json::Value;
use sqlx::types::Json;

use crate::domain::message::Parameters;
use crate::domain::{AccountId, ConversationId, MessageId, TaskId};
use crate::store::{NewPrompt, Result, Store, bounded, interval};

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
    pub prompt: NewPrompt,
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
}
