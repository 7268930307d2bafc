//! What a process looks at when it starts, and refuses to start with.
//!
//! A store that is away is no reason to refuse: services come up in any order.
//! It is looked at when it is there, and Redis again with every new connection
//! (it may be another server after a failover). What is found then is logged as
//! an error: a process that serves is not stopped for it.

use std::time::Duration;

use crate::config::{Finding, Invalid};
use crate::store::Store;
use crate::streams::Streams;

/// What to do about servers that would break a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Checks {
    /// Don't start.
    Refuse,
    /// Start, and log it.
    Warn,
    /// Don't look.
    Off,
}

/// How strict a start is.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Checks")]
#[group(skip)]
pub struct Options {
    /// What to do at start about settings of Redis or PostgreSQL that would break a promise
    #[arg(long, env = "RILL_CHECKS", default_value = "refuse")]
    pub checks: Checks,
}

/// How long a start waits for the servers' answers.
const AT_START: Duration = Duration::from_secs(2);
/// How long between tries, and between looks at Redis.
const AGAIN: Duration = Duration::from_secs(5);

/// Looks at both servers, logs what is odd, and goes on looking at those that
/// were not there.
///
/// # Errors
/// With what to do, where a promise could not be kept.
pub async fn check(store: &Store, streams: &Streams, options: &Options) -> Result<(), Invalid> {
    if options.checks == Checks::Off {
        return Ok(());
    }
    let (postgresql, redis) = tokio::join!(
        tokio::time::timeout(AT_START, store.check()),
        tokio::time::timeout(AT_START, async {
            let generation = streams.connected(0).await?;
            Ok::<_, crate::streams::Error>((generation, streams.check().await))
        }),
    );
    let mut found = Vec::new();
    match postgresql {
        Ok(Ok(findings)) => found.extend(findings),
        Ok(Err(error)) if !error.is_unavailable() => {
            tracing::warn!(%error, "PostgreSQL's settings can't be checked");
        }
        _ => {
            tracing::warn!("PostgreSQL is not there yet; it is checked when it is");
            tokio::spawn(check_store_later(store.clone()));
        }
    }
    let mut seen = (0, Vec::new());
    if let Ok(Ok((generation, findings))) = redis {
        seen.0 = generation;
        match findings {
            Ok(findings) => {
                found.extend(findings.clone());
                seen.1 = findings;
            }
            Err(error) => tracing::debug!(%error, "Redis' settings can't be checked"),
        }
    } else {
        tracing::warn!("Redis is not there yet; it is checked when it is");
    }
    tokio::spawn(check_streams_again(streams.clone(), seen.0, seen.1));
    let refuse = options.checks == Checks::Refuse;
    let (breaking, weak): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|finding| finding.breaks && refuse);
    for finding in weak {
        tracing::warn!("{}", finding.text);
    }
    if breaking.is_empty() {
        return Ok(());
    }
    let all: Vec<_> = breaking.into_iter().map(|finding| finding.text).collect();
    Err(Invalid(format!("{} (RILL_CHECKS=warn starts all the same)", all.join(";\nand "))))
}

async fn check_store_later(store: Store) {
    loop {
        tokio::time::sleep(AGAIN).await;
        match store.check().await {
            Ok(findings) => return findings.iter().for_each(log),
            Err(error) if error.is_unavailable() => {}
            Err(error) => {
                tracing::warn!(%error, "PostgreSQL's settings can't be checked");
                return;
            }
        }
    }
}

/// Ends with the streams.
async fn check_streams_again(streams: Streams, mut generation: u64, mut before: Vec<Finding>) {
    while let Ok(newer) = streams.connected(generation).await {
        generation = newer;
        match streams.check().await {
            Ok(findings) => {
                findings.iter().filter(|finding| !before.contains(finding)).for_each(log);
                before = findings;
            }
            Err(error) => tracing::debug!(%error, "Redis' settings can't be checked"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn log(finding: &Finding) {
    match finding.breaks {
        true => tracing::error!("{}", finding.text),
        false => tracing::warn!("{}", finding.text),
    }
}
