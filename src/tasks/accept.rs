//! Accept: a message is committed, then queued.
//!
//! Dies before the commit: the caller got no answer, and nothing happened.
//! Dies after it: the relay finds a queued task that nobody added, a lease
//! later. Either way repeating with the same `Idempotency-Key` is safe.

use super::{ENQUEUE_WAIT, Result, Tasks};
use crate::domain::message::{Parameters, Role};
use crate::domain::{AccountId, ConversationId, MessageId, TaskId};
use crate::log_limit::LogLimit;
use crate::metrics;
use crate::store::{self, Idempotency, NewPrompt, NewTask, Parent};

/// A message to accept.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Whose it is.
    pub account: AccountId,
    /// Where it is said.
    pub conversation: ConversationId,
    /// Who says it: the user, or tools.
    pub role: Role,
    /// What it follows.
    pub parent: Parent,
    /// [`crate::domain::message::Content`], or an array of
    /// [`crate::domain::message::ToolResult`]: JSON, kept as it is written.
    pub content: String,
    /// The model's public name.
    pub model: String,
    /// Passed on to the model.
    pub parameters: Parameters,
    /// Makes repeating safe.
    pub idempotency: Option<Idempotency>,
    /// The trace that the request belongs to (W3C Trace Context).
    pub traceparent: Option<String>,
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
    /// The conversation has no answer that is the named parent.
    NoParent,
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
            parent: submission.parent,
            message,
            model: submission.model,
            parameters: submission.parameters.to_json(),
            idempotency: submission.idempotency,
            traceparent: submission.traceparent,
            deadline: self.deadline,
        };
        match self.store.accept(new).await? {
            store::Accepted::New => {}
            store::Accepted::Repeated { task, message } => {
                return Ok(Accepted::Repeated { task, message });
            }
            store::Accepted::KeyReused => return Ok(Accepted::KeyReused),
            store::Accepted::NoConversation => return Ok(Accepted::NoConversation),
            store::Accepted::NoParent => return Ok(Accepted::NoParent),
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
