//! Every fault at once, for as long as one likes: `make chaos`.
//!
//! Users ask, watch, are cut off, come back elsewhere, and stop answers, while
//! processes are killed, paused and replaced, the servers crash, forget and
//! fill up, and the networks between them misbehave. Every accepted message is
//! followed to its end, and what happened to it in PostgreSQL and Redis is held
//! against the protocol's model ([`crate::protocol`]).
//!
//! `CHAOS_SECONDS`, `CHAOS_TASKS` (at the same time) and `CHAOS_SEED` set it up. With
//! `RILL_RELEASED_BIN`, every other process is that binary, so that two versions run
//! beside each other and take over from each other, both ways (`make compatibility`).
//! A run that fails tells its seed and its schedule.

mod aof;
mod client;
mod fleet;
mod ledger;
mod plan;
mod verdict;
mod viewer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::client::World;
use self::fleet::{Fleet, Repair};
use self::plan::{APIS, Fault, schedule};
use self::verdict::{Faults, Harm};
use crate::support::PrivatePostgres;

/// How long a client waits for an API that may be cut off from its servers.
const ANSWERS_WITHIN: Duration = Duration::from_secs(15);

/// How long tasks may take to end when nothing is wrong any more.
const CALM: Duration = Duration::from_secs(90);

struct Settings {
    length: Duration,
    tasks: usize,
    seed: u64,
}

impl Settings {
    fn from_environment() -> Self {
        let number = |name: &str| {
            let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
            Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text} is no number")))
        };
        Self {
            length: Duration::from_secs(number("CHAOS_SECONDS").unwrap_or(20)),
            tasks: number("CHAOS_TASKS").unwrap_or(20) as usize,
            seed: number("CHAOS_SEED").unwrap_or_else(rand::random),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_all_faults_at_once_nothing_is_lost_doubled_mixed_or_stuck() {
    let settings = Settings::from_environment();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let postgres = PrivatePostgres::start();
    ledger::open(postgres.url()).await;
    let sloppy = fleet::released().is_none();
    let world = Arc::new(World::new(APIS, sloppy));
    let mut fleet = Fleet::start(world.clone(), postgres.url()).await;
    eprintln!(
        "chaos: CHAOS_SEED={} for {:?}, {} tasks at the same time",
        settings.seed, settings.length, settings.tasks
    );
    let plan = schedule(settings.seed, settings.length);
    let mut users = JoinSet::new();
    for n in 0..settings.tasks as u64 {
        users.spawn(client::user(world.clone(), settings.seed ^ (n + 1).wrapping_mul(0x9e37_79b9)));
    }
    let faults = wreak(&world, &mut fleet, &plan, settings.length).await;

    world.closing.store(true, Ordering::Relaxed);
    fleet.heal().await;
    let calm = Instant::now() + CALM;
    while let Ok(Some(_)) = tokio::time::timeout_at(calm, users.join_next()).await {}
    users.abort_all();
    ledger::audit(&world, &mut fleet, settings.seed).await;
    fleet.check_alive();
    eprintln!("chaos: {}", fleet.versions());
    report(&world, &faults, &plan, &settings);
}

/// Lets the faults happen, and ends them, in time.
async fn wreak(
    world: &World,
    fleet: &mut Fleet,
    plan: &[(Duration, Fault)],
    length: Duration,
) -> Faults {
    let start = Instant::now();
    let faults = Faults::default();
    let mut repairs: BTreeMap<(Instant, usize), Repair> = BTreeMap::new();
    let mut next = plan.iter().peekable();
    let mut progress = Duration::from_secs(5);
    for n in 0.. {
        let due = next.peek().map_or(length, |(at, _)| *at);
        let mended = repairs.first_key_value().map(|((at, _), _)| *at);
        let wake = (start + due.min(progress)).min(mended.unwrap_or(start + due));
        sleep_until(wake).await;
        if let Some(repair) =
            mended.filter(|at| *at <= Instant::now()).and_then(|_| repairs.pop_first())
        {
            fleet.repair(repair.1).await;
        } else if start.elapsed() >= progress {
            fleet.check_alive();
            eprintln!(
                "chaos: {:>4} of {} s: {}; {} faults, {} being repaired",
                start.elapsed().as_secs(),
                length.as_secs(),
                world.tally,
                faults.total(),
                repairs.len()
            );
            progress = start.elapsed() + Duration::from_secs(5);
        } else if start.elapsed() >= due {
            let Some((_, fault)) = next.next() else { return faults };
            if let Some(after) = fleet.begin(*fault).await {
                faults.note(fault);
                let ends = after.into_iter().enumerate();
                repairs.extend(
                    ends.map(|(m, (after, repair))| ((Instant::now() + after, n * 8 + m), repair)),
                );
            }
        }
    }
    unreachable!("the schedule ends")
}

fn report(world: &World, faults: &Faults, plan: &[(Duration, Fault)], settings: &Settings) {
    let tally = &world.tally;
    let asked = tally.accepted.load(Ordering::Relaxed);
    let ended = asked.saturating_sub(tally.count(Harm::Stuck));
    eprintln!("\n| fault | times |\n|---|---|");
    for (fault, times) in faults.table() {
        eprintln!("| {fault} | {times} |");
    }
    eprintln!("\n{tally}");
    let (sloppily, whole) = world.sent_sloppily();
    eprintln!(
        "accepted {asked} = terminal {ended}; {sloppily} sent sloppily, {whole} of them done"
    );
    let others =
        [Harm::Reordered, Harm::SeveralEnds, Harm::Disagreement, Harm::Protocol, Harm::Broken];
    let others: Vec<_> = others.iter().map(|h| format!("{h:?} {}", tally.count(*h))).collect();
    eprintln!("{}", others.join(", "));
    eprintln!(
        "lost {}, doubled {}, mixed {}, stuck {}",
        tally.count(Harm::Lost),
        tally.count(Harm::Doubled),
        tally.count(Harm::Mixed),
        tally.count(Harm::Stuck)
    );
    let harms = tally.harms();
    if !harms.is_empty() {
        let plan: Vec<_> = plan.iter().map(|(at, fault)| format!("{at:>8.1?} {fault}")).collect();
        let harms = harms.iter().take(50).cloned().collect::<Vec<_>>().join("\n");
        panic!("CHAOS_SEED={}\n{}\n\n{harms}", settings.seed, plan.join("\n"));
    }
    assert!(asked > 0, "nothing was accepted");
}
