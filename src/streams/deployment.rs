//! Whose Redis this is: each connection is compared before it is used.
//!
//! PostgreSQL gives a deployment its ID, and the prefix in Redis keeps a copy.
//! Behind one address there may be another Redis tomorrow: one that is empty is
//! adopted, one that has another deployment's ID is not used, as its jobs and
//! streams name rows of another database. Until the ID is known, nothing
//! connects: without PostgreSQL there is nothing to do.

use std::sync::Arc;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value, cmd};
use tokio::sync::watch;
use uuid::Uuid;

use super::{Streams, wrong_server};
use crate::config::Finding;
use crate::log_limit::LogLimit;

/// Who may use a connection.
#[derive(Debug, Clone)]
pub(super) struct Deployment {
    key: String,
    /// Nobody is compared with; nothing is written.
    observes: bool,
    id: Arc<watch::Sender<Option<Uuid>>>,
    /// A connection turned out to lead to the wrong server: others may, too.
    suspicion: Arc<watch::Sender<()>>,
}

/// What the prefix has.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owner {
    Us,
    /// Another deployment, by its ID.
    Other(String),
    /// It can't be told: the commands are refused, or nothing can be written.
    Untold,
}

/// Errors of a server that will answer before long.
const FOR_NOW: [&str; 2] = ["BUSY", "TRYAGAIN"];

impl Deployment {
    /// `key` holds the ID.
    pub(super) fn new(key: String, observes: bool) -> Self {
        Self { key, observes, id: Arc::default(), suspicion: Arc::default() }
    }

    /// A command that tells whether the server takes writes, and changes nothing.
    pub(super) fn probe(&self) -> Cmd {
        match *self.id.borrow() {
            Some(id) if !self.observes => self.claim(id),
            _ => cmd("PING"),
        }
    }

    /// Makes a prefix that is nobody's ours.
    fn claim(&self, id: Uuid) -> Cmd {
        cmd("SET").arg(&self.key).arg(id.to_string()).arg("NX").clone()
    }

    /// All connections are to be tried.
    pub(super) fn suspect(&self) {
        self.suspicion.send_replace(());
    }

    /// Changes each time that all connections are to be tried.
    pub(super) fn suspicion(&self) -> watch::Receiver<()> {
        self.suspicion.subscribe()
    }

    /// Waits until it is known whose Redis a connection should lead to.
    pub(super) async fn known(&self) -> Option<Uuid> {
        if self.observes {
            return None;
        }
        let mut id = self.id.subscribe();
        id.wait_for(Option::is_some).await.ok().and_then(|id| *id)
    }

    /// False: the connection leads to another deployment's Redis.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(super) async fn admits(
        &self,
        connection: &mut MultiplexedConnection,
        id: Option<Uuid>,
    ) -> RedisResult<bool> {
        static OTHER: LogLimit = LogLimit::new();
        let Some(id) = id else { return Ok(true) };
        match self.owner(connection, id).await? {
            Owner::Us | Owner::Untold => Ok(true),
            Owner::Other(other) => {
                if let Some(skipped) = OTHER.pass() {
                    tracing::error!(skipped, "{}", refusal(&self.key, &other, id));
                }
                Ok(false)
            }
        }
    }

    /// What a connection to another deployment's Redis fails with.
    pub(super) fn refused() -> RedisError {
        let kind = ErrorKind::Server(ServerErrorKind::ResponseError);
        (kind, "it is another deployment's Redis").into()
    }

    /// Whose the prefix is; nobody's becomes ours.
    async fn owner(&self, connection: &mut MultiplexedConnection, id: Uuid) -> RedisResult<Owner> {
        let mine = id.to_string();
        let mut commands = Pipeline::with_capacity(2);
        if !self.observes {
            commands.add_command(self.claim(id));
        }
        commands.cmd("GET").arg(&self.key);
        let count = commands.len();
        let answers = connection.req_packed_commands(&commands, 0, count).await?;
        // It will be another server before long, or this one as it should be.
        if let Some(Value::ServerError(error)) =
            answers.iter().find(|answer| wrong_server::is_told_by(answer))
        {
            return Err(error.clone().into());
        }
        match answers.into_iter().next_back() {
            Some(Value::BulkString(owner)) if owner == mine.as_bytes() => Ok(Owner::Us),
            Some(Value::BulkString(owner)) => {
                Ok(Owner::Other(String::from_utf8_lossy(&owner).chars().take(64).collect()))
            }
            // Whose it is must be known before it is used. Other refusals last: an ACL's,
            // a cluster's, which the checks at start judge.
            Some(Value::ServerError(error)) if FOR_NOW.contains(&error.code()) => Err(error.into()),
            _ => Ok(Owner::Untold),
        }
    }
}

fn refusal(key: &str, other: &str, id: Uuid) -> String {
    format!(
        "Redis' key {key} names another deployment, {other:?}, and PostgreSQL's database is {id}: its \
         jobs and streams are another database's, so that it is not used. Does REDIS_URL lead to the \
         right Redis, and DATABASE_URL to the right database? Give each deployment a --redis-prefix of \
         its own; if the database was replaced and the other is gone for good, DEL {key}"
    )
}

impl Streams {
    /// From now on, connections are made, to the Redis of this deployment.
    pub fn belongs_to(&self, deployment: Uuid) {
        self.inner.deployment.id.send_replace(Some(deployment));
    }

    /// What is wrong with the Redis that there is, if it is another deployment's.
    /// Nobody's is adopted, but by whoever only observes.
    ///
    /// # Errors
    /// When Redis can't be reached.
    pub async fn check_deployment(&self, id: Uuid) -> super::Result<Option<Finding>> {
        let mut connection = self.connect_once(super::PATIENCE).await?;
        let Deployment { key, .. } = &self.inner.deployment;
        Ok(match self.inner.deployment.owner(&mut connection, id).await? {
            Owner::Other(other) => Some(Finding::breaking(refusal(key, &other, id))),
            Owner::Us | Owner::Untold => None,
        })
    }
}
