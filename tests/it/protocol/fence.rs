//! Who may write under an attempt's number when PostgreSQL forgets.
//!
//! A standby that replicates asynchronously is promoted without the newest commits,
//! and hands a number out again whose owner may be alive. The model has a task, two
//! workers, a stream of one entry a step, and a standby that is any number of commits
//! behind; a takeover may happen at any time, so each owner may be a zombie.
//!
//! The fence has two halves (`domain::Fence`). Statements compare the number *and*
//! the claim; and an attempt's first entry names its claim, so that of two who write
//! under one number the first wins: the other finds that what is at its ID is not
//! what it sent.

use stateright::{Checker, HasDiscoveries, Model, Property};

/// Entries of an answer, the first and the last included.
const LENGTH: u8 = 3;
/// Attempts that are told apart.
const ATTEMPTS: u8 = 3;

/// What is wrong with a mutated fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    None,
    /// An entry at one's own ID is taken for one's own, whatever it is.
    StreamByNumber,
    /// Statements compare the number only.
    StatementsByNumber,
}

/// A number, and who began it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Owner {
    attempt: u8,
    claim: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Status {
    Queued,
    Running,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Row {
    status: Status,
    owner: Owner,
    /// Whose answer was committed.
    answer: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Worker {
    Idle,
    /// `seq` comes next. `sent`: it may be in the stream already.
    Writes {
        owner: Owner,
        seq: u8,
        sent: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Entry {
    attempt: u8,
    seq: u8,
    by: u8,
}

impl Entry {
    const fn id(self) -> (u8, u8) {
        (self.attempt, self.seq)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    row: Row,
    /// The row as the standby has it.
    standby: Row,
    claims: u8,
    workers: [Worker; 2],
    stream: Vec<Entry>,
    /// A statement changed the row of somebody else's claim.
    stolen: bool,
    failovers: u8,
    losses: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    /// The standby gets what was committed.
    Replicate,
    /// It is promoted.
    FailOver,
    /// Redis fails over, and its replica has nothing.
    RedisLosesAll,
    Begin(usize),
    /// `true`: its reply is lost.
    Append(usize, bool),
    Commit(usize),
    LearnLost(usize),
    Crash(usize),
}

struct Fence {
    failovers: u8,
    losses: u8,
    mutation: Mutation,
}

impl World {
    /// The row is this owner's, as far as the guard of a statement asks.
    fn is_owned(&self, owner: Owner, mutation: Mutation) -> bool {
        self.row.status == Status::Running
            && self.row.owner.attempt == owner.attempt
            && (self.row.owner.claim == owner.claim || mutation == Mutation::StatementsByNumber)
    }

    fn begin(&mut self, n: usize) {
        self.claims += 1;
        let owner = Owner { attempt: self.row.owner.attempt + 1, claim: self.claims };
        self.row = Row { status: Status::Running, owner, ..self.row };
        self.workers[n] = Worker::Writes { owner, seq: 0, sent: false };
    }

    /// `Log::try_append`, and what follows it.
    fn append(&mut self, n: usize, lost: bool, mutation: Mutation) {
        let Worker::Writes { owner, seq, .. } = self.workers[n] else { return };
        let entry = Entry { attempt: owner.attempt, seq, by: owner.claim };
        let last = self.stream.last().copied();
        let gone = last.is_none() && seq > 0;
        let stale = last.is_some_and(|last| entry.id() <= last.id());
        if !stale && !gone {
            self.stream.push(entry);
        }
        if lost {
            self.workers[n] = Worker::Writes { owner, seq, sent: true };
            return;
        }
        let confirmed = if gone {
            // Made again, if PostgreSQL says that the attempt is still ours.
            let ours = self.is_owned(owner, mutation);
            if ours {
                self.stream.push(entry);
            }
            ours
        } else {
            let mine = |last: Entry| {
                last.id() == entry.id()
                    && (last.by == entry.by || mutation == Mutation::StreamByNumber)
            };
            !stale || last.is_some_and(mine)
        };
        if confirmed {
            self.workers[n] = Worker::Writes { owner, seq: seq + 1, sent: false };
            return;
        }
        // The number is another's in the stream: the next one may be free.
        if seq == 0 && self.is_owned(owner, mutation) {
            self.stolen |= self.row.owner != owner;
            self.row.status = Status::Queued;
        }
        self.workers[n] = Worker::Idle;
    }

    fn commit(&mut self, n: usize, mutation: Mutation) {
        let Worker::Writes { owner, .. } = self.workers[n] else { return };
        if self.is_owned(owner, mutation) {
            self.stolen |= self.row.owner != owner;
            self.row.status = Status::Done;
            self.row.answer = owner.claim;
        }
        self.workers[n] = Worker::Idle;
    }

    /// Entries of one number, by two.
    fn has_two_writers(&self) -> bool {
        self.stream.windows(2).any(|two| two[0].attempt == two[1].attempt && two[0].by != two[1].by)
    }
}

impl Model for Fence {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let owner = Owner { attempt: 0, claim: 0 };
        let row = Row { status: Status::Queued, owner, answer: 0 };
        vec![World {
            row,
            standby: row,
            claims: 0,
            workers: [Worker::Idle; 2],
            stream: Vec::new(),
            stolen: false,
            failovers: self.failovers,
            losses: self.losses,
        }]
    }

    fn actions(&self, world: &World, to: &mut Vec<Action>) {
        for (n, worker) in world.workers.iter().enumerate() {
            match worker {
                Worker::Idle => {
                    if world.row.status != Status::Done && world.claims < ATTEMPTS {
                        to.push(Action::Begin(n));
                    }
                }
                Worker::Writes { owner, seq, .. } => {
                    to.push(Action::Crash(n));
                    if *seq < LENGTH {
                        to.extend([Action::Append(n, false), Action::Append(n, true)]);
                    } else {
                        to.push(Action::Commit(n));
                    }
                    if world.row.owner != *owner {
                        to.push(Action::LearnLost(n));
                    }
                }
            }
        }
        if world.standby != world.row && world.failovers > 0 {
            to.extend([Action::Replicate, Action::FailOver]);
        }
        if world.losses > 0 && !world.stream.is_empty() {
            to.push(Action::RedisLosesAll);
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut next = last.clone();
        match action {
            Action::Replicate => next.standby = next.row,
            Action::FailOver => {
                next.row = next.standby;
                next.failovers -= 1;
            }
            Action::RedisLosesAll => {
                next.stream.clear();
                next.losses -= 1;
            }
            Action::Begin(n) => next.begin(n),
            Action::Append(n, lost) => next.append(n, lost, self.mutation),
            Action::Commit(n) => next.commit(n, self.mutation),
            Action::LearnLost(n) | Action::Crash(n) => next.workers[n] = Worker::Idle,
        }
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(TWO_WRITERS, |_, world: &World| !world.has_two_writers()),
            Property::always(STOLEN, |_, world: &World| !world.stolen),
            Property::sometimes("a task is done", |_, world: &World| {
                world.row.status == Status::Done
            }),
            Property::sometimes(AGAIN, |_, world: &World| {
                // A number that was handed out again, to somebody who found it taken.
                world.workers.iter().any(|worker| {
                    let again = |owner: &Owner| {
                        world
                            .stream
                            .iter()
                            .any(|entry| entry.attempt == owner.attempt && entry.by != owner.claim)
                    };
                    matches!(worker, Worker::Writes { owner, .. } if again(owner))
                })
            }),
        ]
    }
}

const TWO_WRITERS: &str = "an attempt's number never has two writers";
const STOLEN: &str = "a row is changed by the claim that it names";
const AGAIN: &str = "a number is handed out again";

fn found(fence: Fence) -> Vec<&'static str> {
    let checker = fence.checker().threads(2).finish_when(HasDiscoveries::All).spawn_bfs().join();
    println!("states explored: {}", checker.unique_state_count());
    checker.assert_any_discovery("a task is done");
    checker.assert_any_discovery(AGAIN);
    [TWO_WRITERS, STOLEN].into_iter().filter(|name| checker.discovery(name).is_some()).collect()
}

#[test]
fn a_number_that_a_standby_hands_out_again_never_has_two_writers() {
    let none = Mutation::None;
    assert_eq!(found(Fence { failovers: 1, losses: 0, mutation: none }), [""; 0]);
    assert_eq!(found(Fence { failovers: 2, losses: 0, mutation: none }), [""; 0]);
}

#[test]
fn a_fence_by_the_number_alone_is_caught() {
    let broken = |mutation| found(Fence { failovers: 1, losses: 0, mutation });
    assert!(broken(Mutation::StreamByNumber).contains(&TWO_WRITERS));
    assert!(broken(Mutation::StatementsByNumber).contains(&STOLEN));
}

/// The limit of the fence: its half in the stream is as durable as Redis. Where both
/// stores lose what they had confirmed, within one heartbeat, the first owner may
/// write on until the heartbeat tells it.
#[test]
fn where_both_stores_forget_at_once_the_stream_is_no_fence() {
    let fence = Fence { failovers: 1, losses: 1, mutation: Mutation::None };
    let checker = fence.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    assert!(checker.discovery(TWO_WRITERS).is_some());
}
