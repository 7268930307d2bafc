//! Whether a process can do its work: each connection that it uses takes a write.
//!
//! | what | ready | why |
//! |---|---|---|
//! | PostgreSQL away, read-only, or silent | no | nothing can be accepted |
//! | Redis refuses (a replica, a right or a password that is missing, another deployment's) or is silent | no | this process may be the only one that it happens to |
//! | Redis was never reached | no | its address may be wrong |
//! | Redis was there, and is away | yes, `degraded` | it happens to all processes: messages are accepted, what has ended is read, and who reads a stream waits; taking them all out of service would only end that |
//! | no worker is alive | yes | a field, a metric and an alert: messages wait |

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::Tasks;
use crate::metrics;
use crate::store::{self, StoreHealth};
use crate::streams::LinkHealth;

/// How long PostgreSQL may take.
const LIMIT: Duration = Duration::from_secs(2);
/// How long an answer is given again: probes of many kinds ask at the same time.
const FRESH: Duration = Duration::from_secs(1);

/// How the stores are for a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// It can do its work.
    pub ready: bool,
    /// `ok`, or what is wrong.
    pub postgresql: String,
    /// `ok`, or what is wrong with which connection.
    pub redis: String,
    /// Workers that live; nothing where PostgreSQL doesn't tell.
    pub workers: Option<u64>,
}

/// The last answer.
pub(super) type Last = Arc<Mutex<Option<(Instant, Readiness)>>>;

impl Tasks {
    /// Tries each connection, within about two seconds.
    pub async fn readiness(&self) -> Readiness {
        // Who asks meanwhile waits, and gets the same answer.
        let mut last = self.readiness.lock().await;
        if let Some((at, readiness)) = &*last
            && at.elapsed() < FRESH
        {
            return readiness.clone();
        }
        let (postgresql, redis) =
            tokio::join!(tokio::time::timeout(LIMIT, self.store.health()), self.streams.health(),);
        let readiness = judge(postgresql.ok(), &redis);
        metrics::ready(readiness.ready);
        if let Some(workers) = readiness.workers {
            metrics::workers_alive(workers);
        }
        for (name, health) in redis {
            metrics::redis_connection(name, health == LinkHealth::Writes);
        }
        *last = Some((Instant::now(), readiness.clone()));
        readiness
    }
}

fn judge(
    postgresql: Option<store::Result<StoreHealth>>,
    redis: &[(&'static str, LinkHealth)],
) -> Readiness {
    let workers = match &postgresql {
        Some(Ok(health)) => u64::try_from(health.workers).ok(),
        _ => None,
    };
    let postgresql = match postgresql {
        None => Some(format!("no answer within {LIMIT:?}")),
        Some(Err(error)) => Some(error.brief()),
        Some(Ok(health)) if health.read_only => {
            Some("read-only: a standby, or default_transaction_read_only is on".to_owned())
        }
        Some(Ok(_)) => None,
    };
    let (mut ready, mut wrong) = (postgresql.is_none(), Vec::new());
    for (name, health) in redis {
        let what = match health {
            LinkHealth::Writes => continue,
            LinkHealth::Away(why) => why.as_str(),
            LinkHealth::NeverUp(why) | LinkHealth::Refused(why) => {
                ready = false;
                why
            }
            LinkHealth::Silent => {
                ready = false;
                "connected, and no answer"
            }
        };
        wrong.push(format!("{name}: {what}"));
    }
    let ok = || "ok".to_owned();
    Readiness {
        ready,
        postgresql: postgresql.unwrap_or_else(ok),
        redis: if wrong.is_empty() { ok() } else { wrong.join("; ") },
        workers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: StoreHealth = StoreHealth { read_only: false, workers: 2 };

    #[test]
    fn a_process_is_ready_while_each_connection_takes_a_write() {
        let links = [("commands", LinkHealth::Writes), ("jobs", LinkHealth::Writes)];
        let readiness = judge(Some(Ok(WELL)), &links);
        assert!(readiness.ready);
        assert_eq!((readiness.postgresql.as_str(), readiness.redis.as_str()), ("ok", "ok"));
        assert_eq!(readiness.workers, Some(2));
    }

    #[test]
    fn what_is_wrong_is_named_and_only_a_redis_that_has_gone_away_is_waited_for() {
        let why = || "why".to_owned();
        for (health, ready) in [
            (LinkHealth::Away(why()), true),
            (LinkHealth::NeverUp(why()), false),
            (LinkHealth::Refused(why()), false),
            (LinkHealth::Silent, false),
        ] {
            let readiness = judge(Some(Ok(WELL)), &[("jobs", health)]);
            assert_eq!(readiness.ready, ready, "{readiness:?}");
            assert!(readiness.redis.starts_with("jobs: "), "{readiness:?}");
        }
        assert!(!judge(None, &[]).ready);
        let read_only = judge(Some(Ok(StoreHealth { read_only: true, ..WELL })), &[]);
        assert!(!read_only.ready && read_only.postgresql.starts_with("read-only"));
        // That nobody works is for an alert.
        assert!(judge(Some(Ok(StoreHealth { workers: 0, ..WELL })), &[]).ready);
    }
}
