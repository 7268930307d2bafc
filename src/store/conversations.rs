//! Conversations: titles and instructions, and who may see them.

use time::OffsetDateTime;

use super::{PAGE_BYTES, Result, Store, bounded};
use crate::domain::{AccountId, ConversationId, TaskId};

/// A conversation as shown to its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Which.
    pub id: ConversationId,
    /// What it is about.
    pub title: Option<String>,
    /// Standing instructions: the prompt's system message.
    pub instructions: Option<String>,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// When it was last changed, or last spoken in.
    pub updated_at: OffsetDateTime,
}

/// A page of conversations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationPage {
    /// Newest first; one at least, if there is one.
    pub items: Vec<Conversation>,
    /// Others follow.
    pub more: bool,
}

/// What to change. The outer `None` leaves the value as it is, the inner one
/// removes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConversationChange {
    /// The new title.
    pub title: Option<Option<String>>,
    /// The new instructions. Answers already begun keep the old ones.
    pub instructions: Option<Option<String>>,
}

struct ConversationRow {
    id: uuid::Uuid,
    title: Option<String>,
    instructions: Option<String>,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
}

impl From<ConversationRow> for Conversation {
    fn from(row: ConversationRow) -> Self {
        Self {
            id: ConversationId(row.id),
            title: row.title,
            instructions: row.instructions,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

impl Store {
    /// Starts a conversation.
    ///
    /// # Errors
    /// When the outcome is unknown; repeating may leave an empty one behind.
    pub async fn create_conversation(
        &self,
        account: AccountId,
        title: Option<&str>,
        instructions: Option<&str>,
    ) -> Result<Conversation> {
        bounded("create_conversation", async {
            Ok(sqlx::query_as!(
                ConversationRow,
                r#"
                INSERT INTO conversations (id, account_id, title, instructions)
                VALUES ($2, $1, $3, $4)
                RETURNING id, title, instructions, created_at, updated_at
                "#,
                account.0,
                ConversationId::generate().0,
                title,
                instructions,
            )
            .fetch_one(&self.pool)
            .await?
            .into())
        })
        .await
    }

    /// The account's conversations, newest first, those created before `before`, as
    /// many as `limit` and a mebibyte allow.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn conversations(
        &self,
        account: AccountId,
        before: Option<ConversationId>,
        limit: i64,
    ) -> Result<ConversationPage> {
        let _turn = self.list_turn().await?;
        bounded("conversations", async {
            let rows = sqlx::query!(
                r#"
                SELECT id AS "id!", title, instructions, created_at AS "created_at!",
                       updated_at AS "updated_at!", candidates AS "candidates!"
                FROM (
                    SELECT *, row_number() OVER up_to AS number, sum(size) OVER up_to AS bytes,
                           count(*) OVER () AS candidates
                    FROM (
                        SELECT id, title, instructions, created_at, updated_at,
                               coalesce(octet_length(title), 0)
                                   + coalesce(octet_length(instructions), 0) AS size
                        FROM conversations
                        WHERE account_id = $1 AND deleted_at IS NULL AND ($2::uuid IS NULL OR id < $2)
                        ORDER BY id DESC
                        LIMIT $3::bigint + 1
                    ) candidate
                    WINDOW up_to AS (ORDER BY id DESC)
                ) counted
                WHERE number = 1 OR (number <= $3 AND bytes <= $4)
                ORDER BY id DESC
                "#,
                account.0,
                before.map(|id| id.0),
                limit,
                PAGE_BYTES,
            )
            .fetch_all(&self.pool)
            .await?;
            let more = rows.first().map_or(0, |row| row.candidates) > rows.len() as i64;
            let items = rows.into_iter().map(|row| Conversation {
                id: ConversationId(row.id),
                title: row.title,
                instructions: row.instructions,
                created_at: row.created_at,
                updated_at: row.updated_at,
            });
            Ok(ConversationPage { items: items.collect(), more })
        })
        .await
    }

    /// One conversation of the account.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn conversation(
        &self,
        account: AccountId,
        conversation: ConversationId,
    ) -> Result<Option<Conversation>> {
        bounded("conversation", async {
            Ok(sqlx::query_as!(
                ConversationRow,
                r#"
                SELECT id, title, instructions, created_at, updated_at
                FROM conversations
                WHERE id = $2 AND account_id = $1 AND deleted_at IS NULL
                "#,
                account.0,
                conversation.0,
            )
            .fetch_optional(&self.pool)
            .await?
            .map(Conversation::from))
        })
        .await
    }

    /// Changes a conversation; answers with it as it is then.
    ///
    /// # Errors
    /// When the outcome is unknown; repeating is safe.
    pub async fn update_conversation(
        &self,
        account: AccountId,
        conversation: ConversationId,
        change: &ConversationChange,
    ) -> Result<Option<Conversation>> {
        bounded("update_conversation", async {
            Ok(sqlx::query_as!(
                ConversationRow,
                r#"
                UPDATE conversations
                SET title = CASE WHEN $3 THEN $4 ELSE title END,
                    instructions = CASE WHEN $5 THEN $6 ELSE instructions END,
                    updated_at = CASE WHEN $3 OR $5 THEN now() ELSE updated_at END
                WHERE id = $2 AND account_id = $1 AND deleted_at IS NULL
                RETURNING id, title, instructions, created_at, updated_at
                "#,
                account.0,
                conversation.0,
                change.title.is_some(),
                change.title.clone().flatten(),
                change.instructions.is_some(),
                change.instructions.clone().flatten(),
            )
            .fetch_optional(&self.pool)
            .await?
            .map(Conversation::from))
        })
        .await
    }

    /// Hides a conversation for good and asks its tasks to stop; answers with
    /// those, or with `None` when there is no such conversation. The rows are
    /// removed later, by [`Store::tidy`], when nothing writes to them any more.
    ///
    /// A message that is being accepted at the same moment may miss the
    /// request to stop: its answer is then generated and never shown.
    ///
    /// # Errors
    /// When the outcome is unknown. Repeating is safe: it finds nothing when
    /// the first try was committed.
    pub async fn delete_conversation(
        &self,
        account: AccountId,
        conversation: ConversationId,
    ) -> Result<Option<Vec<TaskId>>> {
        bounded("delete_conversation", async {
            let stopped = sqlx::query_scalar!(
                r#"
                WITH hidden AS (
                    UPDATE conversations SET deleted_at = now()
                    WHERE id = $2 AND account_id = $1 AND deleted_at IS NULL
                    RETURNING id
                ), stopped AS (
                    UPDATE tasks t SET cancel_requested_at = coalesce(t.cancel_requested_at, now())
                    FROM hidden
                    WHERE t.conversation_id = hidden.id AND t.status IN ('queued', 'running')
                    RETURNING t.id
                )
                SELECT ARRAY(SELECT id FROM stopped) AS "tasks!" FROM hidden
                "#,
                account.0,
                conversation.0,
            )
            .fetch_optional(&self.pool)
            .await?;
            Ok(stopped.map(|tasks| tasks.into_iter().map(TaskId).collect()))
        })
        .await
    }
}
