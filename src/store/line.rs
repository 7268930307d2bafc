//! A connection for statements that follow each other.
//!
//! The pool asks a connection twice, each time that it gets one back, whether it
//! still works: six messages for a statement in place of two. What each task
//! needs goes by lines of its own.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::deployment::Deployment;
use super::{ACQUIRE_LIMIT, CLOSE_LIMIT, Error, Result, TRUST_IDLE, session};

/// A connection is replaced after so long: the server's memory for it grows, and
/// after a switch of servers behind a name, everybody comes round.
const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// What a line's session is set to beside the others' settings. What goes by it
/// finds its rows by their keys, many at a time, and is planned once: were the
/// planner to choose, it would plan each execution anew, since it knows how many
/// keys it has only then; or read a table whole that is still small, and hold on to
/// that plan. A row that somebody holds a lock on must not hold up all that come
/// with it: ours hold one as long as a commit takes.
const SETTINGS: &str = "SET lock_timeout = 500; SET plan_cache_mode = force_generic_plan; \
                        SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";
/// How long to wait after a connection was refused.
const AGAIN: Duration = Duration::from_millis(100);

/// A connection, opened when it is first needed, that one statement uses at a
/// time; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Line {
    options: Arc<PgConnectOptions>,
    deployment: Deployment,
    idle: Arc<Mutex<Option<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    connection: PgConnection,
    opened: Instant,
    /// When it was last known to lead to a server that takes writes. That it has
    /// answered since says nothing: a standby reads.
    tried: Instant,
}

/// The connection, for as long as a statement needs it. Dropped, it is closed:
/// nobody knows what it has still to say. [`Held::keep`] gives it back.
#[derive(Debug)]
pub(super) struct Held<'a> {
    line: MutexGuard<'a, Option<Idle>>,
    pub(super) connection: PgConnection,
    opened: Instant,
    tried: Instant,
}

impl Line {
    pub(super) fn new(options: PgConnectOptions, deployment: Deployment) -> Self {
        Self { options: Arc::new(options), deployment, idle: Arc::default() }
    }

    /// The connection, once nobody else uses it.
    ///
    /// # Errors
    /// When there is none within three seconds.
    pub(super) async fn hold(&self) -> Result<Held<'_>> {
        let mut line = self.idle.lock().await;
        if let Some(idle) = line.take()
            && let Some(Idle { connection, opened, tried }) = idle.trusted().await
        {
            return Ok(Held { line, connection, opened, tried });
        }
        let deadline = Instant::now() + ACQUIRE_LIMIT;
        loop {
            let error = match tokio::time::timeout_at(deadline, self.connect()).await {
                Ok(Ok(connection)) => {
                    let now = Instant::now();
                    return Ok(Held { line, connection, opened: now, tried: now });
                }
                Ok(Err(error)) => Error::from(error),
                Err(_) => Error::Timeout(ACQUIRE_LIMIT),
            };
            // It may be about to come back.
            if !error.is_unavailable() || Instant::now() + AGAIN >= deadline {
                return Err(error);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn connect(&self) -> sqlx::Result<PgConnection> {
        let mut connection = self.options.connect().await?;
        session::begin(&mut connection, &format!("{}; {SETTINGS}", session::SETTINGS)).await?;
        self.deployment.admit(&mut connection).await?;
        Ok(connection)
    }

    /// Closes the connection; the next who needs one opens another.
    pub(super) async fn close(&self) {
        if let Some(idle) = self.idle.lock().await.take() {
            let _ = tokio::time::timeout(CLOSE_LIMIT, idle.connection.close()).await;
        }
    }
}

impl Idle {
    /// Itself, if it works as far as anybody knows.
    async fn trusted(mut self) -> Option<Self> {
        if self.opened.elapsed() > LIFETIME {
            return None;
        }
        if !session::is_trusted(self.tried.elapsed(), TRUST_IDLE) {
            self.tried = Instant::now();
            let kept = session::is_kept(&mut self.connection, self.opened.elapsed()).await;
            if !kept.unwrap_or(false) {
                return None;
            }
        }
        Some(self)
    }
}

impl Held<'_> {
    /// Gives the connection back: it has answered everything.
    pub(super) fn keep(mut self) {
        let Self { connection, opened, tried, .. } = self;
        *self.line = Some(Idle { connection, opened, tried });
    }
}
