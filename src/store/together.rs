//! Questions that many ask at once, answered by one statement.
//!
//! What is asked while a statement is under way is asked together by the next:
//! alone, a question waits for nobody; when thousands of readers come back in
//! the same second, they cost PostgreSQL some dozens of statements.

use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::{Error, Result};
use crate::sync::lock;

/// Questions of one statement, at most.
const BATCH: usize = 500;

/// Asks together; clones do so with each other.
#[derive(Debug)]
pub(super) struct Together<Q, A> {
    asked: Arc<Mutex<Asked<Q, A>>>,
}

impl<Q, A> Clone for Together<Q, A> {
    fn clone(&self) -> Self {
        Self { asked: self.asked.clone() }
    }
}

#[derive(Debug)]
struct Asked<Q, A> {
    waiting: Vec<(Q, oneshot::Sender<Result<A>>)>,
    /// A statement is under way, and looks here afterwards.
    busy: bool,
}

impl<Q, A> Default for Together<Q, A> {
    fn default() -> Self {
        Self { asked: Arc::new(Mutex::new(Asked { waiting: Vec::new(), busy: false })) }
    }
}

impl<Q: Send + 'static, A: Send + 'static> Together<Q, A> {
    /// One question's answer. `statement` answers many, each at the place of its
    /// question; whose is used depends on who asks first.
    ///
    /// # Errors
    /// When the statement failed, for all that it was to answer.
    pub(super) async fn ask<F>(
        &self,
        question: Q,
        statement: impl Fn(Vec<Q>) -> F + Send + 'static,
    ) -> Result<A>
    where
        F: Future<Output = Result<Vec<Result<A>>>> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let first = {
            let mut asked = lock(&self.asked);
            asked.waiting.push((question, answer));
            !std::mem::replace(&mut asked.busy, true)
        };
        if first {
            // A task of its own: who asked first may leave before the answer.
            tokio::spawn(self.clone().answer(statement));
        }
        // Not answered is only what the runtime's end cut off.
        answered.await.unwrap_or(Err(Error::Unavailable(Arc::new(sqlx::Error::WorkerCrashed))))
    }

    async fn answer<F>(self, statement: impl Fn(Vec<Q>) -> F + Send)
    where
        F: Future<Output = Result<Vec<Result<A>>>> + Send,
    {
        loop {
            let (questions, askers): (Vec<_>, Vec<_>) = {
                let mut asked = lock(&self.asked);
                let count = asked.waiting.len().min(BATCH);
                if count == 0 {
                    asked.busy = false;
                    return;
                }
                asked.waiting.drain(..count).unzip()
            };
            match statement(questions).await {
                Ok(answers) => {
                    for (asker, answer) in askers.into_iter().zip(answers) {
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
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_is_asked_meanwhile_is_asked_together() {
        let together = Together::<usize, usize>::default();
        let statements = Arc::new(AtomicUsize::new(0));
        let ask = |question: usize| {
            let statements = statements.clone();
            together.ask(question, move |questions| {
                statements.fetch_add(1, Ordering::Relaxed);
                async move {
                    tokio::task::yield_now().await;
                    if questions.contains(&13) {
                        return Err(Error::Corrupt("unlucky".into()));
                    }
                    Ok(questions.into_iter().map(|question| Ok(question * 2)).collect())
                }
            })
        };
        assert_eq!(ask(7).await.expect("an answer"), 14);
        assert_eq!(statements.swap(0, Ordering::Relaxed), 1);
        let answers = futures_util::future::join_all((100..100 + 2 * BATCH).map(&ask)).await;
        for (question, answer) in (100..).zip(answers) {
            assert_eq!(answer.expect("an answer"), question * 2);
        }
        assert_eq!(statements.load(Ordering::Relaxed), 2);
        let (unlucky, other) = tokio::join!(ask(13), ask(14));
        assert!(unlucky.is_err() && other.is_err());
        assert_eq!(ask(14).await.expect("an answer"), 28);
    }

    #[tokio::test]
    async fn who_asks_first_may_leave() {
        let together = Together::<(), ()>::default();
        let (go, gone) = oneshot::channel::<()>();
        let gone = Arc::new(Mutex::new(Some(gone)));
        let ask = || {
            let gone = gone.clone();
            together.ask((), move |questions| {
                let gone = lock(&gone).take();
                async move {
                    if let Some(gone) = gone {
                        let _ = gone.await;
                    }
                    Ok(questions.into_iter().map(Ok).collect())
                }
            })
        };
        let mut first = Box::pin(ask());
        assert!(futures_util::poll!(&mut first).is_pending());
        drop(first);
        let mut second = Box::pin(ask());
        assert!(futures_util::poll!(&mut second).is_pending());
        go.send(()).expect("waited for");
        second.await.expect("an answer");
    }
}
