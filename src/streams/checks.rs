//! What of Redis' settings would break or weaken a promise.
//!
//! `INFO` tells nearly all of it, also where a managed service or an ACL refuses
//! `CONFIG`. What is not told is not complained about.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cmd;

use super::{Error, Result, Streams, Uses, answered};
use crate::config::Finding;

/// What the commands need: `XAUTOCLAIM`, `XADD … NOMKSTREAM`, exclusive ranges.
const NEEDED: (u32, u32) = (6, 2);
/// The oldest that is supported.
const SUPPORTED: (u32, u32) = (7, 0);

/// Redis, as far as it matters.
#[derive(Debug, Clone, Default)]
struct Server {
    version: String,
    cluster: bool,
    replica: bool,
    maxmemory: u64,
    policy: String,
    append_only: Option<bool>,
    /// `CONFIG GET save`: when it writes snapshots.
    save: Option<String>,
}

impl Streams {
    /// Waits for a connection that is another than `generation`; its number.
    ///
    /// # Errors
    /// When the streams are stopped.
    pub async fn connected(&self, generation: u64) -> Result<u64> {
        self.inner.link.reconnected(generation).await
    }

    /// Looks at Redis' settings, and at what its user may do.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn check(&self, uses: Uses) -> Result<Vec<Finding>> {
        let mut findings = self.check_rights(uses).await?;
        // Often refused, and then not known.
        findings.extend(self.check_server().await.unwrap_or_default());
        Ok(findings)
    }

    async fn check_server(&self) -> Result<Vec<Finding>> {
        let mut connected = self.connection().await?;
        let info = answered(connected.send(&cmd("INFO")).await?)?;
        let info = redis::from_redis_value(info).map_err(|_| Error::Unexpected("INFO"))?;
        let mut server = Server::read(info);
        // Often refused, and then not known.
        let config = connected.send(cmd("CONFIG").arg("GET").arg("save")).await;
        server.save = config
            .and_then(answered)
            .ok()
            .and_then(|config| redis::from_redis_value::<HashMap<String, String>>(config).ok())
            .and_then(|mut config| config.remove("save"));
        Ok(server.judge())
    }

    /// Connects once, to say why if that can't be done. (The link says that it
    /// has waited in vain.)
    ///
    /// # Errors
    /// When Redis can't be reached within `limit`.
    pub async fn reach(&self, limit: Duration) -> Result<()> {
        self.connect_once(limit).await.map(drop)
    }

    /// A connection that is not the link's.
    pub(super) async fn connect_once(&self, limit: Duration) -> Result<MultiplexedConnection> {
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limit))
            .set_response_timeout(Some(limit));
        let client = &self.inner.client;
        let connect = client.get_multiplexed_async_connection_with_config(&config);
        match tokio::time::timeout(limit, connect).await {
            Ok(connection) => Ok(connection?),
            Err(_) => Err(Error::Disconnected),
        }
    }
}

impl Server {
    fn read(info: String) -> Self {
        let fields: HashMap<_, _> = info.lines().filter_map(|line| line.split_once(':')).collect();
        let text = |name| fields.get(name).copied().unwrap_or_default().trim().to_owned();
        Self {
            version: text("redis_version"),
            cluster: text("cluster_enabled") == "1",
            replica: ["slave", "replica"].contains(&text("role").as_str()),
            maxmemory: text("maxmemory").parse().unwrap_or(0),
            policy: text("maxmemory_policy"),
            append_only: fields.get("aof_enabled").map(|value| value.trim() == "1"),
            save: None,
        }
    }

    fn judge(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut numbers = self.version.split('.').map_while(|part| part.parse::<u32>().ok());
        if let Some(major) = numbers.next() {
            let version = (major, numbers.next().unwrap_or(0));
            let (major, minor) = SUPPORTED;
            if version < NEEDED {
                findings.push(Finding::breaking(format!(
                    "Redis {} is too old: it lacks commands that rill uses; upgrade it to {major}.{minor} \
                     or newer, or to Valkey",
                    self.version
                )));
            } else if version < SUPPORTED {
                findings.push(Finding::weak(format!(
                    "Redis {} is older than what rill is tested with; upgrade it to {major}.{minor} or newer",
                    self.version
                )));
            }
        }
        if self.cluster {
            findings.push(Finding::breaking(
                "Redis is a cluster, and rill's reads span its slots: use a single server, with \
                 replicas if you like",
            ));
        }
        if self.replica {
            findings.push(Finding::weak(
                "Redis is a replica: nothing can be written until it is promoted; does REDIS_URL name \
                 the primary?",
            ));
        }
        if !self.policy.is_empty() && self.policy != "noeviction" {
            findings.push(self.may_evict());
        }
        if self.append_only == Some(false) {
            match self.save.as_deref() {
                Some("") => findings.push(Finding::weak(
                    "Redis keeps nothing on disk: a restart resets every running answer and delays jobs \
                     by a lease (no message is lost); CONFIG SET appendonly yes, and in its configuration",
                )),
                Some(save) => findings.push(Finding::weak(format!(
                    "Redis keeps snapshots only (save {save}): a restart takes streams back to the last \
                     one, and resets running answers; CONFIG SET appendonly yes, and in its configuration"
                ))),
                // Managed services replicate instead, and don't say.
                None => {}
            }
        }
        findings
    }

    fn may_evict(&self) -> Finding {
        let Self { policy, maxmemory, .. } = self;
        let todo = "CONFIG SET maxmemory-policy noeviction, and in its configuration (in the parameter \
                    group of a managed service)";
        if *maxmemory == 0 {
            return Finding::weak(format!(
                "Redis' maxmemory-policy is {policy}; harmless as long as maxmemory is 0, but with a limit \
                 it throws away streams that are being read: {todo}"
            ));
        }
        Finding::breaking(format!(
            "Redis' maxmemory-policy is {policy}: when its {} MiB are full it throws away streams that \
             are being read, and with allkeys-… the queue, instead of refusing writes, which rill copes \
             with: {todo}",
            maxmemory / 1024 / 1024
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Server {
        Server::read(
            "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nmaxmemory:0\r\n\
             maxmemory_policy:noeviction\r\naof_enabled:1\r\nrole:master\r\ncluster_enabled:0\r\n"
                .to_owned(),
        )
    }

    #[test]
    fn a_good_server_is_not_complained_about() {
        assert_eq!(good().judge(), []);
        // A service that hides everything.
        assert_eq!(Server::default().judge(), []);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let breaks = |version: &str| {
            let findings = Server { version: version.into(), ..good() }.judge();
            findings.first().map(|finding| finding.breaks)
        };
        assert_eq!(breaks("5.0.14"), Some(true));
        assert_eq!(breaks("6.0.16"), Some(true));
        assert_eq!(breaks("6.2.20"), Some(false));
        assert_eq!(breaks("7.0.0"), None);
        assert_eq!(breaks("10.1.0"), None);
        assert_eq!(breaks("255.255.255"), None);
    }

    #[test]
    fn eviction_breaks_a_promise_only_where_memory_has_a_limit() {
        let policy = "volatile-lru".to_owned();
        let server = Server { policy, maxmemory: 1 << 30, ..good() };
        assert!(server.judge()[0].breaks);
        assert!(!Server { maxmemory: 0, ..server }.judge()[0].breaks);
    }

    #[test]
    fn a_cluster_is_refused_and_a_replica_waited_for() {
        assert!(Server { cluster: true, ..good() }.judge()[0].breaks);
        assert!(!Server { replica: true, ..good() }.judge()[0].breaks);
    }

    #[test]
    fn persistence_that_is_not_told_is_not_complained_about() {
        let off = Server { append_only: Some(false), ..good() };
        assert_eq!(off.judge(), []);
        for save in ["", "3600 1"] {
            assert_eq!(Server { save: Some(save.into()), ..off.clone() }.judge().len(), 1);
        }
    }
}
