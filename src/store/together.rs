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
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use futures_util::poll;
    use tokio::sync::Semaphore;

    use super::*;

    /// Doubles numbers; 13 breaks it, and 17 worse.
    #[derive(Debug, Clone)]
    struct Double {
        statements: Arc<AtomicUsize>,
        go: Arc<Semaphore>,
    }

    impl Statement for Double {
        type Question = u32;
        type Answer = u32;

        async fn run(&self, questions: &[u32]) -> Result<Vec<Result<u32>>> {
            self.statements.fetch_add(1, Ordering::Relaxed);
            drop(self.go.acquire().await);
            assert!(!questions.contains(&17), "unlucky");
            if questions.contains(&13) {
                return Err(Error::Corrupt("unlucky".into()));
            }
            Ok(questions.iter().map(|question| Ok(question * 2)).collect())
        }

        fn weight(question: &u32) -> usize {
            if *question == 1_000 { BATCH } else { 1 }
        }

        fn changes(question: &u32) -> Option<Uuid> {
            (*question < 10).then(|| Uuid::from_u128((*question).into()))
        }
    }

    fn doubles(permits: usize) -> (Together<Double>, Arc<AtomicUsize>, Arc<Semaphore>) {
        let (statements, go) = (Arc::default(), Arc::new(Semaphore::new(permits)));
        let double = Double { statements: Arc::clone(&statements), go: go.clone() };
        (Together::new(double), statements, go)
    }

    /// Asks while a statement for another is under way; answers, and how many
    /// statements they took.
    async fn meanwhile(questions: &[u32]) -> (Vec<Result<u32>>, usize) {
        let (together, statements, go) = doubles(0);
        let mut first = Box::pin(together.ask(100));
        assert!(poll!(&mut first).is_pending());
        tokio::task::yield_now().await;
        let answers = join_all(questions.iter().map(|question| together.ask(*question)));
        let (first, answers, ()) = tokio::join!(first, answers, async {
            tokio::task::yield_now().await;
            go.add_permits(1);
        });
        assert_eq!(first.expect("an answer"), 200);
        (answers, statements.load(Ordering::Relaxed) - 1)
    }

    #[tokio::test]
    async fn what_is_asked_meanwhile_is_asked_together() {
        let all: Vec<_> = (2_000..2_000 + 2 * u32::try_from(BATCH).expect("small")).collect();
        let (answers, statements) = meanwhile(&all).await;
        assert_eq!(statements, 2);
        for (question, answer) in all.iter().zip(answers) {
            assert_eq!(answer.expect("an answer"), question * 2);
        }
    }

    /// Answers with the time; one statement in so many milliseconds.
    #[derive(Debug, Clone)]
    struct Paced<const MS: u64>(Arc<AtomicUsize>);

    impl<const MS: u64> Statement for Paced<MS> {
        type Question = u32;
        type Answer = Instant;

        const PACE: Duration = Duration::from_millis(MS);

        async fn run(&self, questions: &[u32]) -> Result<Vec<Result<Instant>>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(questions.iter().map(|_| Ok(Instant::now())).collect())
        }
    }

    #[tokio::test]
    async fn statements_keep_their_distance() {
        let together = Together::new(Paced::<200>(Arc::default()));
        let before = Instant::now();
        together.ask(0).await.expect("an answer");
        for answer in join_all((1..50).map(|question| together.ask(question))).await {
            assert!(answer.expect("an answer") >= before + Duration::from_millis(200));
        }
        assert_eq!(together.statement.0.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn the_first_in_a_while_does_not_wait() {
        let together = Together::new(Paced::<3_600_000>(Arc::default()));
        together.ask(0).await.expect("an answer");
    }

    #[tokio::test]
    async fn what_is_heavy_or_changes_the_same_row_goes_apart() {
        let (answers, statements) = meanwhile(&[5, 6, 5, 5]).await;
        assert_eq!(statements, 3);
        assert!(answers.iter().all(Result::is_ok));
        let (answers, statements) = meanwhile(&[11, 1_000, 12, 1_000]).await;
        assert_eq!(statements, 3);
        assert!(answers.iter().all(Result::is_ok));
    }

    /// Writes down what each statement was asked. From 1,000 on, questions are heavy.
    #[derive(Debug, Clone, Default)]
    struct Noted(Arc<Mutex<Vec<Vec<u32>>>>);

    impl Statement for Noted {
        type Question = u32;
        type Answer = u32;

        async fn run(&self, questions: &[u32]) -> Result<Vec<Result<u32>>> {
            lock(&self.0).push(questions.to_vec());
            tokio::task::yield_now().await;
            Ok(questions.iter().copied().map(Ok).collect())
        }

        fn weight(question: &u32) -> usize {
            if *question >= 1_000 { 2 * BATCH } else { 1 }
        }
    }

    #[tokio::test]
    async fn a_light_question_waits_for_one_heavy_one_at_most() {
        let together = Together::new(Noted::default());
        let questions = (1_000..1_030).chain(0..10);
        let asked = join_all(questions.map(|question| together.ask(question)));
        assert!(asked.await.iter().all(Result::is_ok));
        let noted = lock(&together.statement.0).clone();
        assert_eq!(noted.len(), 31);
        assert_eq!((noted[0].len(), &noted[1][..]), (1, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9][..]));
        // Nor do heavy ones wait for ever, while light ones come.
        let together = Together::new(Noted::default());
        let light = join_all((0..20).map(async |question| {
            for _ in 0..20 {
                together.ask(question).await.expect("an answer");
            }
        }));
        let heavy = join_all((1_000..1_003).map(|question| together.ask(question)));
        tokio::join!(light, heavy);
        let noted = lock(&together.statement.0).clone();
        assert!(noted[..8].iter().filter(|asked| asked[0] >= 1_000).count() == 3, "{noted:?}");
    }

    /// Takes too long for more than four questions.
    #[derive(Debug, Clone, Default)]
    struct Slow(Arc<Mutex<Vec<usize>>>);

    impl Statement for Slow {
        type Question = u32;
        type Answer = u32;

        async fn run(&self, questions: &[u32]) -> Result<Vec<Result<u32>>> {
            lock(&self.0).push(questions.len());
            if questions.len() > 4 {
                return Err(Error::Timeout(STATEMENT_LIMIT));
            }
            Ok(questions.iter().copied().map(Ok).collect())
        }
    }

    #[tokio::test]
    async fn what_ran_out_of_time_is_asked_in_smaller_batches() {
        let together = Together::new(Slow::default());
        let mut left: Vec<u32> = (0..32).collect();
        while !left.is_empty() {
            let answers = join_all(left.iter().map(|question| together.ask(*question))).await;
            let answered: Vec<_> = answers.into_iter().filter_map(Result::ok).collect();
            left.retain(|question| !answered.contains(question));
        }
        let sizes = lock(&together.statement.0).clone();
        assert_eq!(sizes[..4], [32, 16, 8, 4], "{sizes:?}");
        assert!(sizes.len() < 32, "{sizes:?}");
    }

    #[tokio::test]
    async fn what_cannot_be_answered_spoils_nothing_else() {
        for unlucky in [13, 17] {
            let (answers, _) = meanwhile(&[11, unlucky, 12]).await;
            assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
        }
    }

    #[tokio::test]
    async fn a_statement_that_panics_leaves_nobody_waiting() {
        let (together, _, _) = doubles(1);
        assert!(together.ask(17).await.is_err());
        assert_eq!(together.ask(18).await.expect("an answer"), 36);
    }

    #[tokio::test]
    async fn who_asks_first_may_leave_and_who_waits_no_more_is_not_asked() {
        let (together, statements, go) = doubles(0);
        let mut first = Box::pin(together.ask(100));
        assert!(poll!(&mut first).is_pending());
        tokio::task::yield_now().await;
        drop(first);
        let mut second = Box::pin(together.ask(101));
        assert!(poll!(&mut second).is_pending());
        drop(second);
        let third = together.ask(102);
        go.add_permits(1);
        assert_eq!(third.await.expect("an answer"), 204);
        assert_eq!(statements.load(Ordering::Relaxed), 2);
    }
}
