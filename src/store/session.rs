//! What a connection to PostgreSQL is set to, and when it is not used again.
//!
//! Settings are made by `SET`, in one round trip after connecting, and not by the
//! startup parameter `options`, which PgBouncer refuses. They hold for as long as
//! the session does: a pooler has to keep a session to one client
//! (`pool_mode = session`), which is checked at start (`checks/pooler.rs`).
//!
//! Behind one address there may be another server since a connection was opened. A
//! session that was opened for writing and can only read any more (its server was
//! demoted, or made read-only) is closed; the next one goes wherever the address
//! leads then. One whose server shuts down (57P0x, 08xxx) breaks by itself. As soon as
//! a statement of the process is refused so, none of its sessions is trusted before it
//! was tried: who was told that a message is accepted must not be told by another
//! session that it is unknown.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{Executor, PgConnection, Row};

use crate::sync::lock;

/// How long a connection may take to say whether it still works.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// A session that is younger, and was opened since a server last turned out to be the
/// wrong one, is kept though it only reads: where the server is read-only, reading
/// goes on, and no more than one session a second is opened in its place.
const YOUNG: Duration = Duration::from_secs(1);

/// What each session is set to. A commit that answered must survive a crash,
/// whatever the server's default is (promise 1).
pub(super) const SETTINGS: &str =
    "SET statement_timeout = 10000; SET synchronous_commit = on; SET jit = off";

/// When a server last turned out to be the wrong one.
static SUSPECTED: Mutex<Option<Instant>> = Mutex::new(None);

/// A server refused a write since it only reads: all sessions are to be tried.
pub(super) fn suspect() {
    *lock(&SUSPECTED) = Some(Instant::now());
}

/// A session that was last tried `ago` may be used for a statement, if it is less
/// than `trusted`.
pub(super) fn is_trusted(ago: Duration, trusted: Duration) -> bool {
    let suspected = lock(&SUSPECTED).map(|at| at.elapsed());
    ago <= trusted && suspected.is_none_or(|suspected| ago < suspected)
}

/// What is sent at connecting: nothing that a pooler doesn't know.
pub(super) fn ours(connect: PgConnectOptions) -> PgConnectOptions {
    connect.application_name("rill").extra_float_digits(None)
}

/// Sets up a session that was just opened.
///
/// # Errors
/// When a setting is refused, or the connection breaks.
pub(super) async fn begin(connection: &mut PgConnection, settings: &str) -> sqlx::Result<()> {
    connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(settings))).await?;
    Ok(())
}

/// The session works, and is to be used on.
///
/// # Errors
/// When it has broken. (A statement that was given up leaves a connection that may
/// be dead; a pool would wait for its answer as long as TCP does, and count it as
/// taken.)
pub(super) async fn is_kept(connection: &mut PgConnection, age: Duration) -> sqlx::Result<bool> {
    let read_only = connection.fetch_one(sqlx::raw_sql("SHOW transaction_read_only"));
    let read_only: String = match tokio::time::timeout(ANSWER_LIMIT, read_only).await {
        Ok(answer) => answer?.try_get(0)?,
        Err(_) => return Err(sqlx::Error::PoolTimedOut),
    };
    if read_only != "on" {
        return Ok(true);
    }
    // Opened since it is known that the address leads to a server that only reads.
    let kept = is_trusted(age, YOUNG);
    if !kept {
        suspect();
    }
    Ok(kept)
}
