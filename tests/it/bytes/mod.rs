//! What a prompt, a page and a reply cost is bounded in bytes, and nobody waits for a
//! stranger's.

mod prompts;
mod replies;
mod responses;

use rill::domain::MessageId;
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{App, Process};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Adds messages to a conversation's end, each of a role and so many bytes; their IDs.
async fn add(pool: &PgPool, conversation: &str, messages: &[(&str, usize)]) -> Vec<MessageId> {
    let ids: Vec<Uuid> = messages.iter().map(|_| Uuid::now_v7()).collect();
    let roles: Vec<_> = messages.iter().map(|(role, _)| (*role).to_owned()).collect();
    let sizes: Vec<_> =
        messages.iter().map(|(_, size)| i32::try_from(*size).expect("small")).collect();
    sqlx::query(
        "WITH place AS (
             SELECT next_position, last_message_id FROM conversations WHERE id = $1::uuid
         ), new AS (
             SELECT *, lag(id, 1, (SELECT last_message_id FROM place)) OVER (ORDER BY n) AS parent
             FROM unnest($2::uuid[], $3::text[], $4::int[]) WITH ORDINALITY AS new (id, role, size, n)
         ), said AS (
             INSERT INTO messages (id, conversation_id, parent_id, position, role, content, answer)
             SELECT id, $1::uuid, parent, next_position + n - 1, role,
                    CASE role WHEN 'user' THEN to_json(left(repeat(md5(n::text), size / 32 + 1), size))
                    WHEN 'tool' THEN json_build_array(json_build_object(
                        'tool_call_id', 'c', 'content', repeat('t', size))) END,
                    CASE role WHEN 'assistant' THEN left(repeat(md5(n::text), size / 32 + 1), size) END
             FROM new, place
         )
         UPDATE conversations SET next_position = next_position + cardinality($2::uuid[]),
                                  last_message_id = ($2::uuid[])[cardinality($2::uuid[])]
         WHERE id = $1::uuid",
    )
    .bind(conversation)
    .bind(&ids)
    .bind(roles)
    .bind(sizes)
    .execute(pool)
    .await
    .expect("inserts");
    ids.into_iter().map(MessageId).collect()
}

/// A conversation of so many exchanges of so many bytes.
async fn conversation_of(app: &App, exchanges: usize, size: usize) -> String {
    let conversation = app.conversation().await;
    let messages = [("user", size), ("assistant", 10)].repeat(exchanges);
    add(&app.pool, &conversation, &messages).await;
    conversation
}

/// A line of `/proc/<pid>/status`, in bytes.
fn memory(process: &Process, line: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()));
    let status = status.expect("/proc (Linux)");
    let line = status.lines().find_map(|found| found.strip_prefix(line)).expect("the line");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok());
    kib.expect("a number") * KIB
}
