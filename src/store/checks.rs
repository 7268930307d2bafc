//! What of PostgreSQL's settings would break or weaken a promise.

use sqlx::postgres::PgSslMode;

use super::{MIGRATOR, Result, Store, bounded};
use crate::config::Finding;

/// What the statements need: `MATERIALIZED`; and the schema: `gen_random_uuid`.
const NEEDED: i32 = 130_000;
/// What is wrong with a schema that was made by other migrations of the same
/// number: 0001 was written anew until the first release, 0.2.0.
pub(super) const OTHER_MIGRATIONS: &str = "PostgreSQL's database was set up by migrations that are not this rill's: it is another program's, or \
     of a rill before 0.2.0, whose data is not taken over. Does DATABASE_URL name the right database? \
     Otherwise begin with an empty database (`make forget` deletes what `make run` has kept)";

/// The oldest that is supported.
const SUPPORTED: i32 = 140_000;

/// PostgreSQL, as far as it matters.
#[derive(Debug, Clone)]
struct Server {
    version: i32,
    encoding: String,
    fsync: bool,
    full_page_writes: bool,
    /// In a session of ours.
    synchronous_commit: String,
    standby: bool,
    read_only: bool,
    /// Servers that replicate from it, and those that a commit waits for.
    standbys: i64,
    synchronous_standbys: String,
    /// Connections that we may still open.
    free: i64,
    max_connections: i64,
}

impl Store {
    /// Looks at PostgreSQL's settings.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn check(&self) -> Result<Vec<Finding>> {
        // First: without a session of one's own, nothing else is reliable.
        if let Some(finding) = self.check_pooler().await? {
            return Ok(vec![finding]);
        }
        // Over the connection that this opens, if others want to know as well; that it
        // can't be told yet is for the schema's check to say.
        let _ = self.deployment().await;
        let mut findings = self.check_server().await?;
        let schema = self.check_schema().await?;
        if !schema.iter().any(|finding| finding.breaks) {
            findings.extend(self.check_deployment().await?);
        }
        findings.extend(schema);
        Ok(findings)
    }

    /// Whether others can read what is sent, or answer in PostgreSQL's place, as far as
    /// the URL tells.
    pub fn check_encryption(&self) -> Option<Finding> {
        let host = self.connect.get_host();
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        let local = self.connect.get_socket().is_some()
            || host.starts_with('/')
            || host == "localhost"
            || address.is_ok_and(|address| address.is_loopback());
        let why = match self.connect.get_ssl_mode() {
            _ if local => return None,
            PgSslMode::VerifyFull | PgSslMode::VerifyCa => return None,
            PgSslMode::Require => "is encrypted, but anybody may answer in its place",
            PgSslMode::Prefer => {
                "is encrypted only if the server offers it, and anybody may answer in its place"
            }
            _ => "is not encrypted",
        };
        Some(Finding::weak(format!(
            "the connection to PostgreSQL at {host} {why}: add ?sslmode=verify-full to DATABASE_URL (and \
             &sslrootcert=FILE for a certificate authority of your own), unless the network is yours alone"
        )))
    }

    async fn check_server(&self) -> Result<Vec<Finding>> {
        let server = bounded("check_server", async {
            Ok(sqlx::query_as!(
                Server,
                r#"
                SELECT current_setting('server_version_num')::int AS "version!",
                       current_setting('server_encoding') AS "encoding!",
                       current_setting('fsync')::bool AS "fsync!",
                       current_setting('full_page_writes')::bool AS "full_page_writes!",
                       current_setting('synchronous_commit') AS "synchronous_commit!",
                       pg_is_in_recovery() AS "standby!",
                       current_setting('default_transaction_read_only')::bool AS "read_only!",
                       (SELECT count(*) FROM pg_stat_replication) AS "standbys!",
                       current_setting('synchronous_standby_names') AS "synchronous_standbys!",
                       current_setting('max_connections')::bigint AS "max_connections!",
                       current_setting('max_connections')::bigint
                         - current_setting('superuser_reserved_connections')::bigint
                         - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
                         + (SELECT count(*) FROM pg_stat_activity WHERE pid = pg_backend_pid())
                         AS "free!"
                "#
            )
            .fetch_one(&self.pool)
            .await?)
        })
        .await?;
        Ok(server.judge(i64::from(self.connections)))
    }

    /// Compares the schema with what this rill brings.
    ///
    /// # Errors
    /// When PostgreSQL is away.
    pub async fn check_schema(&self) -> Result<Vec<Finding>> {
        let applied = bounded("check_schema", async {
            if !sqlx::query_scalar!(
                r#"SELECT to_regclass('_sqlx_migrations') IS NOT NULL AS "there!""#
            )
            .fetch_one(&self.pool)
            .await?
            {
                return Ok(Vec::new());
            }
            // Not checked when compiled: the table is sqlx' own.
            Ok(sqlx::query_as("SELECT version, success, checksum FROM _sqlx_migrations")
                .fetch_all(&self.pool)
                .await?)
        })
        .await?;
        Ok(judge_schema(&applied))
    }
}

impl Server {
    fn judge(&self, connections: i64) -> Vec<Finding> {
        let mut findings = Vec::new();
        let major = self.version / 10_000;
        if self.version < NEEDED {
            findings.push(Finding::breaking(format!(
                "PostgreSQL {major} is too old: rill needs {}; upgrade it",
                SUPPORTED / 10_000
            )));
        } else if self.version < SUPPORTED {
            findings.push(Finding::weak(format!(
                "PostgreSQL {major} is older than what rill is tested with, {}; upgrade it",
                SUPPORTED / 10_000
            )));
        }
        if self.encoding != "UTF8" {
            findings.push(Finding::breaking(format!(
                "PostgreSQL's database has the encoding {}, which can't hold every answer; make one \
                 by CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
                self.encoding
            )));
        }
        if ["off", "local"].contains(&self.synchronous_commit.as_str()) {
            findings.push(Finding::breaking(format!(
                "PostgreSQL's synchronous_commit is {} although rill's sessions set it to on: what was \
                 accepted may be lost in a crash. Is there a pooler that doesn't keep sessions? ALTER ROLE … \
                 SET synchronous_commit = on",
                self.synchronous_commit
            )));
        }
        for (ok, name) in [(self.fsync, "fsync"), (self.full_page_writes, "full_page_writes")] {
            if !ok {
                findings.push(Finding::weak(format!(
                    "PostgreSQL's {name} is off: a crash of its machine may lose or corrupt what was \
                     accepted; set {name} = on, except for tests"
                )));
            }
        }
        if self.standby {
            findings.push(Finding::weak(
                "PostgreSQL is a standby: nothing can be accepted until it is promoted; does \
                 DATABASE_URL name the primary?",
            ));
        } else if self.read_only {
            findings.push(Finding::weak(
                "PostgreSQL's default_transaction_read_only is on: nothing can be accepted; managed \
                 servers set it when their disk is full",
            ));
        }
        if self.standbys > 0 && self.synchronous_standbys.is_empty() {
            findings.push(Finding::weak(
                "PostgreSQL replicates asynchronously: what is committed in the moments before a standby is \
                 promoted is lost, accepted messages too; set synchronous_standby_names if that must not be",
            ));
        }
        if self.free < connections {
            findings.push(Finding::weak(format!(
                "PostgreSQL has {} connections left of max_connections = {}, and this process may open \
                 {connections}: raise max_connections, or lower --database-connections",
                self.free.max(0),
                self.max_connections
            )));
        }
        findings
    }
}

/// Compares what was applied (version, whether it succeeded, checksum) with what
/// this rill brings.
fn judge_schema(applied: &[(i64, bool, Vec<u8>)]) -> Vec<Finding> {
    let up = || MIGRATOR.iter().filter(|migration| !migration.migration_type.is_down_migration());
    let found = |version| applied.iter().find(|(applied, ..)| *applied == version);
    let mut findings = Vec::new();
    let missing =
        up().filter(|m| !found(m.version).is_some_and(|(_, success, _)| *success)).count();
    if missing > 0 {
        let what = if applied.is_empty() {
            "has no schema of rill's yet"
        } else {
            "is older than this rill"
        };
        findings.push(Finding::breaking(format!(
            "PostgreSQL's database {what} ({missing} of {} migrations are missing): run `rill migrate` \
             with the same DATABASE_URL",
            up().count()
        )));
    }
    if up().any(|m| found(m.version).is_some_and(|(_, _, checksum)| checksum[..] != m.checksum[..]))
    {
        findings.push(Finding::breaking(OTHER_MIGRATIONS));
    }
    // While a newer version is rolled out, older processes go on, and restart.
    if applied.iter().any(|(version, ..)| !up().any(|m| m.version == *version)) {
        findings.push(Finding::weak(
            "PostgreSQL's database was set up by a newer rill than this one: fine while that is being \
             rolled out; otherwise upgrade this process",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Server {
        Server {
            version: 150_000,
            encoding: "UTF8".into(),
            fsync: true,
            full_page_writes: true,
            synchronous_commit: "on".into(),
            standby: false,
            read_only: false,
            standbys: 0,
            synchronous_standbys: String::new(),
            free: 97,
            max_connections: 100,
        }
    }

    fn applied() -> Vec<(i64, bool, Vec<u8>)> {
        MIGRATOR.iter().map(|m| (m.version, true, m.checksum.to_vec())).collect()
    }

    #[test]
    fn a_good_server_is_not_complained_about() {
        assert_eq!(good().judge(10), []);
        assert_eq!(judge_schema(&applied()), []);
    }

    #[test]
    fn a_postgresql_that_is_too_old_is_refused() {
        assert!(Server { version: 110_022, ..good() }.judge(10)[0].breaks);
        assert!(!Server { version: 130_001, ..good() }.judge(10)[0].breaks);
    }

    #[test]
    fn commits_that_may_be_lost_are_refused() {
        for value in ["off", "local"] {
            let server = Server { synchronous_commit: value.into(), ..good() };
            assert!(server.judge(10)[0].breaks);
        }
        for value in ["remote_write", "remote_apply"] {
            assert_eq!(Server { synchronous_commit: value.into(), ..good() }.judge(10), []);
        }
    }

    #[test]
    fn what_a_restart_or_a_promotion_may_end_is_no_reason_to_refuse() {
        for server in [
            Server { standby: true, ..good() },
            Server { read_only: true, ..good() },
            Server { free: 3, ..good() },
            Server { standbys: 1, ..good() },
            Server { fsync: false, ..good() },
        ] {
            let findings = server.judge(10);
            assert!(findings.len() == 1 && !findings[0].breaks, "{findings:?}");
        }
    }

    #[test]
    fn a_schema_of_another_rill_is_told_from_an_older_one_and_from_none() {
        assert!(judge_schema(&[])[0].text.contains("no schema"));
        let mut newer = applied();
        newer.push((9_999, true, vec![1]));
        assert!(!judge_schema(&newer)[0].breaks);
        let mut foreign = applied();
        foreign[0].2 = vec![1];
        assert!(judge_schema(&foreign)[0].text.contains("not this rill's"));
        let mut broken = applied();
        broken[0].1 = false;
        assert!(judge_schema(&broken)[0].breaks);
    }
}
