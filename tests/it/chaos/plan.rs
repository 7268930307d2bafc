//! The schedule of faults: drawn from a seed, so that a run can be repeated as
//! far as real processes repeat themselves.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::support::Weather;

/// APIs and workers that run at the same time.
pub(super) const APIS: usize = 3;
pub(super) const WORKERS: usize = 3;

/// Which of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    Redis,
    Postgres,
}

/// One thing that goes wrong, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// SIGKILL; another is started in its place.
    Killed {
        member: usize,
        back_after: Duration,
    },
    /// SIGTERM; another is started in its place.
    Stopped {
        member: usize,
    },
    /// SIGSTOP, then SIGCONT.
    Paused {
        member: usize,
        lasts: Duration,
    },
    /// The network between one process and one server.
    Network {
        member: usize,
        server: Server,
        weather: Weather,
        lasts: Duration,
    },
    /// Its connections are cut, and can be made again at once.
    Cut {
        member: usize,
        server: Server,
    },
    /// SIGKILL; it comes back with everything that it had written.
    RedisKilled {
        lasts: Duration,
    },
    /// SIGKILL; it comes back without its last seconds.
    RedisForgets {
        lasts: Duration,
    },
    RedisFlushed,
    /// `maxmemory` is reached, under `noeviction`.
    RedisFull {
        lasts: Duration,
    },
    GroupDestroyed,
    /// A backend is killed, and PostgreSQL recovers from its log.
    PostgresCrashed,
    /// For all processes at once.
    PostgresAway {
        lasts: Duration,
    },
    SessionsTerminated,
    /// A replica for a while, as after a failover: it refuses writes, and keeps its
    /// connections.
    RedisDemoted {
        lasts: Duration,
    },
    /// The same of PostgreSQL.
    PostgresReadOnly {
        lasts: Duration,
    },
    MalformedJobs,
    DoubledJobs,
}

/// How many kinds [`Fault::draw`] knows.
const KINDS: usize = 17;

impl Fault {
    fn draw(kind: usize, random: &mut StdRng, minutes: bool) -> Self {
        let api = random.random_range(0..APIS);
        let worker = APIS + random.random_range(0..WORKERS);
        let any = random.random_range(0..APIS + WORKERS);
        let mut millis = |range| Duration::from_millis(random.random_range(range));
        // Around the lease of 1.5 s: both sides of it.
        let (short, lasts) = (millis(100..1_000), millis(200..4_000));
        let server = if random.random() { Server::Redis } else { Server::Postgres };
        match kind {
            0 | 1 => Self::Killed { member: worker, back_after: short },
            2 => Self::Killed { member: api, back_after: short },
            3 => Self::Stopped { member: any },
            4 => Self::Paused { member: worker, lasts },
            5 | 6 => {
                let weather = match random.random_range(0..5) {
                    0 => Weather::Away,
                    1 => Weather::BlackHole,
                    2 => Weather::LosesReplies,
                    3 => Weather::Delay(Duration::from_millis(random.random_range(1..150))),
                    _ => Weather::Throttle(random.random_range(2_000..50_000)),
                };
                Self::Network { member: any, server, weather, lasts }
            }
            7 => Self::Cut { member: any, server },
            8 if minutes && random.random_bool(0.1) => {
                Self::RedisKilled { lasts: Duration::from_secs(60) }
            }
            8 => Self::RedisKilled { lasts },
            9 => Self::RedisForgets { lasts: short },
            10 => Self::RedisFlushed,
            11 => Self::RedisFull { lasts: short },
            12 => match random.random_range(0..3) {
                0 => Self::GroupDestroyed,
                1 => Self::MalformedJobs,
                _ => Self::DoubledJobs,
            },
            13 => Self::PostgresAway { lasts },
            14 => Self::RedisDemoted { lasts },
            15 => Self::PostgresReadOnly { lasts },
            _ if random.random() => Self::PostgresCrashed,
            _ => Self::SessionsTerminated,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Faults, and when they begin.
pub(super) fn schedule(seed: u64, length: Duration) -> Vec<(Duration, Fault)> {
    let mut random = StdRng::seed_from_u64(seed);
    let minutes = length >= Duration::from_secs(300);
    let mut deck: Vec<usize> = Vec::new();
    let mut faults = Vec::new();
    let mut at = Duration::from_millis(1_000);
    while at < length {
        if deck.is_empty() {
            // Every kind has its turn before one comes again.
            deck = (0..KINDS).collect();
            deck.shuffle(&mut random);
        }
        let kind = deck.pop().unwrap_or_default();
        faults.push((at, Fault::draw(kind, &mut random, minutes)));
        at += Duration::from_millis(random.random_range(150..1_500));
    }
    faults
}

#[test]
fn a_seed_gives_one_schedule_with_every_kind_of_fault() {
    let plan = |seed| format!("{:?}", schedule(seed, Duration::from_secs(60)));
    assert_eq!(plan(7), plan(7));
    assert_ne!(plan(7), plan(8));
    for kind in [
        "Killed",
        "Stopped",
        "Paused",
        "Network",
        "Cut",
        "RedisForgets",
        "PostgresAway",
        "RedisDemoted",
        "PostgresReadOnly",
    ] {
        assert!(plan(7).contains(kind), "{kind}");
    }
}
