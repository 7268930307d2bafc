//! Accept: a message, the place for its answer and the task, in one statement.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use crate::domain::message::Parameters;
use crate::domain::{AccountId, ConversationId, MessageId, TaskId};
use crate::store::line::Line;
use crate::store::together::{BRIEFLY, Statement, each, weight_of};
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
    /// Commits a message, the place for its answer, and the task. One statement
    /// for all that come while the one before it is under way.
    ///
    /// # Errors
    /// When the outcome is unknown; repeating is safe only with a key.
    pub async fn accept(&self, new: NewTask) -> Result<Accepted> {
        let new = Arc::new(new);
        if self.accepts.ask(new.clone()).await? {
            return Ok(Accepted::New);
        }
        match &new.idempotency_key {
            Some(key) => self.accepted_before(&new, key).await,
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

/// Commits new tasks; of each, whether it did.
#[derive(Debug, Clone)]
pub(in crate::store) struct Accept(pub(in crate::store) Line);

impl Statement for Accept {
    type Question = Arc<NewTask>;
    type Answer = bool;

    const PACE: Duration = BRIEFLY;

    fn changes(new: &Arc<NewTask>) -> Option<Uuid> {
        Some(new.conversation.0)
    }

    fn weight(new: &Arc<NewTask>) -> usize {
        weight_of(bytes(&new.prompt.content) + bytes(&new.request))
    }

    async fn run(&self, questions: &[Arc<NewTask>]) -> Result<Vec<Result<bool>>> {
        // Everybody locks rows in the same order, so nobody waits for ever.
        let mut new: Vec<_> = questions.iter().collect();
        new.sort_unstable_by_key(|new| new.conversation.0);
        let committed = bounded("accept", async {
            let mut line = self.0.hold().await?;
            let committed = sqlx::query_scalar!(
                r#"
                WITH conversation AS (
                    SELECT asked.*, c.next_position, c.last_message_id
                    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::jsonb[],
                                $7::text[], $8::jsonb[], $9::interval[], $10::uuid[], $11::text[],
                                $12::jsonb[])
                         AS asked (conversation_id, account_id, task_id, message_id, model, parameters,
                                 key, request, deadline, prompt_id, role, content)
                    CROSS JOIN LATERAL (
                        SELECT next_position, last_message_id FROM conversations
                        WHERE id = asked.conversation_id AND account_id = asked.account_id
                          AND deleted_at IS NULL
                        FOR UPDATE
                    ) c
                ), task AS (
                    INSERT INTO tasks (id, account_id, conversation_id, message_id, model, parameters,
                                       idempotency_key, request, enqueued_at, deadline_at)
                    SELECT task_id, account_id, conversation_id, message_id, model, parameters,
                           key, request, now(), now() + deadline
                    FROM conversation
                    ON CONFLICT (account_id, idempotency_key) DO NOTHING
                    RETURNING id
                ), new AS (
                    SELECT c.* FROM task JOIN conversation c ON c.task_id = task.id
                ), said AS (
                    INSERT INTO messages (id, conversation_id, parent_id, position, role, content)
                    SELECT prompt_id, conversation_id, last_message_id, next_position, role, content
                    FROM new
                    UNION ALL
                    SELECT message_id, conversation_id, prompt_id, next_position + 1, 'assistant', NULL
                    FROM new
                ), moved AS (
                    UPDATE conversations
                    SET next_position = new.next_position + 2, last_message_id = new.message_id,
                        updated_at = now()
                    FROM new
                    WHERE conversations.id = new.conversation_id
                )
                SELECT id FROM task
                "#,
                &each(&new, |new| new.conversation.0),
                &each(&new, |new| new.account.0),
                &each(&new, |new| new.task.0),
                &each(&new, |new| new.message.0),
                &each(&new, |new| new.model.as_str()) as _,
                &each(&new, |new| Json(&new.parameters)) as _,
                &each(&new, |new| new.idempotency_key.as_deref()) as _,
                &each(&new, |new| Json(&new.request)) as _,
                &each(&new, |new| interval(new.deadline)),
                &each(&new, |new| new.prompt.id.0),
                &each(&new, |new| new.prompt.role.as_str()) as _,
                &each(&new, |new| Json(&new.prompt.content)) as _,
            )
            .fetch_all(&mut line.connection)
            .await?;
            line.keep();
            Ok(committed)
        })
        .await?;
        Ok(questions.iter().map(|new| Ok(committed.contains(&new.task.0))).collect())
    }
}

/// How large a value is, about.
fn bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(bytes).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + bytes(value)).sum(),
    }
}
