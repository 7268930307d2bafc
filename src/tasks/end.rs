//! End: the commit that makes a task terminal, then the event that says so.
//!
//! Dies before the commit: the job is not acknowledged, another attempt
//! follows. Dies after it: whoever gets the job next finds the task ended, with
//! the terminal event's ID and bytes, and appends it ([`Tasks::settle`]).

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};

use super::{PERSIST, Result, Tasks};
use crate::domain::answer::Completion;
use crate::domain::event::Encoded;
use crate::domain::task::code;
use crate::domain::{Answer, ClaimId, Event, EventId, MessageId, TaskId, TaskStatus, Usage};
use crate::log_limit::LogLimit;
use crate::metrics;
use crate::store::{EndOutcome, Ending, Final, Orphan, TaskError};
use crate::streams::history::History;

/// How long an ending waits for what the stream still holds.
const HISTORY: Duration = Duration::from_secs(5);

/// Streams that are read, or ended, at the same time; each may be as large as an
/// answer.
const HISTORIES: usize = 32;

/// A committed end that the stream has to tell.
type Closing = (TaskId, Vec<(EventId, Encoded)>);

static AWAY: LogLimit = LogLimit::new();

/// How a task ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conclusion {
    /// The answer is complete.
    Done(Completion),
    /// Given up.
    Failed {
        /// Why.
        error: TaskError,
        /// What users are told in place of its message, which is for operators.
        told: Option<String>,
        /// Tokens counted, where known.
        usage: Option<Usage>,
        /// Failures counted, where this one adds to them.
        failures: Option<u32>,
    },
    /// The caller stopped it.
    Cancelled(Option<Usage>),
}

impl Conclusion {
    /// Why the job is to be a dead letter, if it is.
    pub fn given_up(&self) -> Option<String> {
        match self {
            Self::Failed { error, .. } => given_up(&error.code, &error.message),
            Self::Done(_) | Self::Cancelled(_) => None,
        }
    }

    fn commit(self, id: EventId, message_id: MessageId, answer: Answer) -> (Final, Encoded) {
        let (mut error_of, mut failures_of) = (None, None);
        let (status, event, finish_reason, usage) = match self {
            Self::Done(Completion { finish_reason, usage }) => (
                TaskStatus::Done,
                Event::Done { message_id, finish_reason: finish_reason.clone(), usage },
                Some(finish_reason),
                usage,
            ),
            Self::Failed { error, told, usage, failures } => {
                let code = error.code.clone();
                let message = told.unwrap_or_else(|| error.message.clone());
                (error_of, failures_of) = (Some(error), failures);
                (
                    TaskStatus::Failed,
                    Event::Failed { message_id, code, message, usage },
                    None,
                    usage,
                )
            }
            Self::Cancelled(usage) => {
                (TaskStatus::Cancelled, Event::Cancelled { message_id, usage }, None, usage)
            }
        };
        let encoded = event.encode();
        let data = encoded.data.clone();
        let (error, failures) = (error_of, failures_of);
        (Final { status, id, data, answer, finish_reason, usage, error, failures }, encoded)
    }
}

impl Tasks {
    /// Ends an attempt of ours: commits, and then appends the terminal event
    /// at `id`, both repeated until they are done. False: the attempt is not
    /// ours any more, and nothing was written.
    ///
    /// Where the attempt has written nothing, `id` is its `seq` 1, and a
    /// snapshot of the answer goes before it.
    pub async fn end_attempt(
        &self,
        task: TaskId,
        claim: ClaimId,
        message: MessageId,
        id: EventId,
        answer: Answer,
        conclusion: Conclusion,
    ) -> bool {
        let (attempt, status) = (id.attempt, TaskStatus::Running);
        let seen = Ending { attempt, status, claim: Some(claim) };
        let (mut last, mut terminal) = conclusion.commit(id, message, answer);
        let (mut failures, mut refused) = (0, false);
        loop {
            match self.store.end(task, seen, &last).await {
                Ok(EndOutcome::Committed(took)) => {
                    metrics::task_finished(last.status.as_str(), took);
                    break;
                }
                Ok(EndOutcome::Refused) => return false,
                // Repeating won't help. Nobody has seen this end yet, so it can
                // be another: a task must end, even by a defect of ours.
                Err(error) if error.is_permanent() && !refused => {
                    tracing::error!(%error, %task, "a task's end can't be committed as it is");
                    refused = true;
                    (last, terminal) = defect().commit(id, message, Answer::default());
                }
                Err(error) => {
                    failures += 1;
                    if let Some(skipped) = AWAY.pass() {
                        tracing::warn!(%error, %task, skipped, "a task's end is not committed; repeating it");
                    }
                    tokio::time::sleep(PERSIST.delay(failures, rand::random())).await;
                }
            }
        }
        let events = closing(id, last.answer, terminal);
        let mut failures = 0;
        while let Err(error) = self.streams.append_end(task, &events).await {
            failures += 1;
            if let Some(skipped) = AWAY.pass() {
                tracing::warn!(%error, %task, skipped, "a task's end is not appended; repeating it");
            }
            tokio::time::sleep(PERSIST.delay(failures, rand::random())).await;
        }
        true
    }

    /// Ends a task whose attempt belongs to nobody present: takes the next
    /// attempt, which fences whoever had it. What the stream still holds of
    /// the answer is kept. False: the task is no longer as it was seen.
    ///
    /// # Errors
    /// When PostgreSQL is away: the outcome is unknown.
    pub async fn end_orphan(&self, orphan: Orphan, conclusion: Conclusion) -> Result<bool> {
        let history = match orphan.seen.attempt {
            0 => History::default(),
            _ => self.what_is_left(orphan.task, HISTORY).await,
        };
        let Some((task, events)) = self.commit_orphan(orphan, conclusion, history).await? else {
            return Ok(false);
        };
        // Readers that miss it are told by PostgreSQL, see `watch_ends`.
        let _ = self.streams.append_end(task, &events).await;
        Ok(true)
    }

    /// Ends many such tasks, each as well as it can be: those that never began
    /// first, since nothing has to be read for them. Redis may be away: it is
    /// waited for once for the histories of each `HISTORIES` tasks, not again
    /// after it has answered nothing, and once for all events. A task that
    /// can't be ended doesn't keep the others from their end.
    pub async fn end_orphans(&self, orphans: Vec<(Orphan, Conclusion)>) {
        let (unbegun, begun): (Vec<_>, Vec<_>) =
            orphans.into_iter().partition(|(orphan, _)| orphan.seen.attempt == 0);
        let unbegun = unbegun.into_iter().map(|end| (end, History::default())).collect();
        let mut closings = self.commit_orphans(unbegun).await;
        let mut begun = begun.into_iter();
        let mut wait = HISTORY;
        loop {
            let part: Vec<_> = begun.by_ref().take(HISTORIES).collect();
            if part.is_empty() {
                break;
            }
            let read = part.iter().map(|(orphan, _)| self.read_what_is_left(orphan.task, wait));
            let read = join_all(read).await;
            if read.iter().all(Option::is_none) {
                wait = Duration::ZERO;
            }
            let read = read.into_iter().map(Option::unwrap_or_default);
            closings.extend(self.commit_orphans(part.into_iter().zip(read).collect()).await);
        }
        let append = |(task, events): &Closing| {
            let (task, events) = (*task, events.clone());
            async move { drop(self.streams.append_end(task, &events).await) }
        };
        let appends = stream::iter(&closings).map(append).buffer_unordered(HISTORIES);
        // Readers that miss it are told by PostgreSQL, see `watch_ends`.
        let _ = tokio::time::timeout(HISTORY, appends.for_each(|()| async {})).await;
    }

    async fn commit_orphans(&self, ends: Vec<((Orphan, Conclusion), History)>) -> Vec<Closing> {
        static NOT_ENDED: LogLimit = LogLimit::new();
        let commit = |((orphan, conclusion), history): ((Orphan, Conclusion), History)| async move {
            match self.commit_orphan(orphan, conclusion, history).await {
                Ok(closing) => closing,
                Err(error) => {
                    if let Some(skipped) = NOT_ENDED.pass() {
                        tracing::warn!(%error, task = %orphan.task, skipped, "an overdue task was not ended");
                    }
                    None
                }
            }
        };
        join_all(ends.into_iter().map(commit)).await.into_iter().flatten().collect()
    }

    /// What the stream has to end with, if the task was as it was seen.
    async fn commit_orphan(
        &self,
        orphan: Orphan,
        conclusion: Conclusion,
        history: History,
    ) -> Result<Option<Closing>> {
        let History { answer, completion, .. } = history;
        // The model had finished: that is the better end.
        let conclusion = completion.map_or(conclusion, Conclusion::Done);
        let id = EventId::new(orphan.seen.attempt + 1, 1);
        let (last, terminal) = conclusion.commit(id, orphan.message, answer);
        let EndOutcome::Committed(took) = self.store.end(orphan.task, orphan.seen, &last).await?
        else {
            return Ok(None);
        };
        metrics::task_finished(last.status.as_str(), took);
        Ok(Some((orphan.task, closing(id, last.answer, terminal))))
    }

    /// What the stream has of the answer, as far as Redis tells within `wait`:
    /// if it is away, so is the partial text; the end is not. A connection that
    /// breaks is no such reason: it is asked again.
    pub async fn what_is_left(&self, task: TaskId, wait: Duration) -> History {
        self.read_what_is_left(task, wait).await.unwrap_or_default()
    }

    /// As [`Tasks::what_is_left`]; nothing if Redis does not tell.
    async fn read_what_is_left(&self, task: TaskId, wait: Duration) -> Option<History> {
        let read = async {
            let mut failures = 0;
            loop {
                match self.streams.history(task).await {
                    Ok(history) => return history,
                    Err(_) => failures += 1,
                }
                tokio::time::sleep(PERSIST.delay(failures, rand::random())).await;
            }
        };
        tokio::time::timeout(wait, read).await.ok()
    }

    /// A job turned out to be a duplicate: if its task has ended, makes sure
    /// that the stream says so. Then the job can be acknowledged; or, if its task
    /// was given up on and the answer says why, buried: whoever gave it up died
    /// before doing so.
    ///
    /// # Errors
    /// When either store is away.
    pub async fn settle(&self, task: TaskId) -> Result<Option<String>> {
        let Some(end) = self.store.stream_end(task).await? else { return Ok(None) };
        let why = match Event::decode(end.name, end.data.as_bytes()) {
            Ok(Event::Failed { code, message, .. }) => given_up(&code, &message),
            _ => None,
        };
        let terminal = Encoded { name: end.name, data: end.data, opaque: None };
        self.streams.append_end(task, &closing(end.id, end.answer, terminal)).await?;
        Ok(why)
    }
}

fn given_up(code: &str, message: &str) -> Option<String> {
    code::is_given_up(code).then(|| format!("{code}: {message}"))
}

fn defect() -> Conclusion {
    let error = TaskError {
        code: code::INTERNAL.to_owned(),
        message: "The answer could not be stored; the server's log has the cause.".to_owned(),
    };
    Conclusion::Failed { error, told: None, usage: None, failures: None }
}

/// What the stream has to end with: the terminal event, after a snapshot if it
/// is the attempt's first word.
fn closing(id: EventId, answer: Answer, terminal: Encoded) -> Vec<(EventId, Encoded)> {
    let mut events = Vec::with_capacity(2);
    if id.seq == 1 {
        events.push((id.before(), Event::Snapshot(answer).encode()));
    }
    events.push((id, terminal));
    events
}
