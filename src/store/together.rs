//! What many ask or change at once, by one statement.
//!
//! What comes while a statement is under way goes together in the next: alone,
//! it waits for nobody. When hundreds of tasks begin in the same second, or
//! thousands of readers come back, they share round trips, commits and the
//! disk's writes, and so cost PostgreSQL a fraction of what each would alone.
//! Statements of a kind keep a distance, since a quick server would otherwise
//! answer each alone until it is overwhelmed.
//!
//! Nobody waits long for others' bytes: a statement has a weight, heavy questions go
//! alone and take turns with the light ones, and what ran out of time is asked
//! in smaller batches.

use std::collections::HashSet;
use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Error, Result, STATEMENT_LIMIT};
use crate::log_limit::LogLimit;
use crate::sync::lock;

/// A distance that nobody notices who waits for a model, and in which many a
/// change comes together when there is much to do.
pub(super) const BRIEFLY: Duration = Duration::from_millis(10);
/// What the questions of one statement weigh, at most.
const BATCH: usize = 512;
/// A heavier question is answered alone, and then light ones come first: 256 KiB.
const HEAVY: usize = BATCH / 8;

/// A statement that answers many questions.
pub(super) trait Statement: Clone + Send + Sync + 'static {
    type Question: Debug + Send + Sync + 'static;
    type Answer: Debug + Send + 'static;

    /// How long after one statement the next may begin; the first to ask in a
    /// while doesn't wait.
    const PACE: Duration = Duration::ZERO;

    /// Answers each question, in their order.
    ///
    /// # Errors
    /// When the statement failed, which is so for all of them.
    fn run(
        &self,
        questions: &[Self::Question],
    ) -> impl Future<Output = Result<Vec<Result<Self::Answer>>>> + Send;

    /// The question's part of what a statement may weigh (512).
    fn weight(_: &Self::Question) -> usize {
        1
    }

    /// The row that a question changes, if it does: a statement changes a row
    /// once at most, so two such questions don't share one.
    fn changes(_: &Self::Question) -> Option<Uuid> {
        None
    }
}

/// What a change weighs whose texts are so many bytes: 64 of them, or 2 MiB,
/// share a statement.
pub(super) fn weight_of(bytes: usize) -> usize {
    (bytes / 4096).max(BATCH / 64)
}

/// One parameter of a statement: the same of each question.
pub(super) fn each<'a, Q, T>(questions: &[&'a Q], one: impl Fn(&'a Q) -> T) -> Vec<T> {
    questions.iter().map(|question| one(question)).collect()
}

/// Runs a statement for all who ask; clones ask together.
#[derive(Debug, Clone)]
pub(super) struct Together<S: Statement> {
    statement: S,
    asked: Arc<Mutex<Asked<S>>>,
}

#[derive(Debug)]
struct Asked<S: Statement> {
    waiting: Vec<Waiting<S>>,
    /// What a statement may weigh now: less after one that took too long.
    limit: usize,
    /// The last statement answered a heavy question.
    was_heavy: bool,
    /// A statement is under way, and looks here afterwards.
    busy: bool,
    /// When the last statement was begun.
    begun: Option<Instant>,
}

type Waiting<S> = (<S as Statement>::Question, Asker<S>);
type Asker<S> = oneshot::Sender<Result<<S as Statement>::Answer>>;

impl<S: Statement> Together<S> {
    pub(super) fn new(statement: S) -> Self {
        let asked =
            Asked { waiting: Vec::new(), limit: BATCH, was_heavy: false, busy: false, begun: None };
        Self { statement, asked: Arc::new(Mutex::new(asked)) }
    }

    /// One question's answer.
    ///
    /// # Errors
    /// When the statement failed for all that it was to answer (where that may
    /// be another's fault, each was asked again alone), or there is no answer
    /// in time.
    pub(super) async fn ask(&self, question: S::Question) -> Result<S::Answer> {
        let (asker, answer) = oneshot::channel();
        let first = {
            let mut asked = lock(&self.asked);
            asked.waiting.push((question, asker));
            !std::mem::replace(&mut asked.busy, true)
        };
        if first {
            // A task of its own: who asked first may leave before the answer.
            tokio::spawn(self.clone().answer_all());
        }
        match tokio::time::timeout(STATEMENT_LIMIT, answer).await {
            // Not answered is only what the runtime's end cut off.
            Ok(answer) => answer.unwrap_or_else(|_| Err(gone())),
            Err(_) => Err(Error::Timeout(STATEMENT_LIMIT)),
        }
    }

    async fn answer_all(self) {
        loop {
            pace::<S>(&self.asked).await;
            let (questions, askers) = {
                let mut asked = lock(&self.asked);
                let batch = next(&mut asked);
                if batch.0.is_empty() {
                    asked.busy = false;
                    return;
                }
                batch
            };
            let outcome = self.run(&questions).await;
            self.adapt(&questions, &outcome);
            match outcome {
                Ok(answers) => {
                    for (asker, answer) in askers.into_iter().zip(answers) {
                        let _ = asker.send(answer);
                    }
                }
                // It may be for one of them: for its text, or a lock on its row.
                Err(error) if error.was_answered() && questions.len() > 1 => {
                    for (question, asker) in questions.iter().zip(askers) {
                        if asker.is_closed() {
                            continue;
                        }
                        let answers = self.run(std::slice::from_ref(question)).await;
                        let answer = answers.and_then(|mut answers| {
                            answers.pop().unwrap_or_else(|| Err(error.clone()))
                        });
                        let _ = asker.send(answer);
                    }
                }
                Err(error) => {
                    for asker in askers {
                        let _ = asker.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    /// Halves what a statement may weigh when one took too long, and adds a little with
    /// each that didn't.
    fn adapt<T>(&self, questions: &[S::Question], outcome: &Result<T>) {
        static LIMIT: LogLimit = LogLimit::new();
        let mut asked = lock(&self.asked);
        match outcome {
            Err(error) if error.is_timeout() => {
                let weight: usize = questions.iter().map(S::weight).sum();
                asked.limit = (weight.min(asked.limit) / 2).max(1);
                if let Some(skipped) = LIMIT.pass() {
                    tracing::warn!(
                        %error,
                        skipped,
                        statement = std::any::type_name::<S>(),
                        questions = questions.len(),
                        "a statement took too long: the next ones answer fewer at once"
                    );
                }
            }
            Err(_) => {}
            Ok(_) => asked.limit = (asked.limit + 1).min(BATCH),
        }
    }

    /// The statement; one that panics must not leave the others waiting for ever.
    async fn run(&self, questions: &[S::Question]) -> Result<Vec<Result<S::Answer>>> {
        let answers = AssertUnwindSafe(self.statement.run(questions)).catch_unwind().await;
        answers.unwrap_or_else(|_| Err(Error::Corrupt("a statement panicked".to_owned())))
    }
}

fn gone() -> Error {
    Error::Unavailable(Arc::new(sqlx::Error::WorkerCrashed))
}

/// Waits until another statement may begin.
async fn pace<S: Statement>(asked: &Mutex<Asked<S>>) {
    let due = lock(asked).begun.map(|begun| begun + S::PACE);
    if let Some(due) = due
        && due > Instant::now()
    {
        tokio::time::sleep_until(due).await;
    }
    lock(asked).begun = Some(Instant::now());
}

/// Takes what the next statement answers. Who doesn't wait any more has been
/// told that nobody knows what came of it: it is not asked.
fn next<S: Statement>(asked: &mut Asked<S>) -> (Vec<S::Question>, Vec<Asker<S>>) {
    asked.waiting.retain(|(_, asker)| !asker.is_closed());
    let light = |question: &S::Question| S::weight(question) <= HEAVY;
    let light_first = asked.was_heavy && asked.waiting.iter().any(|(question, _)| light(question));
    let (mut questions, mut askers, mut later) = (Vec::new(), Vec::new(), Vec::new());
    let mut weight = 0;
    let mut changed = HashSet::new();
    for (question, asker) in asked.waiting.drain(..) {
        let heavier = weight + S::weight(&question);
        let fits = if questions.is_empty() {
            light(&question) || !light_first
        } else {
            light(&question) && !asked.was_heavy && heavier <= asked.limit
        };
        if fits && S::changes(&question).is_none_or(|row| changed.insert(row)) {
            asked.was_heavy = !light(&question);
            weight = heavier;
            questions.push(question);
            askers.push(asker);
        } else {
            later.push((question, asker));
        }
    }
    asked.waiting = later;
    (questions, askers)
}

#[cfg(test)]
mod tests;
