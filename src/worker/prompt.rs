//! What an attempt tells the model, and the room in memory for it.
//!
//! Small prompts need none: tasks at once times 64 KiB bound them. A larger one waits
//! until the worker has room for the largest that there may be, and gives back what it
//! doesn't need. It keeps the rest until the model answers: a call that fails before is
//! repeated.

use std::time::Duration;

use super::Worker;
use super::attempt::patiently;
use crate::budget::Room;
use crate::log_limit::LogLimit;
use crate::metrics;
use crate::store::{Begun, Prompt};
use crate::tasks;

/// How long a prompt waits for room before the log says so.
const PATIENCE: Duration = Duration::from_secs(1);

/// The room that a large prompt takes, and the metric that says so.
#[derive(Debug)]
pub(super) struct Held {
    _room: Room,
    _counted: metrics::Held,
}

/// The prompt, and the room that it takes. Nothing where what must be told is too large.
pub(super) async fn read(
    worker: &Worker,
    begun: &Begun,
) -> Result<Option<(Prompt, Option<Held>)>, tasks::Error> {
    let (store, options) = (&worker.tasks.store, &worker.options);
    let (conversation, message) = (begun.conversation, begun.message);
    if let Some(prompt) = patiently(|| store.small_prompt(conversation, message)).await? {
        return Ok(Some((prompt, None)));
    }
    let budget = options.max_prompt_bytes as usize;
    let mut room = room(worker, budget).await;
    let prompt = patiently(|| store.large_prompt(conversation, message, budget)).await?;
    let Some(prompt) = prompt else { return Ok(None) };
    room.shrink_to(prompt.bytes);
    if prompt.begins_with.is_some() {
        metrics::prompt_cut();
        tracing::info!(
            bytes = prompt.bytes,
            budget,
            "the conversation's oldest messages are left out of the prompt"
        );
    }
    let counted = metrics::prompt_held(room.bytes());
    Ok(Some((prompt, Some(Held { _room: room, _counted: counted }))))
}

async fn room(worker: &Worker, bytes: usize) -> Room {
    static LIMIT: LogLimit = LogLimit::new();
    let budget = &worker.prompt_memory;
    if let Some(room) = budget.try_take(bytes) {
        return room;
    }
    metrics::prompt_waited();
    let mut room = std::pin::pin!(budget.take(bytes));
    if let Ok(room) = tokio::time::timeout(PATIENCE, &mut room).await {
        return room;
    }
    if let Some(skipped) = LIMIT.pass() {
        tracing::warn!(
            memory = worker.options.prompt_memory,
            skipped,
            "large prompts wait for others' answers to begin: --prompt-memory is used up"
        );
    }
    room.await
}
