//! Messages: what was said, for its owner to read.

use std::collections::HashSet;

use serde_json::Value;
use sqlx::types::Json;
use time::OffsetDateTime;

use super::tasks::{Parent, TaskError};
use super::{Error, PAGE_BYTES, Result, Store, bounded};
use crate::domain::answer::ToolCall;
use crate::domain::message::Role;
use crate::domain::{AccountId, ConversationId, MessageId, TaskId, TaskStatus};

/// A message to be stored: what a user said, or what tools answered.
#[derive(Debug, Clone, PartialEq)]
pub struct NewPrompt {
    /// Its ID.
    pub id: MessageId,
    /// `user` or `tool`.
    pub role: Role,
    /// A [`Content`](crate::domain::message::Content), or the [`ToolResult`](crate::domain::message::ToolResult)s:
    /// JSON, kept as it is written.
    pub content: String,
}

/// A page of messages.
#[derive(Debug, Clone, PartialEq)]
pub struct MessagePage {
    /// Oldest first; one at least, if there is one.
    pub items: Vec<StoredMessage>,
    /// Others follow.
    pub more: bool,
}

/// A message as shown to its owner.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredMessage {
    /// Which.
    pub id: MessageId,
    /// The message before it.
    pub parent: Option<MessageId>,
    /// Its place in the conversation.
    pub position: i64,
    /// Who said it.
    pub role: Role,
    /// What a user said, or the results of tools, as JSON.
    pub content: Option<Value>,
    /// What the model answered; nothing until its task has ended.
    pub answer: Option<String>,
    /// The model's reasoning, where it shows it.
    pub reasoning: Option<String>,
    /// The tools that the model called.
    pub tool_calls: Vec<ToolCall>,
    /// Why the model stopped.
    pub finish_reason: Option<String>,
    /// When it was stored.
    pub created_at: OffsetDateTime,
    /// The task that answers; assistants' messages have one.
    pub task: Option<MessageTask>,
}

/// The state of the task that fills a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageTask {
    /// Which task.
    pub id: TaskId,
    /// Where it is in its life.
    pub status: TaskStatus,
    /// Its newest attempt.
    pub attempt: u32,
    /// Why it failed.
    pub error: Option<TaskError>,
}

impl Store {
    /// A conversation's messages after a position, oldest first, as many as `limit`
    /// and a mebibyte allow; `None` when there is no such conversation.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn messages(
        &self,
        account: AccountId,
        conversation: ConversationId,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Option<MessagePage>> {
        let _turn = self.list_turn().await?;
        bounded("messages", async {
            // The conversation is the left side: it answers with one empty row
            // where it has no messages, and with none where it isn't there.
            let rows = sqlx::query_as!(
                MessageRow,
                r#"
                SELECT m.id AS "id?", m.parent_id, m.position AS "position?", m.role AS "role?",
                       m.content, m.answer, m.reasoning,
                       m.tool_calls AS "tool_calls: Json<Vec<ToolCall>>",
                       m.finish_reason, m.created_at AS "created_at?",
                       t.id AS "task_id?", t.status AS "status?", t.attempt AS "attempt?",
                       t.error_code, t.final_data::json ->> 'message' AS told,
                       m.candidates AS "candidates?"
                FROM conversations c
                LEFT JOIN LATERAL (
                    -- One by one: what is beyond the page is not even measured, which
                    -- would take as long as to read it.
                    WITH RECURSIVE page AS (
                        SELECT 0::bigint AS number, 0::bigint AS bytes, $3::bigint AS position,
                               NULL::uuid AS id, NULL::uuid AS parent_id, NULL AS role,
                               NULL::json AS content, NULL AS answer, NULL AS reasoning,
                               NULL::jsonb AS tool_calls, NULL AS finish_reason,
                               NULL::timestamptz AS created_at
                        UNION ALL
                        SELECT page.number + 1,
                               page.bytes + coalesce(octet_length(next.content::text), 0)
                                   + coalesce(octet_length(next.answer), 0)
                                   + coalesce(octet_length(next.reasoning), 0)
                                   + coalesce(octet_length(next.tool_calls::text), 0),
                               next.position, next.id, next.parent_id, next.role, next.content,
                               next.answer, next.reasoning, next.tool_calls, next.finish_reason,
                               next.created_at
                        FROM page CROSS JOIN LATERAL (
                            SELECT * FROM messages
                            WHERE conversation_id = $2 AND position > page.position
                            ORDER BY position
                            LIMIT 1
                        ) next
                        WHERE page.number <= $4 AND (page.bytes <= $5 OR page.number = 1)
                    )
                    SELECT *, (SELECT max(number) FROM page) AS candidates FROM page
                    WHERE number = 1 OR (number BETWEEN 1 AND $4::bigint AND bytes <= $5)
                ) m ON true
                LEFT JOIN tasks t ON t.message_id = m.id
                WHERE c.id = $2 AND c.account_id = $1 AND c.deleted_at IS NULL
                ORDER BY m.position
                "#,
                account.0,
                conversation.0,
                after.unwrap_or(-1),
                limit,
                PAGE_BYTES,
            )
            .fetch_all(&self.pool)
            .await?;
            let Some(first) = rows.first() else { return Ok(None) };
            let candidates = first.candidates.unwrap_or(0);
            let items: Vec<_> =
                rows.into_iter().filter_map(MessageRow::message).collect::<Result<_>>()?;
            Ok(Some(MessagePage { more: candidates > items.len() as i64, items }))
        })
        .await
    }

    /// The IDs of the tools that the parent called: those that can be answered.
    /// Of the newest answer, with the key of a request that was accepted before,
    /// those that could be answered then, so that its repeat is judged like the
    /// first. `None` when there is no such conversation.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn open_tool_calls(
        &self,
        account: AccountId,
        conversation: ConversationId,
        parent: Parent,
        idempotency_key: Option<&str>,
    ) -> Result<Option<HashSet<String>>> {
        bounded("open_tool_calls", async {
            let calls = sqlx::query_scalar!(
                r#"
                SELECT last.calls AS "calls: Json<Vec<ToolCall>>"
                FROM conversations c
                LEFT JOIN LATERAL (
                    SELECT CASE t.status WHEN 'done' THEN m.tool_calls END AS calls
                    FROM messages m JOIN tasks t ON t.message_id = m.id
                    WHERE m.conversation_id = c.id
                      AND (NOT $4 OR m.id = $5)
                      AND ($4 OR m.position < coalesce((
                          SELECT place.position
                          FROM tasks before JOIN messages place ON place.id = before.message_id
                          WHERE before.account_id = $1 AND before.subject = c.subject
                            AND before.idempotency_key = $3 AND before.conversation_id = c.id
                      ), 9223372036854775807))
                    ORDER BY m.position DESC
                    LIMIT 1
                ) last ON true
                WHERE c.id = $2 AND c.account_id = $1 AND c.deleted_at IS NULL
                "#,
                account.0,
                conversation.0,
                idempotency_key,
                parent != Parent::Newest,
                parent.id().map(|id| id.0),
            )
            .fetch_optional(&self.pool)
            .await?;
            Ok(calls.map(|calls| {
                calls.into_iter().flat_map(|calls| calls.0).filter_map(|call| call.id).collect()
            }))
        })
        .await
    }
}

struct MessageRow {
    id: Option<uuid::Uuid>,
    parent_id: Option<uuid::Uuid>,
    position: Option<i64>,
    role: Option<String>,
    content: Option<Value>,
    answer: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Json<Vec<ToolCall>>>,
    finish_reason: Option<String>,
    created_at: Option<OffsetDateTime>,
    task_id: Option<uuid::Uuid>,
    status: Option<String>,
    attempt: Option<i64>,
    error_code: Option<String>,
    told: Option<String>,
    candidates: Option<i64>,
}

impl MessageRow {
    /// The message; `None` for the row of a conversation without any.
    fn message(self) -> Option<Result<StoredMessage>> {
        let (id, position) = (self.id?, self.position?);
        let (role, created_at) = (self.role?, self.created_at?);
        let task = match (self.task_id, self.status, self.attempt) {
            (Some(id), Some(status), Some(attempt)) => Some((id, status, attempt)),
            _ => None,
        };
        let error = self.error_code.map(|code| TaskError::told(code, self.told));
        Some((|| {
            Ok(StoredMessage {
                id: MessageId(id),
                parent: self.parent_id.map(MessageId),
                position,
                role: parse_role(&role)?,
                content: self.content,
                answer: self.answer,
                reasoning: self.reasoning,
                tool_calls: self.tool_calls.map(|calls| calls.0).unwrap_or_default(),
                finish_reason: self.finish_reason,
                created_at,
                task: task
                    .map(|(id, status, attempt)| {
                        Ok::<_, Error>(MessageTask {
                            id: TaskId(id),
                            status: status.parse().map_err(corrupt)?,
                            attempt: u32::try_from(attempt).map_err(corrupt)?,
                            error,
                        })
                    })
                    .transpose()?,
            })
        })())
    }
}

fn parse_role(role: &str) -> Result<Role> {
    match role {
        "user" => Ok(Role::User),
        "assistant" => Ok(Role::Assistant),
        "tool" => Ok(Role::Tool),
        other => Err(Error::Corrupt(format!("a message of role {other:?}"))),
    }
}

fn corrupt(error: impl std::fmt::Display) -> Error {
    Error::Corrupt(error.to_string())
}
