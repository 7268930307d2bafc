//! Connections for reads that block: a bb8 pool of their own.
//!
//! A blocking command holds up everything behind it on its connection, and
//! redis-rs' default response timeout (500 ms) is shorter than a block. And a
//! read that failed or was dropped leaves its command running at the server,
//! so such a connection must not be used again: bb8-redis' own manager can't
//! tell, this one can.

use std::io;
use std::time::Duration;

use bb8_redis::bb8::{ManageConnection, Pool};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, Cmd, RedisError, Value};

use super::deployment::Deployment;
use super::health::Trouble;
use super::link::CONNECT_LIMIT;
use super::{Error, Result, wrong_server};

/// How much longer than its BLOCK a read may take.
const GRACE: Duration = Duration::from_secs(5);

/// A connection that is used by one read at a time.
#[derive(Debug)]
pub(super) struct BlockingConnection {
    connection: MultiplexedConnection,
    busy: bool,
    deployment: Deployment,
}

impl BlockingConnection {
    /// Sends a command that may block for `block`.
    pub(super) async fn read(&mut self, command: &Cmd, block: Duration) -> Result<Value> {
        // Stays set if this future is dropped, or fails.
        self.busy = true;
        let answer =
            tokio::time::timeout(block + GRACE, self.connection.req_packed_command(command))
                .await
                .map_err(|_| Error::Disconnected)?;
        let wrong = wrong_server::is_outcome(&answer);
        if wrong {
            self.deployment.suspect();
        }
        let broken =
            matches!(&answer, Err(error) if error.is_unrecoverable_error() || error.is_timeout());
        self.busy = wrong || broken;
        answer.map_err(Error::from)
    }
}

/// Makes [`BlockingConnection`]s for bb8.
#[derive(Debug)]
pub(super) struct Manager {
    client: Client,
    deployment: Deployment,
}

impl ManageConnection for Manager {
    type Connection = BlockingConnection;
    type Error = RedisError;

    async fn connect(&self) -> std::result::Result<Self::Connection, Self::Error> {
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(Some(CONNECT_LIMIT));
        let id = self.deployment.known().await;
        let mut connection =
            self.client.get_multiplexed_async_connection_with_config(&config).await?;
        // Nothing else bounds how long a reply may take here.
        let admits = self.deployment.admits(&mut connection, id);
        match tokio::time::timeout(CONNECT_LIMIT, admits).await {
            Ok(Ok(true)) => Ok(BlockingConnection {
                connection,
                busy: false,
                deployment: self.deployment.clone(),
            }),
            Ok(Err(error)) => Err(error),
            Ok(Ok(false)) => Err(Deployment::refused()),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    /// Not asked: the pool tests nothing on check-out, since a read says it as well.
    async fn is_valid(&self, _: &mut Self::Connection) -> std::result::Result<(), Self::Error> {
        Ok(())
    }

    fn has_broken(&self, connection: &mut Self::Connection) -> bool {
        connection.busy
    }
}

/// The pool, which opens connections as they are needed.
#[derive(Debug, Clone)]
pub(super) struct BlockingPool {
    pool: Pool<Manager>,
    trouble: Trouble,
}

impl BlockingPool {
    /// A pool of at most `size` connections.
    pub(super) fn new(client: Client, deployment: Deployment, trouble: Trouble, size: u32) -> Self {
        let pool = Pool::builder()
            .max_size(size)
            .test_on_check_out(false)
            .connection_timeout(CONNECT_LIMIT)
            .idle_timeout(Some(Duration::from_secs(60)))
            .build_unchecked(Manager { client, deployment });
        Self { pool, trouble }
    }

    /// One read on a connection of the pool.
    pub(super) async fn read(&self, command: &Cmd, block: Duration) -> Result<Value> {
        let answer = self.try_read(command, block).await;
        match &answer {
            Ok(Value::ServerError(error)) if error.code() != "NOGROUP" => {
                self.trouble.refused(&RedisError::from(error.clone()).to_string());
            }
            Err(Error::Redis(error)) => self.trouble.is(error),
            Err(_) => self.trouble.is(&io::Error::from(io::ErrorKind::TimedOut).into()),
            Ok(_) => self.trouble.is_over(),
        }
        answer
    }

    async fn try_read(&self, command: &Cmd, block: Duration) -> Result<Value> {
        let mut connection = self.pool.get().await.map_err(|error| match error {
            bb8_redis::bb8::RunError::User(error) => Error::from(error),
            bb8_redis::bb8::RunError::TimedOut => Error::Disconnected,
        })?;
        connection.read(command, block).await
    }
}
