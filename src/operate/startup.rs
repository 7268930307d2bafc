//! What a process looks at when it starts, and refuses to start with.
//!
//! A store that is away is no reason to refuse: services come up in any order.
//! It is looked at when it is there, and Redis again with every new connection
//! (it may be another server after a failover). What is found then is logged as
//! an error: a process that serves is not stopped for it.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{Finding, Invalid};
use crate::domain::retry::Backoff;
use crate::log_limit::LogLimit;
use crate::store::Store;
use crate::streams::{Streams, Uses};

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
    /// What to do at start about settings of Redis or PostgreSQL, or a limit of open files, that would break a promise
    #[arg(long, env = "RILL_CHECKS", default_value = "refuse")]
    pub checks: Checks,
}

/// How long a start waits for the servers' answers.
const AT_START: Duration = Duration::from_secs(2);
/// How long between tries, and between looks at Redis.
const AGAIN: Duration = Duration::from_secs(5);

/// Files that a process has open beside those that options speak of: logs,
/// listeners, the runtime's own, connections to Redis that are shared, and of
/// clients beyond `--max-connections` ([`http::SPARE`](crate::http::SPARE)).
const OTHER_FILES: u64 = 128;

/// Sees to it that the process may have as many files open as its options can
/// make it open, each a number and its option. Raises its limit where it may.
///
/// # Errors
/// With what to do, where it could run out of them: it would accept nobody, and
/// could not connect to the stores again either.
pub fn check_files(uses: &[(u32, &str)], options: &Options) -> Result<(), Invalid> {
    let needed = uses.iter().map(|(count, _)| u64::from(*count)).sum::<u64>() + OTHER_FILES;
    let limit = getrlimit(Resource::Nofile);
    let mut allowed = limit.current;
    if allowed.is_some_and(|allowed| allowed < needed) {
        // Where there is no hard limit, the system has one that it doesn't tell.
        let most = Some(limit.maximum.unwrap_or(needed));
        match setrlimit(Resource::Nofile, Rlimit { current: most, maximum: limit.maximum }) {
            Ok(()) => allowed = most,
            Err(error) => tracing::debug!(%error, "the limit of open files can't be raised"),
        }
    }
    match options.checks {
        Checks::Off => Ok(()),
        checks => judge(too_few_files(uses, needed, allowed).into_iter().collect(), checks),
    }
}

fn too_few_files(uses: &[(u32, &str)], needed: u64, allowed: Option<u64>) -> Option<Finding> {
    let allowed = allowed.filter(|allowed| *allowed < needed)?;
    let uses: Vec<_> = uses.iter().map(|(count, option)| format!("{option} {count}")).collect();
    Some(Finding::breaking(format!(
        "this process may have {allowed} files open and could need {needed} ({}, and \
         {OTHER_FILES} of its own): raise its limit (ulimit -n, LimitNOFILE=, --ulimit nofile=) \
         or lower these options",
        uses.join(", ")
    )))
}

/// Looks at both servers, logs what is odd, and goes on looking at those that
/// were not there.
///
/// # Errors
/// With what to do, where a promise could not be kept.
pub async fn check(
    store: &Store,
    streams: &Streams,
    uses: Uses,
    options: &Options,
) -> Result<(), Invalid> {
    if options.checks == Checks::Off {
        return Ok(());
    }
    let (postgresql, redis) = tokio::join!(
        tokio::time::timeout(AT_START, store.check()),
        tokio::time::timeout(AT_START, look_at_redis(store, streams, uses)),
    );
    let mut found: Vec<_> = store.check_encryption().into_iter().collect();
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
    if let Ok(Ok(Seen::Another(finding))) = redis {
        found.push(finding);
    } else if let Ok(Ok(Seen::Ours(generation, findings))) = redis {
        seen.0 = generation;
        match findings {
            Ok(findings) => {
                found.extend(findings.clone());
                seen.1 = findings;
            }
            Err(error) => tracing::debug!(%error, "Redis' settings can't be checked"),
        }
    } else if let Ok(Err(error)) = redis
        && !error.is_away()
    {
        tracing::warn!(%error, "Redis can't be used yet; it is tried again");
    } else {
        tracing::warn!(
            "Redis is not there yet (or PostgreSQL, which says whose it has to be); it is checked when it is"
        );
    }
    tokio::spawn(check_streams_again(streams.clone(), uses, seen.0, seen.1));
    judge(found, options.checks)
}

/// What a start sees of Redis.
enum Seen {
    /// The first connection, and what is odd about the server.
    Ours(u64, crate::streams::Result<Vec<Finding>>),
    /// It is another deployment's.
    Another(Finding),
}

async fn look_at_redis(
    store: &Store,
    streams: &Streams,
    uses: Uses,
) -> crate::streams::Result<Seen> {
    // Without it, nothing connects.
    let deployment = deployment(store).await;
    if let Some(finding) = streams.check_deployment(deployment).await? {
        return Ok(Seen::Another(finding));
    }
    streams.belongs_to(deployment);
    let generation = streams.connected(0).await?;
    Ok(Seen::Ours(generation, streams.check(uses).await))
}

/// Tells the streams whose Redis theirs has to be, as soon as PostgreSQL says.
pub async fn introduce(store: Store, streams: Streams) {
    streams.belongs_to(deployment(&store).await);
}

/// The deployment's ID, waiting for PostgreSQL and for its schema.
async fn deployment(store: &Store) -> uuid::Uuid {
    const SOON: Backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_secs(2) };
    const PATIENT: u32 = 5;
    static UNKNOWN: LogLimit = LogLimit::new();
    let mut failures = 0;
    loop {
        match store.deployment().await {
            Ok(id) => return id,
            Err(error) => {
                failures += 1;
                // That it is away is said elsewhere; else it has no schema, or no row.
                // Not at once: a first `rill up` is about to make it.
                if !error.is_unavailable()
                    && failures > PATIENT
                    && let Some(skipped) = UNKNOWN.pass()
                {
                    tracing::warn!(%error, skipped, "PostgreSQL doesn't say which deployment this is; until then, Redis is not used");
                }
            }
        }
        tokio::time::sleep(SOON.delay(failures, rand::random())).await;
    }
}

/// Logs what was found, or refuses to start.
fn judge(found: Vec<Finding>, checks: Checks) -> Result<(), Invalid> {
    let refuse = checks == Checks::Refuse;
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
async fn check_streams_again(
    streams: Streams,
    uses: Uses,
    mut generation: u64,
    mut before: Vec<Finding>,
) {
    while let Ok(newer) = streams.connected(generation).await {
        generation = newer;
        match streams.check(uses).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_need_more_files_than_are_allowed_are_named() {
        let uses = [(1000, "--max-connections"), (10, "--database-connections")];
        assert_eq!(too_few_files(&uses, 1074, None), None);
        assert_eq!(too_few_files(&uses, 1074, Some(1074)), None);
        let found = too_few_files(&uses, 1074, Some(1024)).expect("a finding");
        assert!(found.breaks);
        for part in ["1024 files", "need 1074", "--max-connections 1000", "--database-connections"]
        {
            assert!(found.text.contains(part), "{part}: {}", found.text);
        }
    }

    #[test]
    fn a_start_that_can_t_have_its_files_is_refused_unless_told_otherwise() {
        let hard = getrlimit(Resource::Nofile).maximum;
        if hard.is_none_or(|hard| hard > u64::from(u32::MAX)) {
            return;
        }
        let check = |checks| check_files(&[(u32::MAX, "--max-connections")], &Options { checks });
        let refused = check(Checks::Refuse).expect_err("too many").to_string();
        assert!(refused.contains("RILL_CHECKS=warn"), "{refused}");
        assert_eq!((check(Checks::Warn), check(Checks::Off)), (Ok(()), Ok(())));
        // What could be had was taken.
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
        assert_eq!(
            check_files(&[(1, "--max-connections")], &Options { checks: Checks::Refuse }),
            Ok(())
        );
    }
}
