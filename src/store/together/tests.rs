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
