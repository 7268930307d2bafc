//! Messages: what was said, and what of it a model is told.

use std::collections::HashSet;

use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::types::Json;
use time::OffsetDateTime;

use super::line::Line;
use super::tasks::{Parent, TaskError};
use super::together::{Statement, each, weight_of};
use super::{Error, Result, Store, bounded};
use crate::domain::answer::ToolCall;
use crate::domain::message::{AssistantTurn, Role, ToolResult, Turn};
use crate::domain::opaque::OpaqueData;
use crate::domain::{AccountId, ConversationId, MessageId, TaskId, TaskStatus};

/// Messages that a prompt goes back at most. Models refuse prompts long before;
/// this bounds our own memory.
const PROMPT_MESSAGES: i32 = 2_000;

/// A message to be stored: what a user said, or what tools answered.
#[derive(Debug, Clone, PartialEq)]
pub struct NewPrompt {
    /// Its ID.
    pub id: MessageId,
    /// `user` or `tool`.
    pub role: Role,
    /// A [`Content`](crate::domain::message::Content), or the [`ToolResult`]s:
    /// JSON, kept as it is written.
    pub content: String,
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
    /// A conversation's messages after a position, oldest first; `None` when
    /// there is no such conversation.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn messages(
        &self,
        account: AccountId,
        conversation: ConversationId,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Option<Vec<StoredMessage>>> {
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
                       t.error_code, t.final_data::json ->> 'message' AS told
                FROM conversations c
                LEFT JOIN LATERAL (
                    SELECT * FROM messages
                    WHERE conversation_id = c.id AND position > $3
                    ORDER BY position
                    LIMIT $4
                ) m ON true
                LEFT JOIN tasks t ON t.message_id = m.id
                WHERE c.id = $2 AND c.account_id = $1 AND c.deleted_at IS NULL
                ORDER BY m.position
                "#,
                account.0,
                conversation.0,
                after.unwrap_or(-1),
                limit,
            )
            .fetch_all(&self.pool)
            .await?;
            if rows.is_empty() {
                return Ok(None);
            }
            rows.into_iter().filter_map(MessageRow::message).collect::<Result<_>>().map(Some)
        })
        .await
    }

    /// What the model is told before it answers with message `before`: the
    /// instructions, then the messages on the path from the root to it, the newest
    /// 2,000 at most. Of answers, what was said is told, and the tool calls of those
    /// that are complete; answers that say nothing (yet) are left out.
    ///
    /// Calls and results don't have to match: [`crate::domain::prompt::tidy`]
    /// sees to that.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn turns(
        &self,
        conversation: ConversationId,
        before: MessageId,
    ) -> Result<Vec<Turn>> {
        self.prompts.ask((conversation, before)).await
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

/// Reads what models are told.
#[derive(Debug, Clone)]
pub(in crate::store) struct Prompt(pub(in crate::store) Line);

impl Statement for Prompt {
    type Question = (ConversationId, MessageId);
    type Answer = Vec<Turn>;

    fn weight(_: &Self::Question) -> usize {
        weight_of(0)
    }

    async fn run(&self, questions: &[Self::Question]) -> Result<Vec<Result<Vec<Turn>>>> {
        let questions: Vec<_> = questions.iter().collect();
        let rows = bounded("turns", async {
            let mut line = self.0.hold().await?;
            let rows = sqlx::query_as!(
                TurnRow,
                r#"
                SELECT asked.number AS "number!", turn.role AS "role!",
                       turn.content AS "content: Json<Box<RawValue>>", turn.said,
                       turn.tool_calls AS "tool_calls: Json<Vec<ToolCall>>",
                       turn.reasoning, turn.opaque AS "opaque: Json<Vec<OpaqueData>>", turn.model
                FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY
                     AS asked (conversation_id, message_id, number)
                CROSS JOIN LATERAL (
                    -- The rows go along the path: looking them up again costs half as much again.
                    WITH RECURSIVE path AS (
                        SELECT 0 AS depth, m.id, m.parent_id, m.role, m.content, m.answer,
                               m.tool_calls, m.opaque,
                               CASE WHEN m.tool_calls IS NOT NULL THEN m.reasoning END AS reasoning
                        FROM messages m
                        WHERE m.id = asked.message_id AND m.conversation_id = asked.conversation_id
                        UNION ALL
                        SELECT path.depth + 1, m.id, m.parent_id, m.role, m.content, m.answer,
                               m.tool_calls, m.opaque,
                               CASE WHEN m.tool_calls IS NOT NULL THEN m.reasoning END
                        FROM path JOIN messages m ON m.id = path.parent_id
                        WHERE path.depth < $3
                    )
                    SELECT $3 + 1 AS depth, 'system' AS role, NULL::json AS content,
                           c.instructions AS said, NULL::jsonb AS tool_calls,
                           NULL AS reasoning, NULL::json AS opaque, NULL AS model
                    FROM conversations c
                    WHERE c.id = asked.conversation_id AND c.instructions <> ''
                    UNION ALL
                    SELECT path.depth, path.role, path.content, path.answer, path.tool_calls,
                           path.reasoning, path.opaque,
                           -- Of a complete answer.
                           CASE WHEN path.tool_calls IS NOT NULL OR path.opaque IS NOT NULL THEN (
                               SELECT t.model FROM tasks t
                               WHERE t.message_id = path.id AND t.status = 'done'
                           ) END
                    FROM path
                    -- The first is the place that is to be filled.
                    WHERE path.depth > 0
                ) turn
                ORDER BY asked.number, turn.depth DESC
                "#,
                &each(&questions, |(conversation, _)| conversation.0),
                &each(&questions, |(_, message)| message.0),
                PROMPT_MESSAGES,
            )
            .fetch_all(&mut line.connection)
            .await?;
            line.keep();
            Ok(rows)
        })
        .await?;
        let mut rows = rows.into_iter().peekable();
        let prompt = |number| {
            let mine: Vec<_> =
                std::iter::from_fn(|| rows.next_if(|row| row.number == number)).collect();
            turns(mine)
        };
        Ok((1..).take(questions.len()).map(prompt).collect())
    }
}

struct TurnRow {
    number: i64,
    role: String,
    content: Option<Json<Box<RawValue>>>,
    said: Option<String>,
    tool_calls: Option<Json<Vec<ToolCall>>>,
    reasoning: Option<String>,
    opaque: Option<Json<Vec<OpaqueData>>>,
    model: Option<String>,
}

fn turns(rows: Vec<TurnRow>) -> Result<Vec<Turn>> {
    let mut turns = Vec::with_capacity(rows.len());
    for row in rows {
        let said = row.said.unwrap_or_default();
        match (row.role.as_str(), row.content) {
            ("system", _) => turns.push(Turn::System(said)),
            ("user", Some(content)) => turns.push(Turn::User(read(&content)?)),
            ("tool", Some(results)) => {
                turns.extend(read::<Vec<ToolResult>>(&results)?.into_iter().map(Turn::Tool));
            }
            // Calls and data of a complete answer only.
            ("assistant", _) if row.model.is_none() => {
                if !said.is_empty() {
                    turns.push(Turn::Assistant(said.as_str().into()));
                }
            }
            ("assistant", _) => turns.push(Turn::Assistant(AssistantTurn {
                text: said,
                tool_calls: row.tool_calls.map(|calls| calls.0).unwrap_or_default(),
                reasoning: row.reasoning.unwrap_or_default(),
                opaque: row.opaque.map(|opaque| opaque.0).unwrap_or_default(),
                model: row.model,
            })),
            (role, _) => return Err(Error::Corrupt(format!("a message of role {role:?}"))),
        }
    }
    Ok(turns)
}

fn read<T: serde::de::DeserializeOwned>(json: &RawValue) -> Result<T> {
    serde_json::from_str(json.get()).map_err(|error| Error::Corrupt(error.to_string()))
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
