//! The model as the checker takes it: bounds, initial state, properties.

use rill::domain::Class;
use stateright::{Model, Property};

use super::actions::Action;
use super::joint::{self, Joint};
use super::log::{self, Log};
use super::mutation::Mutation;
use super::row::Row;
use super::world::{Ender, Job, Reader, ReaderPlace, Run, Worker, World};
use super::{reader, redis};

/// What is explored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Protocol {
    /// Faults in all: crashes, lost replies, what Redis and PostgreSQL do.
    pub(crate) faults: u8,
    /// The caller may cancel, at any time.
    pub(crate) cancels: bool,
    /// A reader, whose connection may be cut so often.
    pub(crate) reader: Option<u8>,
    /// Half of the workers are of a newer version, whose attempts write an event of
    /// this class that the others don't know.
    pub(crate) newer: Option<Class>,
    pub(crate) mutation: Mutation,
}

/// Each property, and the rules whose breach is its counterexample.
pub(crate) const PROPERTIES: [(&str, &[&str]); 9] = [
    (
        "a replaced attempt changes nothing (promise 3)",
        &[redis::ZOMBIE_ROW, redis::ZOMBIE_LOG, log::ASCENDING, joint::BEGUN, redis::DIVERGED],
    ),
    ("an ID has one content for ever (promise 2)", &[log::ONE_CONTENT]),
    (
        "a reader has what one attempt said, and at the end the answer (promise 2)",
        &[reader::MIXED, reader::NOT_THE_ANSWER, reader::NOT_THE_END],
    ),
    (
        "gaps heal, and snapshots say what was written (promise 2)",
        &[log::HEALS, log::SNAPSHOT, log::NO_JUMP, log::OPENING, log::COMPLETE],
    ),
    (
        "a task ends once, and its terminal event says how (promise 1)",
        &[redis::ENDED_TWICE, log::ONE_END, joint::COMMITTED],
    ),
    (
        "a job is acknowledged when its task's end is told (promise 1)",
        &[redis::UNTOLD, joint::ACKNOWLEDGED, joint::ADDED, joint::ACCEPTED],
    ),
    ("no healthy run is taken over", &[redis::HEALTHY, joint::STATEMENT]),
    ("a complete answer is not asked for again", &[redis::SECOND_CALL, joint::NO_SECOND_CALL]),
    ("no content is dropped that a newer worker understands", &[redis::LESS]),
];

/// Only between two versions; else it holds at once.
pub(crate) const LEFT: &str = "a task is left to a newer worker";

impl Protocol {
    pub(crate) const fn new(faults: u8) -> Self {
        Self { faults, cancels: false, reader: None, newer: None, mutation: Mutation::None }
    }

    pub(crate) const fn with_reader(self, cuts: u8) -> Self {
        Self { reader: Some(cuts), ..self }
    }

    pub(crate) const fn with_cancel(self) -> Self {
        Self { cancels: true, ..self }
    }

    pub(crate) const fn with_newer(self, class: Class) -> Self {
        Self { newer: Some(class), ..self }
    }

    pub(crate) const fn mutated(self, mutation: Mutation) -> Self {
        Self { mutation, ..self }
    }

    /// Two workers that are up, and a task that was accepted a moment ago.
    pub(crate) fn start(&self) -> World {
        let mut joint = Joint::default();
        let accepted = joint.accepted(Row::ACCEPTED).and_then(|()| joint.job_added(0));
        World {
            row: Row::ACCEPTED,
            answer: None,
            losses: 0,
            elapsed: false,
            fresh: 0b11,
            steady: 0b11,
            absent: 0,
            identity: 2,
            stream: None,
            jobs: vec![Job { entry: 0, holder: None }],
            workers: [0, 1].map(|id| Worker::Up { id, run: Run::Idle }),
            ender: Ender::Nobody,
            reader: self.reader.map(Reader::new),
            late: None,
            faults: self.faults,
            may_cancel: self.cancels,
            log: Log::default(),
            joint,
            broken: accepted.err().map(|broken| broken.rule),
            newer: self.newer,
            newer_content: 0,
        }
    }
}

impl World {
    /// The task has ended, and its reader knows.
    pub(crate) fn is_over(&self) -> bool {
        let told = |reader: &Reader| matches!(reader.place, ReaderPlace::Ended(_));
        self.row.status.is_end() && self.reader.as_ref().is_none_or(told)
    }

    fn keeps(&self, property: usize) -> bool {
        self.broken.is_none_or(|rule: &str| !PROPERTIES[property].1.contains(&rule))
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.start()]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Action>) {
        state.actions(self.mutation != Mutation::NoRelay, actions);
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut next = last.clone();
        next.step(action, self.mutation);
        next.faults -= u8::from(action.is_fault());
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let name = |n: usize| PROPERTIES[n].0;
        vec![
            Property::always(name(0), |_, world: &World| world.keeps(0)),
            Property::always(name(1), |_, world: &World| world.keeps(1)),
            Property::always(name(2), |_, world: &World| world.keeps(2)),
            Property::always(name(3), |_, world: &World| world.keeps(3)),
            Property::always(name(4), |_, world: &World| world.keeps(4)),
            Property::always(name(5), |_, world: &World| world.keeps(5)),
            Property::always(name(6), |_, world: &World| world.keeps(6)),
            Property::always(name(7), |_, world: &World| world.keeps(7)),
            Property::always(name(8), |_, world: &World| world.keeps(8)),
            Property::sometimes("a task is done", |_, world: &World| world.row.end.is_some()),
            Property::sometimes(LEFT, |model: &Self, world: &World| {
                let leaves = |worker: &Worker| {
                    matches!(worker, Worker::Up { run: Run::Release { later: true, .. }, .. })
                };
                model.newer != Some(Class::Content) || world.workers.iter().any(leaves)
            }),
        ]
    }
}
