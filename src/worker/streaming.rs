//! An attempt whose model is talking: one append at a time, to the end.

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio_util::sync::ReusableBoxFuture;

use super::Worker;
use super::attempt::{Outcome, Start, conclude, overdue, patiently, too_large};
use super::call::{Call, Said, wait};
use super::outbox::Outbox;
use super::running::Control;
use crate::domain::answer::Completion;
use crate::domain::event::Encoded;
use crate::domain::task::code;
use crate::domain::{Event, EventId, MessageId, TaskId};
use crate::metrics;
use crate::model::{Delta, ModelError, without_nul};
use crate::store::{Begun, RetryOutcome, TaskError};
use crate::streams::Receipt;
use crate::streams::log::{Log, Stopped};
use crate::tasks::Conclusion;

/// Why the streaming stopped.
enum Stop {
    Complete(Completion),
    Failed(ModelError),
    Cancelled,
    /// The drain's grace period is over.
    Drained,
    /// Another attempt has begun.
    Lost,
}

/// How long an ending waits for events that are still on their way. After it,
/// the end goes one ID further, and readers get the text from PostgreSQL.
pub(super) const FLUSH: Duration = Duration::from_secs(2);

/// Pieces of the answer that are taken in before others have their turn.
const AT_ONCE: usize = 64;

type Appended = (Log, Result<EventId, Stopped>);

/// An attempt whose model is talking.
pub(super) struct Streaming<'a> {
    worker: &'a Worker,
    task: TaskId,
    begun: &'a Begun,
    started_at: Instant,
    outbox: Outbox,
    /// The log, unless an append has it.
    log: Option<Log>,
    /// The one append in flight, unless the log is at hand. (A box for all of
    /// them: a token has one.)
    appending: ReusableBoxFuture<'static, Appended>,
    /// Where the outcome of the append in flight arrives.
    receipt: Arc<Receipt>,
    /// The ID that the append in flight has, or the last one had.
    sending: EventId,
    call: Call,
    /// Parameters of the request that the model's profile leaves out.
    dropped_parameters: Vec<String>,
    /// The oldest message of the prompt, where older ones are left out.
    prompt_begins_with: Option<MessageId>,
    /// Readers have seen text of an earlier attempt.
    shown_before: bool,
    /// The model has finished.
    completion: Option<Completion>,
    /// The stream has an event of this attempt.
    has_written: bool,
}

impl<'a> Streaming<'a> {
    pub(super) fn new(worker: &'a Worker, task: TaskId, begun: &'a Begun, start: Start) -> Self {
        let Start { call, dropped_parameters, prompt_begins_with, shown_before } = start;
        let log = worker.tasks.streams.log(task, begun.fence());
        Self {
            worker,
            task,
            begun,
            started_at: Instant::now(),
            outbox: Outbox::default(),
            receipt: log.receipt(),
            log: Some(log),
            appending: ReusableBoxFuture::new(pending()),
            sending: EventId::new(begun.attempt, 0),
            call,
            dropped_parameters,
            prompt_begins_with,
            shown_before,
            completion: None,
            has_written: false,
        }
    }

    /// Streams the answer, and ends the attempt.
    pub(super) async fn run(mut self, control: &Control) -> Outcome {
        let stop = self.stream(control).await;
        match stop {
            Stop::Complete(completion) => self.complete(completion).await,
            Stop::Failed(error) => self.failed(error).await,
            Stop::Cancelled => self.cancelled().await,
            Stop::Drained => Outcome::HandBack,
            // The number is another's in the stream (or a higher one is), and ours as
            // far as PostgreSQL knows: the next one may be free.
            Stop::Lost if !self.has_written => Outcome::HandBack,
            Stop::Lost => Outcome::Leave,
        }
    }

    /// Appends what the model says until it stops, one append at a time.
    async fn stream(&mut self, control: &Control) -> Stop {
        let started = Event::Started {
            attempt: self.begun.attempt,
            model: self.begun.model.clone(),
            dropped_parameters: std::mem::take(&mut self.dropped_parameters),
            prompt_begins_with: self.prompt_begins_with,
        };
        self.append(started.encode());
        let (worker, remaining) = (self.worker, self.begun.remaining);
        // Made once: waiting anew for each token takes locks that all share.
        tokio::select! {
            biased;
            () = control.cancelled.cancelled() => Stop::Cancelled,
            () = worker.grace_over.cancelled() => Stop::Drained,
            () = tokio::time::sleep(remaining) => Stop::Failed(overdue()),
            stop = poll_fn(|cx| self.poll_stream(cx)) => stop,
        }
    }

    /// Moves what the model says along, as far as it goes now.
    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        let mut appended = self.poll_append(cx);
        if appended == Poll::Ready(Err(())) {
            return Poll::Ready(Stop::Lost);
        }
        if self.completion.is_none()
            && let Poll::Ready(stop) = self.poll_call(cx)
        {
            return Poll::Ready(stop);
        }
        loop {
            match appended {
                Poll::Ready(Ok(())) => {
                    if let Some(event) = self.next_event() {
                        self.append(event);
                    } else if let Some(completion) = self.completion.take() {
                        return Poll::Ready(Stop::Complete(completion));
                    } else {
                        return Poll::Pending;
                    }
                }
                Poll::Ready(Err(())) => return Poll::Ready(Stop::Lost),
                Poll::Pending => {
                    let patient = self.outbox.is_empty() && self.completion.is_none();
                    if !self.receipt.set_patient(patient) {
                        return Poll::Pending;
                    }
                }
            }
            appended = self.poll_append(cx);
        }
    }

    /// Takes in what the model says, all that is there: it becomes one event.
    fn poll_call(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        for _ in 0..AT_ONCE {
            match ready!(self.call.poll_next(cx)) {
                Said::Piece(piece) => {
                    let says_something = !matches!(piece, Delta::Opaque(_));
                    if says_something && self.outbox.answer().is_empty() {
                        metrics::first_token(self.started_at.elapsed());
                    }
                    self.outbox.push(piece);
                    if self.outbox.answer().len() > self.worker.options.answer_cap {
                        return Poll::Ready(Stop::Failed(too_large(
                            self.worker.options.answer_cap,
                        )));
                    }
                }
                Said::Complete(completion) => {
                    self.outbox.finish();
                    self.completion = Some(completion);
                    return Poll::Pending;
                }
                Said::Failed(error) => return Poll::Ready(Stop::Failed(error)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// What the log needs next, if anything. Only with the log at hand.
    fn next_event(&mut self) -> Option<Encoded> {
        let log = self.log.as_ref()?;
        self.outbox.next(log.must_heal(), log.snapshot_is_due())
    }

    fn append(&mut self, event: Encoded) {
        let Some(mut log) = self.log.take() else { return };
        self.sending = log.free_id();
        self.appending.set(async move {
            let outcome = log.append(&event).await;
            (log, outcome)
        });
    }

    /// Drives the append in flight; ready when the log is at hand.
    ///
    /// # Errors
    /// When the attempt is not ours any more.
    fn poll_append(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        while self.log.is_none() {
            let appended = ready!(self.appending.poll(cx));
            if self.appended(appended).is_err() {
                return Poll::Ready(Err(()));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes the log back. Where the stream is gone and the attempt still ours,
    /// makes it again, with everything written so far.
    ///
    /// # Errors
    /// When the attempt is not ours any more.
    fn appended(&mut self, (mut log, outcome): Appended) -> Result<(), ()> {
        match outcome {
            Ok(_) => self.has_written = true,
            Err(Stopped::Gone) => {
                let (tasks, task) = (self.worker.tasks.clone(), self.task);
                let fence = self.begun.fence();
                let answer = self.outbox.written();
                self.sending = log.free_id();
                self.appending.set(async move {
                    let outcome = match patiently(|| tasks.store.owns(task, fence)).await {
                        Ok(true) => log.revive(&answer).await,
                        _ => Err(Stopped::Fenced),
                    };
                    (log, outcome)
                });
                return Ok(());
            }
            Err(stopped @ (Stopped::Fenced | Stopped::Diverged)) => {
                tracing::warn!(%stopped, "stopping this attempt");
                return Err(());
            }
        }
        self.log = Some(log);
        Ok(())
    }

    /// Appends everything that waits, then `event`. Answers with the next ID.
    async fn flush(&mut self, event: Option<Event>) -> Result<EventId, ()> {
        let event = event.map(|event| event.encode());
        let mut last = event.clone();
        // From here on somebody waits for the append in flight.
        self.receipt.set_patient(false);
        loop {
            if self.log.is_some() {
                let heals = self.log.as_ref().is_some_and(Log::must_heal);
                if let Some(next) = self.next_event() {
                    if heals {
                        // What follows a reset counts: it goes (again) after it.
                        last.clone_from(&event);
                    }
                    self.append(next);
                } else if let Some(event) = last.take() {
                    self.append(event);
                } else if let Some(log) = &self.log {
                    return Ok(log.free_id());
                }
            }
            let appended = poll_fn(|cx| self.appending.poll(cx)).await;
            if matches!(appended.1, Err(Stopped::Gone)) {
                // It goes again, after the snapshot that makes the stream anew.
                last.clone_from(&event);
            }
            self.appended(appended)?;
        }
    }

    /// Where the end goes: after everything, or past what can't be confirmed,
    /// which leaves a gap that readers fill from PostgreSQL.
    async fn end_id(&mut self) -> Result<EventId, ()> {
        match tokio::time::timeout(FLUSH, self.flush(None)).await {
            Ok(id) => id,
            Err(_) => Ok(self.sending.next().next()),
        }
    }

    async fn conclude(self, id: EventId, conclusion: Conclusion) -> Outcome {
        let Self { worker, task, begun, outbox, .. } = self;
        conclude(worker, task, begun, id, outbox.into_answer(), conclusion).await
    }

    async fn complete(mut self, completion: Completion) -> Outcome {
        let Completion { finish_reason, usage } = completion.clone();
        let complete = Event::Complete { finish_reason, usage };
        // `complete` saves others from calling the model again; where Redis is
        // away for long, committing does that better.
        let id = match tokio::time::timeout(self.worker.options.lease, self.flush(Some(complete)))
            .await
        {
            Ok(Ok(id)) => id,
            Ok(Err(())) => return Outcome::Leave,
            Err(_) => self.sending.next().next(),
        };
        self.conclude(id, Conclusion::Done(completion)).await
    }

    async fn cancelled(mut self) -> Outcome {
        let Ok(id) = self.end_id().await else { return Outcome::Leave };
        let usage = self.call.usage();
        self.conclude(id, Conclusion::Cancelled(usage)).await
    }

    async fn failed(mut self, error: ModelError) -> Outcome {
        let failures = self.call.failures();
        let message = without_nul(error.message.clone());
        let reason = TaskError { code: error.code.to_owned(), message };
        let again = failures < self.worker.options.max_failures && !self.shows_in_vain(&error);
        if error.retryable && again {
            let after = wait(&self.worker.options.backoff(), failures, &error);
            let (tasks, fence) = (&self.worker.tasks, self.begun.fence());
            let usage = self.call.usage();
            let queued =
                patiently(|| tasks.store.retry(self.task, fence, failures, after, &reason, usage))
                    .await;
            return match queued.unwrap_or(RetryOutcome::Refused) {
                RetryOutcome::Queued => {
                    tracing::info!(%error, ?after, failures, "the attempt failed; another follows");
                    metrics::attempt_retried(error.code);
                    self.tell_retrying(&error, after).await;
                    Outcome::Over
                }
                RetryOutcome::CancelRequested => self.cancelled().await,
                RetryOutcome::Refused => Outcome::Leave,
            };
        }
        tracing::warn!(%error, failures, "the task failed");
        let Ok(id) = self.end_id().await else { return Outcome::Leave };
        let usage = self.call.usage();
        let failures = Some(failures);
        let told = error.told.map(without_nul);
        let conclusion = Conclusion::Failed { error: reason, told, usage, failures };
        self.conclude(id, conclusion).await
    }

    /// A server that ends its streams so that nobody can tell whether the answer is
    /// whole will do so again: readers are shown its text once more, and no third time.
    fn shows_in_vain(&self, error: &ModelError) -> bool {
        let shown = self.shown_before && !self.outbox.answer().is_empty();
        shown && error.code == code::UPSTREAM_INCOMPLETE
    }

    /// Tells readers that another attempt follows. Best effort: if it does not
    /// get through, the next attempt's `started` says enough.
    async fn tell_retrying(&mut self, error: &ModelError, after: Duration) {
        let retrying = Event::Retrying {
            attempt: self.begun.attempt,
            code: error.code.to_owned(),
            retry_in_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
        };
        let _ = tokio::time::timeout(FLUSH, self.flush(Some(retrying))).await;
    }
}
