//! What the servers count: Redis' commands, PostgreSQL's statements.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use redis::aio::MultiplexedConnection;
use sqlx::{Connection, PgConnection};

/// Commands so far, by name.
pub(crate) type Commands = BTreeMap<String, u64>;

/// Redis, from outside. Its own commands aren't counted.
pub(crate) struct RedisCounters(MultiplexedConnection);

impl RedisCounters {
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        Ok(Self(redis::Client::open(url)?.get_multiplexed_async_connection().await?))
    }

    pub(crate) async fn pid(&mut self) -> Result<i32> {
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut self.0).await?;
        let pid = info.lines().find_map(|line| line.strip_prefix("process_id:"));
        Ok(pid.context("INFO names no process")?.trim().parse()?)
    }

    pub(crate) async fn commands(&mut self) -> Result<Commands> {
        let info: String = redis::cmd("INFO").arg("commandstats").query_async(&mut self.0).await?;
        let commands = info.lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            let calls = rest.split(',').next()?.parse().ok()?;
            (name != "info").then(|| (name.to_owned(), calls))
        });
        Ok(commands.collect())
    }

    /// Bytes that Redis' data takes.
    pub(crate) async fn memory(&mut self) -> Result<u64> {
        let info: String = redis::cmd("INFO").arg("memory").query_async(&mut self.0).await?;
        let bytes = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        Ok(bytes.context("INFO names no memory")?.trim().parse()?)
    }
}

/// What was counted since `before`.
pub(crate) fn commands_since(now: Commands, before: &Commands) -> Commands {
    let since = |(name, calls): (String, u64)| {
        let calls = calls - before.get(&name).copied().unwrap_or_default();
        (calls > 0).then_some((name, calls))
    };
    now.into_iter().filter_map(since).collect()
}

/// PostgreSQL, from outside.
pub(crate) struct PostgresCounters(PgConnection);

impl PostgresCounters {
    /// Connects to a database, as a superuser.
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let mut connection = PgConnection::connect(url).await?;
        // Comes with PostgreSQL, and is preloaded by scripts/with-services.
        let make = "CREATE EXTENSION IF NOT EXISTS pg_stat_statements";
        sqlx::query(make).execute(&mut connection).await?;
        Ok(Self(connection))
    }

    /// The process that all others are children of.
    pub(crate) async fn pid(&mut self) -> Result<i32> {
        let file = "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int";
        Ok(sqlx::query_scalar(file).fetch_one(&mut self.0).await?)
    }

    /// Whether it waits for the disk: `fsync`, `synchronous_commit`.
    pub(crate) async fn durable(&mut self) -> Result<bool> {
        let settings = "SELECT current_setting('fsync') = 'on'
                           AND current_setting('synchronous_commit') = 'on'";
        Ok(sqlx::query_scalar(settings).fetch_one(&mut self.0).await?)
    }

    /// Statements in this database so far, `BEGIN` and `COMMIT` included.
    pub(crate) async fn statements(&mut self) -> Result<u64> {
        let count = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements s
                     JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = current_database()";
        let count: i64 = sqlx::query_scalar(count).fetch_one(&mut self.0).await?;
        Ok(u64::try_from(count)?)
    }
}
