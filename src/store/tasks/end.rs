//! The end: the task and its message, in one statement.

use std::time::Duration;

use sqlx::types::Json;

use super::TaskError;
use crate::domain::{Answer, EventId, TaskId, TaskStatus, Usage};
use crate::store::{Result, Store, bounded};

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

impl Store {
    /// Commits a task's end and its message, if the task is as expected.
    ///
    /// # Errors
    /// When the outcome is unknown; repeating is safe.
    pub async fn end(&self, task: TaskId, seen: Ending, last: &Final) -> Result<EndOutcome> {
        bounded("end", async {
            let usage = last.usage.map(Json);
            let calls =
                (!last.answer.tool_calls.is_empty()).then_some(Json(&last.answer.tool_calls));
            let reasoning =
                (!last.answer.reasoning.is_empty()).then_some(last.answer.reasoning.as_str());
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
                reasoning,
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
            // same time has committed. The answer counts: two who end a task that
            // is nobody's choose the same ID and data, and may know different texts.
            let ours = sqlx::query_scalar!(
                r#"SELECT EXISTS (
                       SELECT FROM tasks t JOIN messages m ON m.id = t.message_id
                       WHERE t.id = $1 AND t.final_id = $2 AND t.final_data = $3
                         AND m.answer = $4 AND m.reasoning IS NOT DISTINCT FROM $5
                         AND m.tool_calls IS NOT DISTINCT FROM $6
                   ) AS "ours!""#,
                task.0,
                last.id.to_string(),
                last.data,
                last.answer.text,
                reasoning,
                calls as _,
            )
            .fetch_one(&self.pool)
            .await?;
            Ok(if ours { EndOutcome::Committed(None) } else { EndOutcome::Refused })
        })
        .await
    }
}
