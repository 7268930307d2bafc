//! The call of the model, as one stream of pieces however often it is tried.
//!
//! A failure before the first token is no loss: the call is repeated inside the
//! attempt, with jittered back-off and honouring `Retry-After`. After it, the
//! reader has seen text that can't be continued, and the attempt fails.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::domain::Usage;
use crate::domain::answer::Completion;
use crate::domain::task::code;
use crate::model::{ChatModel, ChatRequest, Delta, DeltaStream, ModelError};
use tokio::time::{Instant, Sleep};

use super::Options;
use super::prompt::Held;

/// How long usage may take to follow the finish reason.
const USAGE_WAIT: Duration = Duration::from_secs(5);

/// A call in progress.
pub(super) struct Call {
    model: Arc<dyn ChatModel>,
    /// With the room that it takes. Gone once the model answers: it is not asked again
    /// then.
    request: Option<(Arc<ChatRequest>, Option<Held>)>,
    source: DeltaStream,
    /// When the model has been silent for too long.
    silent_at: Instant,
    /// Rings then or before: each token moves `silent_at`, and the alarm only
    /// once it rings. (The runtime's timers are behind a lock.)
    alarm: Pin<Box<Sleep>>,
    idle_timeout: Duration,
    retry: crate::domain::retry::Backoff,
    max_failures: u32,
    /// Failures of the task, those of this call included.
    failures: u32,
    said_something: bool,
    finish_reason: Option<String>,
    /// More of the answer followed a finish reason: none is believed where the stream
    /// breaks.
    finishes_early: bool,
    /// A piece of the answer came with what is being read.
    says_something_now: bool,
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
        held: Option<Held>,
        failures: u32,
        options: &Options,
    ) -> Self {
        let request = Arc::new(request);
        let source = open(model.clone(), request.clone(), Duration::ZERO);
        let silent_at = Instant::now() + options.model_idle_timeout;
        Self {
            model,
            request: Some((request, held)),
            source,
            silent_at,
            alarm: Box::pin(tokio::time::sleep_until(silent_at)),
            idle_timeout: options.model_idle_timeout,
            retry: options.backoff(),
            max_failures: options.max_failures,
            failures,
            said_something: false,
            finish_reason: None,
            finishes_early: false,
            says_something_now: false,
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

    /// What comes next.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Said> {
        loop {
            let Poll::Ready(item) = self.poll_item(cx) else {
                self.says_something_now = false;
                return Poll::Pending;
            };
            match item {
                Some(Ok(delta)) => {
                    let has_finished = self.finish_reason.is_some();
                    match delta {
                        Delta::Finish(reason) => {
                            self.finish_reason = Some(reason);
                            // Some servers give a reason with each chunk: there may be more.
                            let is_last = self.said_something && !self.says_something_now;
                            let wait = if is_last { USAGE_WAIT } else { self.idle_timeout };
                            self.wait_until(Instant::now() + wait.min(self.idle_timeout));
                            continue;
                        }
                        Delta::Usage(usage) => self.usage = Some(usage),
                        Delta::Alive => {}
                        piece => {
                            self.finishes_early |=
                                has_finished && !matches!(piece, Delta::Opaque(_));
                            self.said_something = true;
                            self.request = None;
                            self.says_something_now = true;
                            self.wait_until(Instant::now() + self.idle_timeout);
                            return Poll::Ready(Said::Piece(piece));
                        }
                    }
                    if !has_finished {
                        self.wait_until(Instant::now() + self.idle_timeout);
                    }
                }
                // Finished is finished, even if the usage never came.
                Some(Err(_)) if self.finish_reason.is_some() && !self.finishes_early => {
                    return Poll::Ready(self.complete());
                }
                None if self.finish_reason.is_some() => return Poll::Ready(self.complete()),
                None => {
                    if let Some(failed) = self.fail(incomplete()) {
                        return Poll::Ready(failed);
                    }
                }
                Some(Err(error)) => {
                    if let Some(failed) = self.fail(error) {
                        return Poll::Ready(failed);
                    }
                }
            }
        }
    }

    fn complete(&mut self) -> Said {
        let finish_reason = self.finish_reason.take().unwrap_or_default();
        Said::Complete(Completion { finish_reason, usage: self.usage })
    }

    /// What the source brings, or the error that it brings nothing.
    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Delta, ModelError>>> {
        if let Poll::Ready(item) = self.source.poll_next_unpin(cx) {
            return Poll::Ready(item);
        }
        loop {
            ready!(self.alarm.poll_unpin(cx));
            if self.alarm.deadline() >= self.silent_at {
                return Poll::Ready(Some(Err(self.silence())));
            }
            self.alarm.as_mut().reset(self.silent_at);
        }
    }

    fn wait_until(&mut self, silent_at: Instant) {
        self.silent_at = silent_at;
        if silent_at < self.alarm.deadline() {
            self.alarm.as_mut().reset(silent_at);
        }
    }

    /// Counts a failure; nothing if the call is tried again.
    fn fail(&mut self, error: ModelError) -> Option<Said> {
        self.failures += 1;
        let again = error.retryable && self.failures < self.max_failures;
        let Some((request, _)) = self.request.as_ref().filter(|_| again) else {
            return Some(Said::Failed(error));
        };
        let wait = wait(&self.retry, self.failures, &error);
        tracing::info!(%error, ?wait, "the model failed before its first token; calling it again");
        crate::metrics::attempt_retried(error.code);
        self.source = open(self.model.clone(), request.clone(), wait);
        self.wait_until(Instant::now() + wait + self.idle_timeout);
        None
    }

    fn silence(&self) -> ModelError {
        ModelError {
            code: code::UPSTREAM_IDLE,
            message: format!(
                "The model said nothing for {}.",
                humantime::format_duration(self.idle_timeout)
            ),
            told: None,
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
        told: None,
        retryable: true,
        retry_after: None,
    }
}

/// The call as a stream that begins after `wait`.
fn open(model: Arc<dyn ChatModel>, request: Arc<ChatRequest>, wait: Duration) -> DeltaStream {
    stream::once(async move {
        tokio::time::sleep(wait).await;
        model.answer(request).await
    })
    .try_flatten()
    .boxed()
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use clap::Parser;
    use futures_util::future::{self, BoxFuture};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    /// Says so many words, one in a while, and then nothing any more.
    struct Slow(u32, Duration);

    impl ChatModel for Slow {
        fn answer(&self, _: Arc<ChatRequest>) -> BoxFuture<'_, Result<DeltaStream, ModelError>> {
            let Self(words, pause) = *self;
            let words = stream::iter(0..words).then(move |_| async move {
                tokio::time::sleep(pause).await;
                Ok(Delta::Text("word".into()))
            });
            Box::pin(future::ready(Ok(words.chain(stream::pending()).boxed())))
        }
    }

    fn call(model: Slow, idle_timeout: &str) -> Call {
        let cli = Cli::parse_from(["rill", "--model-idle-timeout", idle_timeout]);
        let request =
            ChatRequest { model: "m".into(), turns: Vec::new(), parameters: Default::default() };
        Call::new(Arc::new(model), request, None, 0, &cli.options)
    }

    #[tokio::test]
    async fn silence_begins_with_the_last_word() {
        let mut call = call(Slow(10, Duration::from_millis(50)), "300ms");
        // Longer than the timeout, all together.
        for _ in 0..10 {
            assert!(matches!(poll_fn(|cx| call.poll_next(cx)).await, Said::Piece(_)));
        }
        let last = Instant::now();
        let Said::Failed(error) = poll_fn(|cx| call.poll_next(cx)).await else {
            panic!("the model is silent")
        };
        assert_eq!(error.code, code::UPSTREAM_IDLE);
        assert!(last.elapsed() >= Duration::from_millis(250), "{:?}", last.elapsed());
    }

    #[tokio::test]
    async fn the_alarm_never_rings_too_late() {
        let mut call = call(Slow(0, Duration::ZERO), "60s");
        let armed = call.alarm.deadline();
        call.wait_until(armed + USAGE_WAIT);
        assert_eq!(call.alarm.deadline(), armed);
        call.wait_until(armed - USAGE_WAIT);
        assert_eq!(call.alarm.deadline(), armed - USAGE_WAIT);
    }
}
