//! Promise 1's other half: from wherever faults have led, the task ends.
//!
//! Not as stateright's `eventually`, which misses counterexamples where paths
//! meet again, but backwards over the whole graph: from every reachable state
//! there is a way to the end that needs no fault and no caller. With steps that
//! are not put off for ever (a worker that can do something does it), that way
//! is taken.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rill::domain::Class;
use stateright::Model;

use super::actions::Action;
use super::model::Protocol;
use super::mutation::Mutation;
use super::world::World;

/// Everything that is reachable.
#[derive(Default)]
struct Graph {
    worlds: Vec<World>,
    /// How it was first reached.
    from: Vec<Option<(usize, Action)>>,
    /// Backwards, the steps that will be taken without anybody's help.
    back: Vec<Vec<usize>>,
}

impl Graph {
    fn explore(protocol: Protocol) -> Self {
        let mut graph = Self::default();
        let mut known: HashMap<World, usize> = HashMap::new();
        let start = protocol.start();
        known.insert(start.clone(), 0);
        graph.push(start, None);
        let mut n = 0;
        while n < graph.worlds.len() {
            let world = graph.worlds[n].clone();
            for (action, next) in protocol.next_steps(&world) {
                let to = match known.entry(next) {
                    Entry::Occupied(entry) => *entry.get(),
                    Entry::Vacant(entry) => {
                        let to = graph.worlds.len();
                        graph.push(entry.key().clone(), Some((n, action)));
                        entry.insert(to);
                        to
                    }
                };
                if !action.is_optional() {
                    graph.back[to].push(n);
                }
            }
            n += 1;
        }
        graph
    }

    fn push(&mut self, world: World, from: Option<(usize, Action)>) {
        self.worlds.push(world);
        self.from.push(from);
        self.back.push(Vec::new());
    }

    /// The first state from which the end can't be reached.
    fn stuck(&self) -> Option<usize> {
        let mut ends = vec![false; self.worlds.len()];
        let over = |n: &usize| self.worlds[*n].is_over();
        let mut open: Vec<_> = (0..self.worlds.len()).filter(over).collect();
        while let Some(n) = open.pop() {
            if !std::mem::replace(&mut ends[n], true) {
                open.extend(&self.back[n]);
            }
        }
        ends.iter().position(|ends| !ends)
    }

    /// The way there.
    fn way(&self, mut to: usize) -> Vec<Action> {
        let mut way = Vec::new();
        while let Some((before, action)) = self.from[to] {
            way.push(action);
            to = before;
        }
        way.reverse();
        way
    }
}

fn always_ends(what: &str, protocol: Protocol) {
    let graph = Graph::explore(protocol);
    println!("{what}: states explored: {}", graph.worlds.len());
    if let Some(n) = graph.stuck() {
        panic!("{what}: stuck after {:#?}\n{:#?}", graph.way(n), graph.worlds[n]);
    }
}

#[test]
fn from_every_state_the_task_ends() {
    always_ends("a fault", Protocol::new(1));
}

#[test]
fn from_every_state_the_task_ends_and_its_reader_learns_of_it() {
    always_ends("a cancel, a reader and no fault", Protocol::new(0).with_cancel().with_reader(1));
}

#[test]
fn from_every_state_between_two_versions_the_task_ends() {
    always_ends("a newer version's content", Protocol::new(1).with_newer(Class::Content));
}

#[test]
#[ignore = "larger bounds: minutes in the release profile"]
fn from_every_state_with_two_faults_the_task_ends() {
    always_ends("two faults", Protocol::new(2));
}

#[test]
fn without_the_relay_a_lost_job_is_a_lost_task() {
    let graph = Graph::explore(Protocol::new(1).mutated(Mutation::NoRelay));
    let stuck = graph.stuck().expect("a task that nothing ends");
    println!("NoRelay: stuck after {} steps: {:?}", graph.way(stuck).len(), graph.way(stuck));
}
