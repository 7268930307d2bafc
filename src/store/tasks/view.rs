//! Tasks as their owners and readers see them.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::types::Json;
use time::OffsetDateTime;

use super::{Ending, TaskError, attempt, corrupt};
use crate::domain::{
    AccountId, Answer, ConversationId, EventId, EventName, MessageId, TaskId, TaskStatus, Usage,
};
use crate::store::line::Line;
use crate::store::together::{BRIEFLY, Statement};
use crate::store::{Error, Result, Store, bounded};

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
        Ending { attempt: self.attempt, status: self.status, claim: None }
    }
}

/// What opening a stream has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamPlace {
    /// The newest attempt.
    pub attempt: u32,
    /// The terminal event's ID, if the task has ended.
    pub end: Option<EventId>,
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

impl Store {
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
                          usage AS "usage: Json<Usage>", error_code,
                       final_data::json ->> 'message' AS told,
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
                       usage AS "usage: Json<Usage>", error_code,
                       final_data::json ->> 'message' AS told,
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

    /// What opening a stream has to know, of a task of the account. One statement
    /// for all that ask while the one before it is under way.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn stream_place(
        &self,
        account: AccountId,
        task: TaskId,
    ) -> Result<Option<StreamPlace>> {
        let place = self.places.ask(task).await?;
        Ok(place.and_then(|(owner, place)| (owner == account).then_some(place)))
    }

    /// How a task ended, if it has.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn stream_end(&self, task: TaskId) -> Result<Option<StreamEnd>> {
        bounded("stream_end", async {
            let row = sqlx::query!(
                r#"
                SELECT t.final_id AS "final_id!", t.final_event, t.final_data, m.answer, m.reasoning,
                       m.tool_calls AS "tool_calls: Json<Vec<crate::domain::answer::ToolCall>>"
                FROM tasks t JOIN messages m ON m.id = t.message_id
                WHERE t.id = $1 AND t.final_id IS NOT NULL
                "#,
                task.0,
            )
            .fetch_optional(&self.pool)
            .await?;
            let Some(row) = row else { return Ok(None) };
            let (Some(name), Some(data)) = (row.final_event, row.final_data) else {
                return Ok(None);
            };
            Ok(Some(StreamEnd {
                id: row.final_id.parse().map_err(corrupt)?,
                name: name.parse().map_err(corrupt)?,
                data,
                answer: Answer {
                    text: row.answer.unwrap_or_default(),
                    reasoning: row.reasoning.unwrap_or_default(),
                    tool_calls: row.tool_calls.map(|calls| calls.0).unwrap_or_default(),
                    // For no reader.
                    opaque: Vec::new(),
                },
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
}

/// Reads tasks' owners and places.
#[derive(Debug, Clone)]
pub(in crate::store) struct Place(pub(in crate::store) Line);

impl Statement for Place {
    type Question = TaskId;
    type Answer = Option<(AccountId, StreamPlace)>;

    const PACE: Duration = BRIEFLY;

    async fn run(&self, tasks: &[TaskId]) -> Result<Vec<Result<Self::Answer>>> {
        let ids: Vec<_> = tasks.iter().map(|task| task.0).collect();
        let rows = bounded("stream_places", async {
            let mut line = self.0.hold().await?;
            let rows = sqlx::query!(
                "SELECT id, account_id, attempt, final_id FROM tasks WHERE id = ANY($1)",
                &ids
            )
            .fetch_all(&mut line.connection)
            .await?;
            line.keep();
            Ok(rows)
        })
        .await?;
        let places: HashMap<_, _> = rows
            .into_iter()
            .map(|row| {
                let place = || {
                    let end = row.final_id.map(|id| id.parse()).transpose().map_err(corrupt)?;
                    let attempt = attempt(row.attempt)?;
                    Ok((AccountId(row.account_id), StreamPlace { attempt, end }))
                };
                (row.id, place())
            })
            .collect();
        Ok(tasks.iter().map(|task| places.get(&task.0).cloned().transpose()).collect())
    }
}

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
    told: Option<String>,
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
            error: row.error_code.map(|code| TaskError::told(code, row.told)),
            cancel_requested: row.cancel_requested_at.is_some(),
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
        })
    }
}
