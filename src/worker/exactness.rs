//! Promise 2 without servers: any history, any loss, any cut, and a reader has
//! what a plain list says, or knows that it has not.
//!
//! What is tested is the real thing: [`Place`] and [`Outbox`] write, `History`
//! folds, [`Splice`] and [`Answer::apply`] read. What is made up is around
//! them: Redis ([`redis`]), the worker's loop without its I/O ([`writer`]),
//! clients and what `tasks/follow.rs` does for them ([`viewer`]). The reference
//! is a list of what the answer was at each ID, made of what the model said.
//!
//! [`Place`]: crate::streams::log::place::Place
//! [`Outbox`]: super::outbox::Outbox
//! [`Splice`]: crate::domain::splice::Splice
//! [`Answer::apply`]: crate::domain::Answer::apply

mod redis;
mod viewer;
mod writer;

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use self::redis::{Fate, Redis};
use self::viewer::{Viewer, follow_to_the_end};
use self::writer::Writer;
use crate::domain::{Answer, EventId};

/// The answer at each ID that was ever given to an event.
type Reference = BTreeMap<EventId, Answer>;

/// How a task ended, as PostgreSQL has it.
#[derive(Debug, Clone)]
pub(super) struct End {
    id: EventId,
    answer: Answer,
}

/// What PostgreSQL knows.
#[derive(Debug, Default)]
struct Postgres {
    attempt: u32,
    end: Option<End>,
}

/// Something that happens.
#[derive(Debug, Clone)]
enum Step {
    /// The model says a piece; true: of its reasoning.
    Say(String, bool),
    /// The worker appends what is due, if anything.
    Append,
    /// Redis or the way to it, when nothing is being appended.
    Happens(Fate),
    /// The worker dies, and another attempt begins.
    Die,
    /// The attempt fails and says so; another begins.
    Retry,
    /// Somebody who was taken for dead appends once more.
    Zombie,
    /// A viewer's server reads so many entries, and so many of the events that
    /// it sends arrive.
    View(usize, usize, usize),
    /// A viewer comes back with its cursor.
    Cut(usize),
    /// A viewer comes without one.
    Forget(usize),
    /// A viewer comes with a cursor that nobody gave it.
    Lie(usize, u32, u64),
}

fn any_fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        30 => Just(Fate::Well),
        2 => Just(Fate::ReplyLost),
        1 => Just(Fate::RequestLost),
        1 => Just(Fate::Reconnected),
        2 => (1usize..9).prop_map(Fate::TailLost),
        1 => Just(Fate::AllLost),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => ("[a-z]{1,3}", any::<bool>()).prop_map(|(text, reasoning)| Step::Say(text, reasoning)),
        12 => Just(Step::Append),
        2 => any_fate().prop_map(Step::Happens),
        1 => Just(Step::Die),
        1 => Just(Step::Retry),
        1 => Just(Step::Zombie),
        12 => (0usize..3, 1usize..9, 0usize..9).prop_map(|(n, read, sent)| Step::View(n, read, sent)),
        3 => (0usize..3).prop_map(Step::Cut),
        1 => (0usize..3).prop_map(Step::Forget),
        1 => (0usize..3, 0u32..4, 0u64..20).prop_map(|(n, a, s)| Step::Lie(n, a, s)),
    ]
}

/// How the task ends.
#[derive(Debug, Clone, Copy)]
enum Ending {
    /// `complete`, then `done`.
    Complete,
    /// As above, but the worker dies before it commits; the next one finds
    /// `complete` in the stream, or else calls the model again.
    CompleteFound,
    /// Everything is appended, then the end.
    Flushed,
    /// Redis doesn't confirm the last append, which arrives or not.
    Unconfirmed(bool),
    /// By somebody who doesn't own the attempt.
    ByOthers,
}

fn any_ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        Just(Ending::Complete),
        Just(Ending::CompleteFound),
        Just(Ending::Flushed),
        any::<bool>().prop_map(Ending::Unconfirmed),
        Just(Ending::ByOthers),
    ]
}

/// One task and everybody around it.
struct World {
    redis: Redis,
    postgres: Postgres,
    reference: Reference,
    writer: Writer,
    zombies: Vec<Writer>,
    viewers: Vec<Viewer>,
}

impl World {
    fn new(maxlen: usize, fates: Vec<Fate>) -> Self {
        let mut world = Self {
            redis: Redis::new(maxlen, fates),
            postgres: Postgres::default(),
            reference: Reference::new(),
            writer: Writer::new(1),
            zombies: Vec::new(),
            viewers: (0..3).map(|_| Viewer::default()).collect(),
        };
        world.begin();
        world
    }

    /// The next attempt begins; the writer before it doesn't know.
    fn begin(&mut self) {
        self.postgres.attempt += 1;
        let next = Writer::new(self.postgres.attempt);
        self.zombies.push(std::mem::replace(&mut self.writer, next));
        self.writer.start(&mut self.redis, &mut self.reference);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Say(text, reasoning) => self.writer.say(text, reasoning),
            Step::Append => {
                let written = self.writer.append_due(&mut self.redis, &mut self.reference, true);
                if let Some(written) = written {
                    // Nothing that was lost stays lost for longer than this.
                    let mut late = Viewer::default();
                    late.view(&self.redis, &self.postgres, &self.reference, 1000, 1000);
                    assert_eq!(&late.answer, written);
                }
            }
            Step::Happens(fate) => self.redis.suffer(fate),
            Step::Die => self.begin(),
            Step::Retry => {
                self.writer.retrying(&mut self.redis, &mut self.reference);
                self.begin();
            }
            Step::Zombie => {
                for zombie in &mut self.zombies {
                    zombie.append_due(&mut self.redis, &mut self.reference, false);
                }
            }
            Step::View(n, read, arrive) => {
                self.viewers[n].view(&self.redis, &self.postgres, &self.reference, read, arrive);
            }
            Step::Cut(n) => self.viewers[n].cut(),
            Step::Forget(n) => self.viewers[n] = Viewer::default(),
            Step::Lie(n, attempt, seq) => {
                self.viewers[n] = Viewer::lying(EventId::new(attempt, seq));
            }
        }
        self.redis.always_has_a_reset();
    }

    fn end(&mut self, ending: Ending) {
        let (redis, reference) = (&mut self.redis, &mut self.reference);
        let (attempt, end) = match ending {
            Ending::Complete => (self.postgres.attempt, self.writer.complete(redis, reference)),
            Ending::CompleteFound => {
                let complete = self.writer.complete(redis, reference);
                let history = redis.history();
                if history.completion.is_none() {
                    self.begin();
                    return self.end(Ending::Flushed);
                }
                // Whoever finds `complete` commits what the model said.
                assert_eq!(history.answer, complete.answer);
                let id = EventId::new(self.postgres.attempt + 1, 1);
                (id.attempt, End { id, answer: history.answer })
            }
            Ending::Flushed => (self.postgres.attempt, self.writer.flushed(redis, reference)),
            Ending::Unconfirmed(arrives) => {
                (self.postgres.attempt, self.writer.unconfirmed(redis, reference, arrives))
            }
            Ending::ByOthers => {
                let id = EventId::new(self.postgres.attempt + 1, 1);
                (id.attempt, End { id, answer: redis.history().answer })
            }
        };
        reference.insert(end.id, end.answer.clone());
        if attempt > self.postgres.attempt {
            reference.insert(end.id.before(), end.answer.clone());
        }
        redis.append_end(&end, attempt > self.postgres.attempt);
        self.postgres = Postgres { attempt, end: Some(end) };
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_is_lost_trimmed_or_cut_a_reader_has_what_the_list_says(
        maxlen in 6usize..16,
        steps in vec(any_step(), 0..120),
        fates in vec(any_fate(), 1..40),
        ending in any_ending(),
        after in vec(any_step(), 0..12),
    ) {
        let mut world = World::new(maxlen, fates);
        for step in steps {
            world.step(step);
        }
        world.end(ending);
        // The worker has ended; everything else goes on.
        for step in after {
            if !matches!(step, Step::Say(..) | Step::Append | Step::Die | Step::Retry) {
                world.step(step);
            }
        }
        let end = world.postgres.end.clone().expect("it has ended");
        for viewer in &mut world.viewers {
            follow_to_the_end(viewer, &world.redis, &world.postgres, &world.reference);
            prop_assert!(viewer.lied() || viewer.answer == end.answer, "{viewer:?} at {end:?}");
        }
        let mut late = Viewer::default();
        follow_to_the_end(&mut late, &world.redis, &world.postgres, &world.reference);
        prop_assert_eq!(late.answer, end.answer);
    }
}
