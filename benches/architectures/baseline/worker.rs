//! The worker of a baseline: takes jobs, streams the model's answer into the
//! design's store, a chunk at a time, and saves the text at the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::StreamExt;
use rill::domain::message::Parameters;
use rill::model::openai::{ApiKey, HttpOptions, OpenAi, http_client};
use rill::model::{ChatModel, ChatRequest, Delta};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::gauges::Gauges;
use super::records::Records;
use super::{Chunk, Design, Job, Options, Ticket};

/// Jobs that are taken at once, at most.
const BATCH: usize = 64;
/// How long a model may say nothing, as in rill.
const SILENCE: Duration = Duration::from_secs(60);
/// How long to wait after the store failed.
const AGAIN: Duration = Duration::from_millis(500);

/// The worker.
pub(super) struct Worker<D> {
    shared: Arc<Shared<D>>,
    slots: Arc<Semaphore>,
}

/// What its tasks share.
struct Shared<D> {
    design: D,
    records: Records,
    model: OpenAi,
    gauges: Arc<Gauges>,
}

impl<D: Design> Worker<D> {
    pub(super) fn new(
        options: &Options,
        design: D,
        records: Records,
        gauges: Arc<Gauges>,
    ) -> Result<Self> {
        let model =
            OpenAi::new(http_client(HttpOptions::default())?, &options.model_url, ApiKey::None);
        let shared = Arc::new(Shared { design, records, model, gauges });
        Ok(Self { shared, slots: Arc::new(Semaphore::new(options.concurrency)) })
    }

    /// Takes jobs until `stop`; those that run are then dropped.
    pub(super) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.take_jobs() => {}
        }
    }

    async fn take_jobs(&self) {
        // The semaphore is never closed.
        while let Ok(slot) = self.slots.clone().acquire_owned().await {
            let most = (self.slots.available_permits() + 1).min(BATCH);
            let mut first = Some(slot);
            let jobs = match self.shared.design.jobs(most).await {
                Ok(jobs) => jobs,
                Err(error) => {
                    eprintln!("jobs can't be taken: {error:#}");
                    sleep(AGAIN).await;
                    continue;
                }
            };
            for ticket in jobs {
                // Nobody else takes slots, so those that were counted are there.
                let slot = first.take().or_else(|| self.slots.clone().try_acquire_owned().ok());
                let shared = self.shared.clone();
                tokio::spawn(async move {
                    shared.take(ticket).await;
                    drop(slot);
                });
            }
        }
    }
}

/// The answer so far.
#[derive(Default)]
struct Answer {
    text: String,
    chunks: u64,
}

impl<D: Design> Shared<D> {
    /// Begins a task, unless it is begun, and runs it to its end.
    async fn take(&self, ticket: Ticket) {
        let begun = match ticket {
            Ticket::Begun(job) => Ok(Some(job)),
            Ticket::Waiting(task) => self.records.begin(task).await,
        };
        match begun {
            Ok(Some(job)) => self.work(&job).await,
            Ok(None) => {}
            Err(error) => eprintln!("a task can't be begun: {error:#}"),
        }
    }

    async fn work(&self, job: &Job) {
        let mut answer = Answer::default();
        let (status, why) = match self.stream(job, &mut answer).await {
            Ok(finish_reason) => ("done", finish_reason),
            Err(error) => {
                eprintln!("task {} fails: {error:#}", job.id);
                ("failed", "error".to_owned())
            }
        };
        // The text first: who has seen the end finds it.
        let ended = async {
            self.records.end(job, status, &answer.text, &why).await?;
            let data = json!({ "message_id": job.message_id, "finish_reason": why });
            let end = Chunk { event: status.to_owned(), data: data.to_string() };
            self.design.append(job.id, answer.chunks + 1, &end).await
        };
        if let Err(error) = ended.await {
            eprintln!("task {} has no end: {error:#}", job.id);
        }
    }

    /// Writes what the model says; why it stopped.
    async fn stream(&self, job: &Job, answer: &mut Answer) -> Result<String> {
        let turns = self.records.turns(job).await?;
        let model = "simulator".to_owned();
        let request = ChatRequest { model, turns, parameters: Parameters::default() };
        let mut deltas = self.model.answer(request.into()).await?;
        let mut finish_reason = None;
        while let Some(delta) = timeout(SILENCE, deltas.next()).await.context("silence")? {
            match delta? {
                Delta::Text(text) if !text.is_empty() => self.write(job, &text, answer).await?,
                Delta::Finish(reason) => finish_reason = Some(reason),
                _ => {}
            }
        }
        finish_reason.context("the model's stream ended without a finish reason")
    }

    async fn write(&self, job: &Job, text: &str, answer: &mut Answer) -> Result<()> {
        let data = json!({ "text": text }).to_string();
        let chunk = Chunk { event: "delta".to_owned(), data };
        let began = Instant::now();
        self.design.append(job.id, answer.chunks + 1, &chunk).await?;
        self.gauges.wrote(began.elapsed(), text);
        answer.chunks += 1;
        answer.text.push_str(text);
        Ok(())
    }
}
