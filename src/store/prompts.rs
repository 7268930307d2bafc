//! Prompts: what of a conversation a model is told. Bounded in messages and in bytes.
//!
//! Sizes are added up along the path by PostgreSQL, which stops at what doesn't fit: a
//! conversation of any size costs it no more than a prompt of the largest size. Small
//! prompts share a statement. One that is larger is only told to be, and read by a
//! statement of its own, so that nobody waits for another's.

use serde_json::value::RawValue;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::line::Line;
use super::together::{Statement, weight_of};
use super::{Error, Result, Store, bounded};
use crate::domain::answer::ToolCall;
use crate::domain::message::{AssistantTurn, ToolResult, Turn};
use crate::domain::opaque::OpaqueData;
use crate::domain::{ConversationId, MessageId};

/// Messages that a prompt goes back at most. Models refuse prompts long before;
/// this bounds our own memory.
const MESSAGES: i32 = 2_000;
/// Bytes of a small prompt. 64 of them share a statement, at most.
pub const SMALL_PROMPT: usize = 64 * 1024;
/// Large prompts that are read at the same time, each over a connection of the pool.
pub(super) const LARGE_AT_ONCE: usize = 2;

/// What a model is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Oldest first. Calls and results don't have to match:
    /// [`crate::domain::prompt::tidy`] sees to that.
    pub turns: Vec<Turn>,
    /// As PostgreSQL counts: contents, answers, calls, data and instructions.
    pub bytes: usize,
    /// The oldest message in it, where older ones are left out.
    pub begins_with: Option<MessageId>,
}

impl Store {
    /// What the model is told before it answers with message `before`: the
    /// instructions, then the messages on the path from the root to it, the newest
    /// 2,000 at most. Of answers, what was said is told, and the tool calls of those
    /// that are complete; answers that say nothing (yet) are left out. One statement
    /// for all that ask while the one before it is under way.
    ///
    /// Nothing where it is larger than [`SMALL_PROMPT`]; see [`Store::large_prompt`].
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn small_prompt(
        &self,
        conversation: ConversationId,
        before: MessageId,
    ) -> Result<Option<Prompt>> {
        self.prompts.ask((conversation, before)).await
    }

    /// As [`Store::small_prompt`], of as many whole exchanges as `budget` bytes hold,
    /// the newest. An exchange is a user's message and all that follows it up to the
    /// next: answers, calls, their results. Nothing where the instructions and the
    /// newest exchange alone are larger.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn large_prompt(
        &self,
        conversation: ConversationId,
        before: MessageId,
        budget: usize,
    ) -> Result<Option<Prompt>> {
        // Waiting for others' turns is not the statement's time.
        let _turn = self.large_prompts.acquire().await.ok();
        bounded("large_prompt", async {
            let mut connection = self.pool.acquire().await?;
            let asked = [(conversation, before)];
            let rows = read(&mut connection, &asked, budget, false).await?;
            cut(rows)
        })
        .await
    }
}

/// Reads small prompts.
#[derive(Debug, Clone)]
pub(super) struct SmallPrompts(pub(super) Line);

impl Statement for SmallPrompts {
    type Question = (ConversationId, MessageId);
    type Answer = Option<Prompt>;

    fn weight(_: &Self::Question) -> usize {
        weight_of(0)
    }

    async fn run(&self, questions: &[Self::Question]) -> Result<Vec<Result<Self::Answer>>> {
        let rows = bounded("turns", async {
            let mut line = self.0.hold().await?;
            let rows = read(&mut line.connection, questions, SMALL_PROMPT, true).await?;
            line.keep();
            Ok(rows)
        })
        .await?;
        let mut rows = rows.into_iter().peekable();
        let prompt = |number| {
            let mine: Vec<_> =
                std::iter::from_fn(|| rows.next_if(|row| row.number == number)).collect();
            match mine.last() {
                Some(place) if place.oversized => Ok(None),
                _ => cut(mine),
            }
        };
        Ok((1..).take(questions.len()).map(prompt).collect())
    }
}

/// The rows of each prompt, oldest first: the instructions, the messages that fit, and
/// the place that is to be filled. `whole`: of a prompt that doesn't fit, the place alone.
async fn read(
    connection: &mut PgConnection,
    asked: &[(ConversationId, MessageId)],
    budget: usize,
    whole: bool,
) -> Result<Vec<TurnRow>> {
    let conversations: Vec<Uuid> = asked.iter().map(|(conversation, _)| conversation.0).collect();
    let messages: Vec<Uuid> = asked.iter().map(|(_, message)| message.0).collect();
    Ok(sqlx::query_as!(
        TurnRow,
        r#"
        SELECT asked.number AS "number!", turn.id, turn.parent_id, turn.bytes AS "bytes!",
               turn.oversized AS "oversized!", turn.role AS "role!",
               turn.content AS "content: Json<Box<RawValue>>", turn.said,
               turn.tool_calls AS "tool_calls: Json<Vec<ToolCall>>",
               turn.reasoning, turn.opaque AS "opaque: Json<Vec<OpaqueData>>", turn.model
        FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY
             AS asked (conversation_id, message_id, number)
        CROSS JOIN LATERAL (
            -- The rows go along the path: looking them up again costs half as much again.
            WITH RECURSIVE path AS (
                SELECT 0 AS depth, coalesce(octet_length(c.instructions), 0)::bigint AS bytes,
                       m.id, m.parent_id, 'place' AS role, NULL::json AS content, NULL AS answer,
                       NULL::jsonb AS tool_calls, NULL::json AS opaque, NULL AS reasoning
                FROM messages m JOIN conversations c ON c.id = m.conversation_id
                WHERE m.id = asked.message_id AND m.conversation_id = asked.conversation_id
                UNION ALL
                SELECT path.depth + 1,
                       path.bytes + coalesce(octet_length(m.content::text), 0)
                           + coalesce(octet_length(m.answer), 0)
                           + CASE WHEN m.tool_calls IS NULL THEN 0
                             ELSE octet_length(m.tool_calls::text)
                                 + coalesce(octet_length(m.reasoning), 0) END
                           + coalesce(octet_length(m.opaque::text), 0),
                       m.id, m.parent_id, m.role, m.content, m.answer, m.tool_calls, m.opaque,
                       CASE WHEN m.tool_calls IS NOT NULL THEN m.reasoning END
                FROM path JOIN messages m ON m.id = path.parent_id
                WHERE path.depth < $3 AND path.bytes <= $4
            ), fit AS (
                SELECT coalesce(max(path.bytes), 0) > $4 AS oversized FROM path
            )
            SELECT $3 + 1 AS depth, 0::bigint AS bytes, NULL::uuid AS id, NULL::uuid AS parent_id,
                   false AS oversized, 'system' AS role, NULL::json AS content,
                   c.instructions AS said, NULL::jsonb AS tool_calls, NULL AS reasoning,
                   NULL::json AS opaque, NULL AS model
            FROM conversations c, fit
            WHERE c.id = asked.conversation_id AND c.instructions <> ''
              AND NOT ($5 AND fit.oversized) AND octet_length(c.instructions) <= $4
            UNION ALL
            SELECT path.depth, path.bytes, path.id, path.parent_id, fit.oversized, path.role,
                   path.content, path.answer, path.tool_calls, path.reasoning, path.opaque,
                   -- Of a complete answer.
                   CASE WHEN path.tool_calls IS NOT NULL OR path.opaque IS NOT NULL THEN (
                       SELECT t.model FROM tasks t
                       WHERE t.message_id = path.id AND t.status = 'done'
                   ) END
            FROM path, fit
            WHERE path.depth = 0 OR (path.bytes <= $4 AND NOT ($5 AND fit.oversized))
        ) turn
        ORDER BY asked.number, turn.depth DESC
        "#,
        &conversations,
        &messages,
        MESSAGES,
        i64::try_from(budget).unwrap_or(i64::MAX),
        whole,
    )
    .fetch_all(connection)
    .await?)
}

struct TurnRow {
    number: i64,
    id: Option<Uuid>,
    parent_id: Option<Uuid>,
    /// Of this message and all after it, and of the instructions.
    bytes: i64,
    /// There is more than fits.
    oversized: bool,
    role: String,
    content: Option<Json<Box<RawValue>>>,
    said: Option<String>,
    tool_calls: Option<Json<Vec<ToolCall>>>,
    reasoning: Option<String>,
    opaque: Option<Json<Vec<OpaqueData>>>,
    model: Option<String>,
}

/// A prompt's rows from the oldest whole exchange on; nothing if there is none.
fn cut(mut rows: Vec<TurnRow>) -> Result<Option<Prompt>> {
    let instructions = rows.first().is_some_and(|row| row.role == "system");
    let oldest = rows.get(usize::from(instructions));
    let mut begins_with = None;
    if oldest.is_some_and(|row| row.parent_id.is_some()) {
        let Some(first) = rows.iter().position(|row| row.role == "user") else { return Ok(None) };
        rows.drain(usize::from(instructions)..first);
        begins_with = rows.iter().find_map(|row| row.id).map(MessageId);
    }
    let bytes = rows.get(usize::from(instructions)).map_or(0, |row| row.bytes);
    let bytes = usize::try_from(bytes).unwrap_or(0);
    Ok(Some(Prompt { turns: turns(rows)?, bytes, begins_with }))
}

fn turns(rows: Vec<TurnRow>) -> Result<Vec<Turn>> {
    let mut turns = Vec::with_capacity(rows.len());
    for row in rows {
        let said = row.said.unwrap_or_default();
        match (row.role.as_str(), row.content) {
            ("place", _) => {}
            ("system", _) => turns.push(Turn::System(said)),
            ("user", Some(content)) => turns.push(Turn::User(from_json(&content)?)),
            ("tool", Some(results)) => {
                let results = from_json::<Vec<ToolResult>>(&results)?;
                turns.extend(results.into_iter().map(Turn::Tool));
            }
            // Calls and data of a complete answer only.
            ("assistant", _) if row.model.is_none() => {
                if !said.is_empty() {
                    turns.push(Turn::Assistant(said.into()));
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

fn from_json<T: serde::de::DeserializeOwned>(json: &RawValue) -> Result<T> {
    serde_json::from_str(json.get()).map_err(|error| Error::Corrupt(error.to_string()))
}
