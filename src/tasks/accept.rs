//! Accept: a message is committed, then queued.
//!
//! Dies before the commit: the caller got no answer, and nothing happened.
//! Dies after it: the relay finds a queued task that nobody added, a lease
//! later. Either way repeating with the same `Idempotency-Key` is safe.

use serde_json::Value;

use super::{ENQUEUE_WAIT, Result, Tasks};
use crate::domain::message::{Parameters, Role};
use crate::domain::{AccountId, ConversationId, MessageId, TaskId};
use crate::log_limit::LogLimit;
use crate::metrics;
use crate::store::{self, NewPrompt, NewTask};

/// A message to accept.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Whose it is.
    pub account: AccountId,
    /// Where it is said.
    pub conversation: ConversationId,
    /// Who says it: the user, or tools.
    pub role: Role,
    /// [`crate::domain::message::Content`], or an array of
    /// [`crate::domain::message::ToolResult`], as JSON.
    pub content: Value,
    /// The model's public name.
    pub model: String,
    /// Passed on to the model.
    pub parameters: Parameters,
    /// Makes repeating safe.
    pub idempotency_key: Option<String>,
    /// The request as it came, to tell a repeat from a reuse of its key.
    pub request: Value,
}

/// What became of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// Committed now.
    New {
        /// The task that will answer.
        task: TaskId,
        /// The assistant's message that it fills.
        message: MessageId,
    },
    /// Committed before, under the same key.
    Repeated {
        /// The task that will answer.
        task: TaskId,
        /// The assistant's message that it fills.
        message: MessageId,
    },
    /// The key was used for another request.
    KeyReused,
    /// There is no such conversation.
    NoConversation,
}

impl Tasks {
    /// Commits a message and queues its task. Waits for Redis at most 500 ms.
    ///
    /// # Errors
    /// When PostgreSQL is away: the outcome is unknown.
    pub async fn accept(&self, submission: Submission) -> Result<Accepted> {
        static NOT_QUEUED: LogLimit = LogLimit::new();
        let (task, message) = (TaskId::generate(), MessageId::generate());
        let new = NewTask {
            account: submission.account,
            conversation: submission.conversation,
            task,
            prompt: NewPrompt {
                id: MessageId::generate(),
                role: submission.role,
                content: submission.content,
            },
            message,
            model: submission.model,
            parameters: submission.parameters,
            idempotency_key: submission.idempotency_key,
            request: submission.request,
            deadline: self.deadline,
        };
        match self.store.accept(new).await? {
            store::Accepted::New => {}
            store::Accepted::Repeated { task, message } => {
                return Ok(Accepted::Repeated { task, message });
            }
            store::Accepted::KeyReused => return Ok(Accepted::KeyReused),
            store::Accepted::NoConversation => return Ok(Accepted::NoConversation),
        }
        metrics::task_accepted();
        if let Err(error) = self.streams.enqueue(task, ENQUEUE_WAIT).await {
            if let Some(skipped) = NOT_QUEUED.pass() {
                tracing::warn!(%error, %task, skipped, "accepted, but not queued yet; the relay will");
            }
            // So that the relay need not wait a lease. If this fails, it does.
            let _ = self.store.not_enqueued(task).await;
        }
        Ok(Accepted::New { task, message })
    }
}
