//! The end: the task and its message, in one statement.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::TaskError;
use crate::domain::answer::ToolCall;
use crate::domain::event::json;
use crate::domain::opaque::OpaqueData;
use crate::domain::{Answer, ClaimId, EventId, TaskId, TaskStatus, Usage};
use crate::store::line::Line;
use crate::store::together::{BRIEFLY, Statement, each, weight_of};
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
    /// The claim that began the attempt, where it is one's own.
    pub claim: Option<ClaimId>,
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
    /// Commits a task's end and its message, if the task is as expected. One
    /// statement for all that come while the one before it is under way.
    ///
    /// # Errors
    /// When the outcome is unknown; repeating is safe.
    pub async fn end(&self, task: TaskId, seen: Ending, last: &Final) -> Result<EndOutcome> {
        let change = Change { task, seen, last: last.clone() };
        self.ends.ask(change).await
    }
}

/// An end to commit.
#[derive(Debug)]
pub(in crate::store) struct Change {
    task: TaskId,
    seen: Ending,
    last: Final,
}

impl Change {
    fn reasoning(&self) -> Option<&str> {
        let reasoning = &self.last.answer.reasoning;
        (!reasoning.is_empty()).then_some(reasoning)
    }

    fn tool_calls(&self) -> Option<Json<&[ToolCall]>> {
        let calls = &self.last.answer.tool_calls;
        (!calls.is_empty()).then_some(Json(calls))
    }

    /// JSON, as it is stored and compared.
    fn opaque(&self) -> Option<String> {
        let opaque = &self.last.answer.opaque;
        (!opaque.is_empty()).then(|| json(opaque))
    }
}

/// Commits ends.
#[derive(Debug, Clone)]
pub(in crate::store) struct End(pub(in crate::store) Line);

impl Statement for End {
    type Question = Change;
    type Answer = EndOutcome;

    const PACE: Duration = BRIEFLY;

    fn weight(change: &Change) -> usize {
        let answer = &change.last.answer;
        weight_of(answer.len() + answer.opaque.iter().map(OpaqueData::size).sum::<usize>())
    }

    fn changes(change: &Change) -> Option<Uuid> {
        Some(change.task.0)
    }

    async fn run(&self, questions: &[Change]) -> Result<Vec<Result<EndOutcome>>> {
        // Everybody locks rows in the same order, so nobody waits for ever.
        let mut ends: Vec<_> = questions.iter().collect();
        ends.sort_unstable_by_key(|end| end.task.0);
        bounded("end", async {
            let mut line = self.0.hold().await?;
            let rows = sqlx::query!(
                r#"
                WITH ended AS (
                    UPDATE tasks t
                    SET status = l.status, attempt = l.attempt, final_id = l.id, final_event = l.status,
                        final_data = l.data, usage = l.usage, error_code = l.error_code,
                        error_message = l.error_message, finished_at = now(),
                        failures = coalesce(l.failures, t.failures)
                    FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::text[],
                                $7::text[], $8::jsonb[], $9::text[], $10::text[], $11::int[], $12::text[],
                                $13::text[], $14::jsonb[], $15::text[], $16::text[], $17::uuid[])
                         AS l (task_id, seen_attempt, seen_status, status, attempt, id, data, usage,
                               error_code, error_message, failures, answer, reasoning, tool_calls,
                               finish_reason, opaque, claim_id)
                    WHERE t.id = l.task_id AND t.attempt = l.seen_attempt AND t.status = l.seen_status
                      AND (l.claim_id IS NULL OR t.claim_id = l.claim_id)
                    RETURNING t.id, t.message_id, t.created_at, t.attempt, t.status, t.error_code, t.usage,
                              l.seen_attempt, l.answer, l.reasoning, l.tool_calls, l.finish_reason,
                              l.opaque
                ), said AS (
                    UPDATE messages m
                    SET answer = ended.answer, reasoning = ended.reasoning,
                        tool_calls = ended.tool_calls, finish_reason = ended.finish_reason,
                        opaque = ended.opaque::json
                    FROM ended WHERE m.id = ended.message_id
                ), counted AS (
                    UPDATE attempts a
                    SET ended_at = now(), error_code = ended.error_code, usage = ended.usage,
                        usage_source = CASE WHEN ended.usage IS NOT NULL THEN 'reported' END,
                        -- Who ends a task without owning its attempt takes the next number.
                        outcome = CASE WHEN ended.attempt > ended.seen_attempt THEN 'lost'
                                  ELSE ended.status END
                    FROM ended
                    WHERE a.task_id = ended.id AND a.number = ended.seen_attempt
                      AND a.ended_at IS NULL
                )
                SELECT id, extract(epoch FROM now() - created_at)::float8 AS "took!" FROM ended
                "#,
                &each(&ends, |end| end.task.0),
                &each(&ends, |end| i64::from(end.seen.attempt)),
                &each(&ends, |end| end.seen.status.as_str()) as _,
                &each(&ends, |end| end.last.status.as_str()) as _,
                &each(&ends, |end| i64::from(end.last.id.attempt)),
                &each(&ends, |end| end.last.id.to_string()),
                &each(&ends, |end| end.last.data.as_str()) as _,
                &each(&ends, |end| end.last.usage.map(Json)) as _,
                &each(&ends, |end| end.last.error.as_ref().map(|e| e.code.as_str())) as _,
                &each(&ends, |end| end.last.error.as_ref().map(|e| e.message.as_str())) as _,
                &each(&ends, |end| end.last.failures.map(|n| i32::try_from(n).unwrap_or(i32::MAX))) as _,
                &each(&ends, |end| end.last.answer.text.as_str()) as _,
                &each(&ends, |end| end.reasoning()) as _,
                &each(&ends, |end| end.tool_calls()) as _,
                &each(&ends, |end| end.last.finish_reason.as_deref()) as _,
                &each(&ends, |end| end.opaque()) as _,
                &each(&ends, |end| end.seen.claim.map(|claim| claim.0)) as _,
            )
            .fetch_all(&mut line.connection)
            .await?;
            let took: HashMap<_, _> = rows.into_iter().map(|row| (row.id, row.took)).collect();
            let mut outcomes = Vec::with_capacity(questions.len());
            for end in questions {
                outcomes.push(Ok(match took.get(&end.task.0) {
                    Some(took) => EndOutcome::Committed(Duration::try_from_secs_f64(*took).ok()),
                    None if ended_before(&mut line.connection, end).await? => {
                        EndOutcome::Committed(None)
                    }
                    None => EndOutcome::Refused,
                }));
            }
            line.keep();
            Ok(outcomes)
        })
        .await
    }
}

/// An earlier try of ours has committed this end. A statement of its own: it
/// sees what was committed while ours ran. The answer counts: two who end a task
/// that is nobody's choose the same ID and data, and may know different texts.
async fn ended_before(connection: &mut PgConnection, end: &Change) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM tasks t JOIN messages m ON m.id = t.message_id
               WHERE t.id = $1 AND t.final_id = $2 AND t.final_data = $3
                 AND m.answer = $4 AND m.reasoning IS NOT DISTINCT FROM $5
                 AND m.tool_calls IS NOT DISTINCT FROM $6
                 AND m.opaque::text IS NOT DISTINCT FROM $7
           ) AS "ours!""#,
        end.task.0,
        end.last.id.to_string(),
        end.last.data,
        end.last.answer.text,
        end.reasoning(),
        end.tool_calls() as _,
        end.opaque(),
    )
    .fetch_one(connection)
    .await?)
}
