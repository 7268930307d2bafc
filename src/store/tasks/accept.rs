//! Accept: a message, the place for its answer and the task, in one statement.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

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
    /// What it follows.
    pub parent: Parent,
    /// The assistant's message, which the task will fill.
    pub message: MessageId,
    /// The model's public name.
    pub model: String,
    /// Passed on to the model: a JSON object, kept as it is written.
    pub parameters: String,
    /// Makes repeating safe.
    pub idempotency: Option<Idempotency>,
    /// The trace that the request belongs to (W3C Trace Context).
    pub traceparent: Option<String>,
    /// How long the task may take in all.
    pub deadline: Duration,
}

/// What makes repeating a request safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The caller's key.
    pub key: String,
    /// SHA-256 of the request, to tell a repeat from a reuse.
    pub hash: [u8; 32],
}

/// Which message another follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The conversation's newest answer, if there is one.
    Newest,
    /// None: it begins the conversation, beside others that do.
    Root,
    /// This answer.
    Message(MessageId),
}

impl Parent {
    /// The parent's ID, if it was named.
    pub const fn id(self) -> Option<MessageId> {
        match self {
            Self::Message(id) => Some(id),
            Self::Newest | Self::Root => None,
        }
    }
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
    /// The conversation has no answer that is the named parent.
    NoParent,
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
        self.not_accepted(&new).await
    }

    /// Why nothing was committed.
    async fn not_accepted(&self, new: &NewTask) -> Result<Accepted> {
        let (key, hash) = match &new.idempotency {
            Some(Idempotency { key, hash }) => (Some(key.as_str()), Some(&hash[..])),
            None => (None, None),
        };
        bounded("not_accepted", async {
            let row = sqlx::query!(
                r#"SELECT t.id AS "task?", t.message_id AS "message?",
                          t.request_hash IS NOT DISTINCT FROM $4 AS "same!"
                   FROM conversations c
                   LEFT JOIN tasks t ON t.account_id = c.account_id AND t.subject = c.subject
                     AND t.idempotency_key = $3
                   WHERE c.id = $2 AND c.account_id = $1
                     AND (c.deleted_at IS NULL OR t.id IS NOT NULL)"#,
                new.account.0,
                new.conversation.0,
                key,
                hash,
            )
            .fetch_optional(&self.pool)
            .await?;
            let Some(row) = row else { return Ok(Accepted::NoConversation) };
            Ok(match (row.task, row.message) {
                (Some(task), Some(message)) if row.same => {
                    Accepted::Repeated { task: TaskId(task), message: MessageId(message) }
                }
                (Some(_), _) => Accepted::KeyReused,
                (None, _) if new.parent.id().is_some() => Accepted::NoParent,
                (None, _) => Accepted::NoConversation,
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
        weight_of(new.prompt.content.len() + new.parameters.len())
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
                    SELECT asked.*, c.subject, c.next_position,
                           CASE WHEN asked.named THEN asked.parent_id ELSE c.last_message_id END AS follows
                    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[],
                                $7::text[], $8::bytea[], $9::interval[], $10::uuid[], $11::text[],
                                $12::text[], $13::bool[], $14::uuid[], $15::text[])
                         AS asked (conversation_id, account_id, task_id, message_id, model, parameters,
                                 key, hash, deadline, prompt_id, role, content, named, parent_id,
                                 traceparent)
                    CROSS JOIN LATERAL (
                        SELECT subject, next_position, last_message_id FROM conversations
                        WHERE id = asked.conversation_id AND account_id = asked.account_id
                          AND deleted_at IS NULL
                        FOR UPDATE
                    ) c
                    WHERE asked.parent_id IS NULL OR EXISTS (
                        SELECT FROM messages m
                        WHERE m.id = asked.parent_id AND m.conversation_id = asked.conversation_id
                          AND m.role = 'assistant'
                    )
                ), task AS (
                    INSERT INTO tasks (id, account_id, subject, conversation_id, message_id, model,
                                       parameters, idempotency_key, request_hash, traceparent,
                                       enqueued_at, deadline_at)
                    SELECT task_id, account_id, subject, conversation_id, message_id, model,
                           parameters::json, key, hash, traceparent, now(), now() + deadline
                    FROM conversation
                    ON CONFLICT (account_id, subject, idempotency_key) DO NOTHING
                    RETURNING id
                ), new AS (
                    SELECT c.* FROM task JOIN conversation c ON c.task_id = task.id
                ), said AS (
                    INSERT INTO messages (id, conversation_id, parent_id, position, role, content)
                    SELECT prompt_id, conversation_id, follows, next_position, role, content::json
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
                &each(&new, |new| new.parameters.as_str()) as _,
                &each(&new, |new| new.idempotency.as_ref().map(|i| i.key.as_str())) as _,
                &each(&new, |new| new.idempotency.as_ref().map(|i| &i.hash[..])) as _,
                &each(&new, |new| interval(new.deadline)),
                &each(&new, |new| new.prompt.id.0),
                &each(&new, |new| new.prompt.role.as_str()) as _,
                &each(&new, |new| new.prompt.content.as_str()) as _,
                &each(&new, |new| new.parent != Parent::Newest),
                &each(&new, |new| new.parent.id().map(|id| id.0)) as _,
                &each(&new, |new| new.traceparent.as_deref()) as _,
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
