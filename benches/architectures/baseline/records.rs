//! What both baselines keep in PostgreSQL: conversations, messages, tasks. Each
//! function is one statement, which sqlx prepares once a connection.

use std::time::Duration;

use anyhow::Result;
use rill::domain::message::{Content, Turn};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use uuid::Uuid;

use super::Job;

/// Where they are. Clones share one pool.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    pub(super) pool: PgPool,
}

impl Records {
    /// At most so many connections, opened as they are needed. `relaxed`: commits
    /// don't wait for the disk, except where a statement says so itself.
    pub(super) fn connect(url: &str, connections: u32, relaxed: bool) -> Result<Self> {
        let commit = if relaxed { "off" } else { "on" };
        let connect: PgConnectOptions = url.parse()?;
        let connect = connect.options([("synchronous_commit", commit), ("jit", "off")]);
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            // Under overload it shall be slow, which is measured, and not fail.
            .acquire_timeout(Duration::from_secs(60))
            .test_before_acquire(false)
            .connect_lazy_with(connect);
        Ok(Self { pool })
    }

    pub(super) async fn create_conversation(&self) -> Result<Uuid> {
        let id = Uuid::now_v7();
        let insert = "INSERT INTO conversations (id) VALUES ($1)";
        sqlx::query(insert).bind(id).execute(&self.pool).await?;
        Ok(id)
    }

    /// Message, place for the answer, and task; nothing without the conversation.
    pub(super) async fn accept(&self, conversation: Uuid, content: &str) -> Result<Option<Job>> {
        let accepted = sqlx::query_as(
            "WITH said AS (
                 INSERT INTO messages (id, conversation_id, role, content)
                 SELECT $1, id, 'user', $2 FROM conversations WHERE id = $3
                 RETURNING conversation_id),
             place AS (
                 INSERT INTO messages (id, conversation_id, role)
                 SELECT $4, conversation_id, 'assistant' FROM said
                 RETURNING id, conversation_id)
             INSERT INTO tasks (id, conversation_id, message_id)
             SELECT $5, conversation_id, id FROM place
             RETURNING id, conversation_id, message_id",
        );
        let accepted = accepted
            .bind(Uuid::now_v7())
            .bind(content)
            .bind(conversation)
            .bind(Uuid::now_v7())
            .bind(Uuid::now_v7());
        Ok(accepted.fetch_optional(&self.pool).await?)
    }

    pub(super) async fn knows(&self, task: Uuid) -> Result<bool> {
        let known = "SELECT EXISTS (SELECT FROM tasks WHERE id = $1)";
        Ok(sqlx::query_scalar(known).bind(task).fetch_one(&self.pool).await?)
    }

    /// Takes a task that waits; nothing if it doesn't.
    pub(super) async fn begin(&self, task: Uuid) -> Result<Option<Job>> {
        let begin = "UPDATE tasks SET status = 'running' WHERE id = $1 AND status = 'queued'
                     RETURNING id, conversation_id, message_id";
        Ok(sqlx::query_as(begin).bind(task).fetch_optional(&self.pool).await?)
    }

    /// What the model is to be told.
    pub(super) async fn turns(&self, job: &Job) -> Result<Vec<Turn>> {
        let turns: Vec<(String, String)> = sqlx::query_as(
            "SELECT role, content FROM messages
             WHERE conversation_id = $1
               AND position < (SELECT position FROM messages WHERE id = $2)
             ORDER BY position",
        )
        .bind(job.conversation_id)
        .bind(job.message_id)
        .fetch_all(&self.pool)
        .await?;
        let turn = |(role, text): (String, String)| match role.as_str() {
            "user" => Turn::User(Content::Text(text)),
            _ => Turn::Assistant(text.as_str().into()),
        };
        Ok(turns.into_iter().map(turn).collect())
    }

    /// Saves the answer. On the disk when it returns, `relaxed` or not.
    pub(super) async fn end(&self, job: &Job, status: &str, text: &str, why: &str) -> Result<()> {
        sqlx::query(
            "WITH durably AS (SELECT set_config('synchronous_commit', 'on', true)),
             saved AS (
                 UPDATE messages SET content = $2, finish_reason = $3 FROM durably WHERE id = $1)
             UPDATE tasks SET status = $5, finished_at = now() WHERE id = $4",
        )
        .bind(job.message_id)
        .bind(text)
        .bind(why)
        .bind(job.id)
        .bind(status)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
