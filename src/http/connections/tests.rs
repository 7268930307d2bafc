use proptest::prelude::*;
use tokio::sync::Semaphore;

use super::*;

const BOUNDS: Bounds = Bounds {
    slots: 3,
    requests: 4,
    first_request: Duration::from_secs(10),
    keep_alive: Duration::from_secs(75),
    leave: Duration::from_secs(30),
};

#[derive(Debug, Clone)]
enum Step {
    Open,
    Begin(prop::sample::Index, bool),
    End(prop::sample::Index),
    Close(prop::sample::Index),
    Sweep,
    MakeRoom,
    Drain,
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => Just(Step::Open),
        6 => (at(), any::<bool>()).prop_map(|(at, exempt)| Step::Begin(at, exempt)),
        4 => at().prop_map(Step::End),
        2 => at().prop_map(Step::Close),
        2 => Just(Step::Sweep),
        1 => Just(Step::MakeRoom),
        1 => Just(Step::Drain),
        4 => (0u64..40_000).prop_map(Step::Wait),
    ]
}

/// A connection as a test drives it: with times of its own.
struct Client {
    connection: Connection,
    /// Whether each request in progress is counted.
    requests: Vec<bool>,
}

fn pick<'a>(clients: &'a mut [Client], at: &prop::sample::Index) -> &'a mut Client {
    let at = at.index(clients.len());
    &mut clients[at]
}

impl Inner {
    fn holders(&self) -> usize {
        self.entries.iter().filter(|(_, entry)| Self::has_slot(entry.state)).count()
    }
}

fn check(table: &Connections, clients: &[Client], now: Instant, swept: bool) {
    let inner = lock(&table.inner);
    assert_eq!(inner.entries.len(), clients.len());
    assert_eq!(inner.free_slots + inner.holders(), BOUNDS.slots);
    let counted = clients.iter().flat_map(|client| &client.requests).filter(|counted| **counted);
    assert_eq!(inner.requests, counted.count());
    assert!(inner.requests <= BOUNDS.requests);
    let queued = inner.silent.len() + inner.idle.len() + inner.guests.len() + inner.leaving.len();
    let waiting = |state| !matches!(state, State::Busy | State::Cut);
    assert_eq!(queued, inner.entries.iter().filter(|(_, entry)| waiting(entry.state)).count());
    for client in clients {
        let entry = &inner.entries[client.connection.id];
        let age = now - entry.since;
        match entry.state {
            State::Silent | State::Idle => assert_eq!(entry.busy, 0),
            State::Busy => {
                assert_eq!(entry.busy as usize, client.requests.len());
                assert!(entry.busy > 0 && entry.told != Some(Told::Cut));
            }
            // A request that counts is never cut off.
            State::Guest | State::Leaving | State::Cut => {
                assert!(!client.requests.contains(&true), "{entry:?}");
            }
        }
        let limit = match entry.state {
            State::Silent | State::Guest => BOUNDS.first_request,
            State::Idle => BOUNDS.keep_alive,
            State::Leaving => BOUNDS.leave,
            State::Busy | State::Cut => continue,
        };
        assert!(!swept || age < limit, "{entry:?} after {age:?}");
    }
}

proptest! {
    #[test]
    fn slots_and_requests_are_accounted_for_whatever_happens(
        steps in prop::collection::vec(any_step(), 0..80),
    ) {
        let places = Arc::new(Semaphore::new(1_000));
        let table = Connections::new(BOUNDS);
        let mut clients: Vec<Client> = Vec::new();
        let mut now = Instant::now();
        for step in steps {
            let swept = matches!(step, Step::Sweep);
            match step {
                Step::Open => {
                    let place = places.clone().try_acquire_owned().expect("a place");
                    let connection = table.open(place, now);
                    clients.push(Client { connection, requests: Vec::new() });
                }
                Step::Wait(milliseconds) => now += Duration::from_millis(milliseconds),
                Step::Sweep => table.sweep(now),
                Step::MakeRoom => table.make_room(now),
                Step::Drain => table.drain(now),
                Step::Begin(at, exempt) if !clients.is_empty() => {
                    let client = pick(&mut clients, &at);
                    let admission = table.begin(client.connection.id, exempt, now);
                    prop_assert!(!(exempt && (admission.counted || admission.refused.is_some())));
                    prop_assert!(exempt || admission.counted != admission.refused.is_some());
                    client.requests.push(admission.counted);
                }
                Step::End(at) if !clients.is_empty() => {
                    let client = pick(&mut clients, &at);
                    if let Some(counted) = client.requests.pop() {
                        table.end(client.connection.id, counted, now);
                    }
                }
                // With its requests, as each of them holds the connection.
                Step::Close(at) if !clients.is_empty() => {
                    let client = clients.swap_remove(at.index(clients.len()));
                    for counted in client.requests {
                        table.end(client.connection.id, counted, now);
                    }
                }
                _ => {}
            }
            check(&table, &clients, now, swept);
        }
        drop(clients);
        prop_assert_eq!(lock(&table.inner).free_slots, BOUNDS.slots);
        prop_assert_eq!(places.available_permits(), 1_000);
    }
}

fn open(table: &Arc<Connections>, now: Instant) -> Connection {
    let place = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a place");
    table.open(place, now)
}

fn state(table: &Connections, connection: &Connection) -> State {
    lock(&table.inner).entries[connection.id].state
}

#[test]
fn an_idle_connection_is_kept_for_its_time_while_there_are_slots() {
    let (table, start) = (Connections::new(BOUNDS), Instant::now());
    let connection = open(&table, start);
    table.begin(connection.id, false, start);
    table.end(connection.id, true, start);
    table.sweep(start + BOUNDS.keep_alive - Duration::from_millis(1));
    assert_eq!(state(&table, &connection), State::Idle);
    table.sweep(start + BOUNDS.keep_alive);
    assert_eq!(state(&table, &connection), State::Leaving);
}

#[test]
fn a_connection_that_was_just_used_gives_its_slot_to_nobody() {
    let (table, start) = (Connections::new(BOUNDS), Instant::now());
    let holders = [0; 3].map(|_| open(&table, start));
    for holder in &holders {
        table.begin(holder.id, false, start);
        table.end(holder.id, true, start);
    }
    let soon = start + EVICTABLE - Duration::from_millis(1);
    let guest = open(&table, soon);
    let refused = table.begin(guest.id, false, soon);
    assert_eq!(refused.refused, Some(Overload::Connections));
    assert!(holders.iter().all(|holder| state(&table, holder) == State::Idle));
    let guest = open(&table, start + EVICTABLE);
    assert_eq!(table.begin(guest.id, false, start + EVICTABLE).refused, None);
    assert_eq!(state(&table, &holders[0]), State::Leaving);
}

/// Restarting and routing are decided on new connections, each a few seconds.
#[test]
fn a_probe_takes_nobodys_slot() {
    let (table, start) = (Connections::new(BOUNDS), Instant::now());
    let holders = [0; 3].map(|_| open(&table, start));
    let later = start + Duration::from_secs(5);
    let probe = open(&table, later);
    let admission = table.begin(probe.id, true, later);
    assert_eq!((admission.refused, admission.last), (None, true));
    assert!(holders.iter().all(|holder| state(&table, holder) == State::Silent));
}
