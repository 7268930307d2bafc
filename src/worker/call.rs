//! The call of the model, as one stream of pieces however often it is tried.
//!
//! A failure before the first token is no loss: the call is repeated inside the
//! attempt, with jittered back-off and honouring `Retry-After`. After it, the
//! reader has seen text that can't be continued, and the attempt fails.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::domain::Usage;
use crate::domain::answer::Completion;
use crate::domain::task::code;
use crate::model::{ChatModel, ChatRequest, Delta, DeltaStream, ModelError};
use tokio::time::Instant;

use super::Options;

/// How long usage may take to follow the finish reason.
const USAGE_WAIT: Duration = Duration::from_secs(5);

/// A call in progress.
pub(super) struct Call {
    model: Arc<dyn ChatModel>,
    request: ChatRequest,
    source: DeltaStream,
    /// When the model has been silent for too long.
    silent_at: Instant,
    idle_timeout: Duration,
    retry: crate::domain::retry::Backoff,
    max_failures: u32,
    /// Failures of the task, those of this call included.
    failures: u32,
    said_something: bool,
    finish_reason: Option<String>,
    usage: Option<Usage>,
}

/// What a call brings next.
pub(super) enum Said {
    /// A piece of the answer.
    Piece(Delta),
    /// The answer is complete.
    Complete(Completion),
    /// The call failed for good, as far as this attempt goes.
    Failed(ModelError),
}

impl Call {
    pub(super) fn new(
        model: Arc<dyn ChatModel>,
        request: ChatRequest,
        failures: u32,
        options: &Options,
    ) -> Self {
        let source = open(model.clone(), request.clone(), Duration::ZERO);
        Self {
            model,
            request,
            source,
            silent_at: Instant::now() + options.model_idle_timeout,
            idle_timeout: options.model_idle_timeout,
            retry: options.backoff(),
            max_failures: options.max_failures,
            failures,
            said_something: false,
            finish_reason: None,
            usage: None,
        }
    }

    /// Failures of the task so far.
    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) const fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Waits for what comes next. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Said {
        loop {
            let item = match tokio::time::timeout_at(self.silent_at, self.source.next()).await {
                Ok(item) => item,
                Err(_) => Some(Err(self.silence())),
            };
            match item {
                Some(Ok(delta)) => {
                    self.silent_at = Instant::now() + self.idle_timeout;
                    match delta {
                        Delta::Finish(reason) => {
                            self.finish_reason = Some(reason);
                            self.silent_at = Instant::now() + USAGE_WAIT.min(self.idle_timeout);
                        }
                        Delta::Usage(usage) => self.usage = Some(usage),
                        piece => {
                            self.said_something = true;
                            return Said::Piece(piece);
                        }
                    }
                }
                // Finished is finished, even if the usage never came.
                None | Some(Err(_)) if self.finish_reason.is_some() => {
                    let finish_reason = self.finish_reason.take().unwrap_or_default();
                    return Said::Complete(Completion { finish_reason, usage: self.usage });
                }
                None => {
                    if let Some(failed) = self.fail(incomplete()) {
                        return failed;
                    }
                }
                Some(Err(error)) => {
                    if let Some(failed) = self.fail(error) {
                        return failed;
                    }
                }
            }
        }
    }

    /// Counts a failure; nothing if the call is tried again.
    fn fail(&mut self, error: ModelError) -> Option<Said> {
        self.failures += 1;
        if self.said_something || !error.retryable || self.failures >= self.max_failures {
            return Some(Said::Failed(error));
        }
        let wait = wait(&self.retry, self.failures, &error);
        tracing::info!(%error, ?wait, "the model failed before its first token; calling it again");
        crate::metrics::attempt_retried(error.code);
        self.silent_at = Instant::now() + wait + self.idle_timeout;
        self.source = open(self.model.clone(), self.request.clone(), wait);
        None
    }

    fn silence(&self) -> ModelError {
        ModelError {
            code: code::UPSTREAM_IDLE,
            message: format!(
                "The model said nothing for {}.",
                humantime::format_duration(self.idle_timeout)
            ),
            retryable: true,
            retry_after: None,
        }
    }
}

/// How long to wait before the next try: what the server asks for if it does,
/// but never longer than the ceiling.
pub(super) fn wait(
    retry: &crate::domain::retry::Backoff,
    failures: u32,
    error: &ModelError,
) -> Duration {
    let backoff = retry.delay(failures, rand::random());
    error.retry_after.map_or(backoff, |asked| asked.max(backoff).min(retry.max))
}

fn incomplete() -> ModelError {
    ModelError {
        code: code::UPSTREAM_INCOMPLETE,
        message: "The model's stream ended without a finish reason.".to_owned(),
        retryable: true,
        retry_after: None,
    }
}

/// The call as a stream that begins after `wait`.
fn open(model: Arc<dyn ChatModel>, request: ChatRequest, wait: Duration) -> DeltaStream {
    stream::once(async move {
        tokio::time::sleep(wait).await;
        model.answer(request).await
    })
    .try_flatten()
    .boxed()
}
