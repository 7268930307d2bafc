//! One attempt: from the prompt to the end of the stream.
//!
//! `started`, then what the model says, then `complete`, then the commit, then
//! the terminal event. Dies before `complete`: another attempt begins anew.
//! Dies after it: whoever comes next commits the text without calling the model
//! again. Everything that this writes is fenced by the attempt's number.

use std::time::Duration;

use super::Worker;
use super::call::Call;
use super::prompt;
use super::running::Control;
use super::streaming::{FLUSH, Streaming};
use crate::domain::message::Parameters;
use crate::domain::prompt::tidy;
use crate::domain::task::code;
use crate::domain::{Answer, EventId, MessageId, TaskId};
use crate::model::{ChatRequest, ModelError};
use crate::store::{Begun, TaskError};
use crate::streams::history::History;
use crate::tasks::{self, Conclusion, PERSIST};

/// What is to become of the job.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is done with: acknowledge it.
    Over,
    /// Its task was given up on, and why: bury it.
    GivenUp(String),
    /// Somebody else should run it now.
    HandBack,
    /// A newer worker should run it, so long from now.
    LeaveToNewer(Duration),
    /// It isn't ours any more, or nobody can say: leave it pending.
    Leave,
}

/// Runs an attempt that has begun.
pub(super) async fn run(
    worker: &Worker,
    task: TaskId,
    mut begun: Begun,
    control: &Control,
) -> Outcome {
    // They are kept no longer than the prompt.
    let parameters = std::mem::take(&mut begun.parameters);
    let prepared = tokio::select! {
        biased;
        () = control.cancelled.cancelled() => {
            what_is_left(worker, task, Conclusion::Cancelled(None)).await
        }
        () = worker.grace_over.cancelled() => return Outcome::HandBack,
        prepared = prepare(worker, task, &begun, parameters) => match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                tracing::error!(%error, "the attempt can't be prepared");
                what_is_left(worker, task, failure(code::INTERNAL, DEFECT.to_owned())).await
            }
        },
        () = tokio::time::sleep(begun.remaining) => {
            let overdue = overdue();
            what_is_left(worker, task, failure(overdue.code, overdue.message)).await
        }
    };
    let start = match prepared {
        Prepared::Call(start) => *start,
        Prepared::Conclude(answer, conclusion) => {
            return conclude_unstarted(worker, task, &begun, answer, conclusion).await;
        }
        Prepared::LeaveToNewer(after) => return Outcome::LeaveToNewer(after),
    };
    Streaming::new(worker, task, &begun, start).run(control).await
}

/// What an attempt is to do.
enum Prepared {
    /// Call the model.
    Call(Box<Start>),
    /// End at once, with what an earlier attempt left.
    Conclude(Answer, Conclusion),
    /// Hand it back, for a newer worker to begin so long from now.
    LeaveToNewer(Duration),
}

/// What an attempt begins with.
pub(super) struct Start {
    pub(super) call: Call,
    /// Parameters of the request that the model's profile leaves out.
    pub(super) dropped_parameters: Vec<String>,
    /// The oldest message of the prompt, where older ones are left out.
    pub(super) prompt_begins_with: Option<MessageId>,
    /// Readers have seen text of an earlier attempt.
    pub(super) shown_before: bool,
}

/// How often a task is left to a newer worker, in a lease.
const YIELDS: u32 = 8;

/// Until when to leave a task whose stream has a newer version's content to a
/// newer worker; nothing once it was left for about a lease. Attempts that have
/// written nothing say how often it was left: those between the newest that has,
/// and this one.
fn leaves_to_newer(attempt: u32, written: u32, lease: Duration) -> Option<Duration> {
    let left = attempt.saturating_sub(written).saturating_sub(1);
    (left < YIELDS).then(|| lease / YIELDS)
}

async fn prepare(
    worker: &Worker,
    task: TaskId,
    begun: &Begun,
    parameters: Parameters,
) -> Result<Prepared, tasks::Error> {
    let mut earlier = None;
    if begun.attempt > 1 {
        let history = patiently(|| worker.tasks.streams.history(task)).await?;
        if let Some(conclusion) = finished_or_cancelled(begun, &history) {
            return Ok(Prepared::Conclude(history.answer, conclusion));
        }
        if history.says_more {
            let lease = worker.options.lease;
            if let Some(after) = leaves_to_newer(begun.attempt, history.attempt, lease) {
                tracing::info!(
                    "a newer version's content is in the stream: left to a newer worker"
                );
                return Ok(Prepared::LeaveToNewer(after));
            }
            tracing::warn!("no newer worker took the task over: its answer begins again");
        }
        if let Some(conclusion) = given_up(worker, begun) {
            return Ok(Prepared::Conclude(history.answer, conclusion));
        }
        earlier = Some(history.answer);
    } else if begun.cancelled {
        return Ok(Prepared::Conclude(Answer::default(), Conclusion::Cancelled(None)));
    }
    let Some(model) = worker.models.get(&begun.model) else {
        let message = format!("The model {:?} is no longer configured.", begun.model);
        return Ok(what_is_left(worker, task, failure(code::UNKNOWN_MODEL, message)).await);
    };
    let Some((prompt, held)) = prompt::read(worker, begun).await? else {
        let message = format!(
            "The instructions and the newest message, with the tool calls that it answers, are larger than {} bytes.",
            worker.options.max_prompt_bytes
        );
        return Ok(what_is_left(worker, task, failure(code::PROMPT_TOO_LARGE, message)).await);
    };
    // A stop that came meanwhile was hinted at, and the look that the hint triggers may
    // have failed. What was said so far would be lost for readers.
    let mut shown_before = false;
    if let Some(answer) = earlier {
        let mine = [task];
        if !patiently(|| worker.tasks.store.cancelled_among(&mine)).await?.is_empty() {
            return Ok(Prepared::Conclude(answer, Conclusion::Cancelled(None)));
        }
        shown_before = !answer.is_empty();
    }
    let is_own =
        |name: &str| worker.models.get(name).is_some_and(|other| other.upstream == model.upstream);
    let dropped_parameters = model.profile.dropped(&parameters);
    let prompt_begins_with = prompt.begins_with;
    let request =
        ChatRequest { model: model.remote.clone(), turns: tidy(prompt.turns, is_own), parameters };
    let call = Call::new(model.chat.clone(), request, held, begun.failures, &worker.options);
    let start = Start { call, dropped_parameters, prompt_begins_with, shown_before };
    Ok(Prepared::Call(Box::new(start)))
}

/// Ends with what earlier attempts left, as far as Redis tells soon; if the
/// model had finished, with that.
async fn what_is_left(worker: &Worker, task: TaskId, otherwise: Conclusion) -> Prepared {
    let History { answer, completion, .. } = worker.tasks.what_is_left(task, FLUSH).await;
    Prepared::Conclude(answer, completion.map_or(otherwise, Conclusion::Done))
}

fn failure(code: &str, message: String) -> Conclusion {
    let error = TaskError { code: code.to_owned(), message };
    Conclusion::Failed { error, told: None, usage: None, failures: None }
}

/// What people are told of a defect; the log has the cause.
const DEFECT: &str = "A defect of the server; its log has the cause.";

/// What an attempt comes to whose answer is there, or not wanted any more.
fn finished_or_cancelled(begun: &Begun, history: &History) -> Option<Conclusion> {
    let finished = history.completion.clone().map(Conclusion::Done);
    finished.or_else(|| begun.cancelled.then_some(Conclusion::Cancelled(None)))
}

/// What an attempt comes to whose task has failed, or lost its worker, too often.
fn given_up(worker: &Worker, begun: &Begun) -> Option<Conclusion> {
    let (losses, failures) = (begun.losses, begun.failures);
    let message = if losses >= worker.options.max_losses {
        format!("{losses} workers were lost while they ran this task.")
    } else if failures >= worker.options.max_failures {
        format!("{failures} attempts of this task failed.")
    } else {
        return None;
    };
    Some(failure(code::WORKER_LOST, message))
}

/// Ends an attempt that has written nothing, with what an earlier one left.
async fn conclude_unstarted(
    worker: &Worker,
    task: TaskId,
    begun: &Begun,
    answer: Answer,
    conclusion: Conclusion,
) -> Outcome {
    let id = EventId::new(begun.attempt, 1);
    conclude(worker, task, begun, id, answer, conclusion).await
}

/// Ends an attempt, with the terminal event at `id`.
pub(super) async fn conclude(
    worker: &Worker,
    task: TaskId,
    begun: &Begun,
    id: EventId,
    answer: Answer,
    conclusion: Conclusion,
) -> Outcome {
    let given_up = conclusion.given_up();
    if !worker.tasks.end_attempt(task, begun.claim, begun.message, id, answer, conclusion).await {
        return Outcome::Leave;
    }
    given_up.map_or(Outcome::Over, Outcome::GivenUp)
}

/// Repeats what must succeed for the attempt to go on, while that may help.
///
/// # Errors
/// When repeating can't help.
pub(super) async fn patiently<T, E, F>(step: impl Fn() -> F) -> Result<T, tasks::Error>
where
    E: Into<tasks::Error>,
    F: Future<Output = Result<T, E>>,
{
    let mut failures = 0;
    loop {
        let error = match step().await {
            Ok(value) => return Ok(value),
            Err(error) => error.into(),
        };
        if error.is_permanent() {
            return Err(error);
        }
        failures += 1;
        tokio::time::sleep(PERSIST.delay(failures, rand::random())).await;
    }
}

pub(super) fn overdue() -> ModelError {
    ModelError {
        code: code::DEADLINE_EXCEEDED,
        message: "The task was not finished before its deadline.".to_owned(),
        told: None,
        retryable: false,
        retry_after: None,
    }
}

pub(super) fn too_large(cap: usize) -> ModelError {
    ModelError {
        code: code::ANSWER_TOO_LARGE,
        message: format!("The answer grew beyond {cap} bytes; what came before is kept."),
        told: None,
        retryable: false,
        retry_after: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_left_to_a_newer_worker_for_a_lease_and_then_begun_again() {
        let lease = Duration::from_secs(16);
        let waits: Vec<_> = (4..).map_while(|attempt| leaves_to_newer(attempt, 3, lease)).collect();
        assert_eq!(waits.iter().sum::<Duration>(), lease);
        // What a newer worker has written since counts anew.
        assert!(leaves_to_newer(13, 12, lease).is_some());
    }
}
