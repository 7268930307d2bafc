//! `/v1/tasks/{task_id}`: how a generation is doing, and to stop it.

use poem_openapi::param::Path;
use poem_openapi::{ApiResponse, Enum, Object, OpenApi};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::body::Json;
use super::extract::Account;
use super::failure::{Failure, failures};
use super::failure_code::FailureCode;
use super::problem::{Code, Problem};
use super::{State, Tag};
use crate::domain::{self, ConversationId, MessageId, TaskId};
use crate::store;

/// Where a task is in its life. `done`, `failed` and `cancelled` are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub(super) enum TaskStatus {
    Queued,
    Running,
    Done,
    Failed,
    Cancelled,
}

impl From<domain::TaskStatus> for TaskStatus {
    fn from(status: domain::TaskStatus) -> Self {
        match status {
            domain::TaskStatus::Queued => Self::Queued,
            domain::TaskStatus::Running => Self::Running,
            domain::TaskStatus::Done => Self::Done,
            domain::TaskStatus::Failed => Self::Failed,
            domain::TaskStatus::Cancelled => Self::Cancelled,
        }
    }
}

/// Why a task failed, or its last attempt did.
#[derive(Debug, Object)]
#[oai(rename = "TaskError")]
pub(super) struct TaskFailure {
    /// The kind of failure; stable.
    code: FailureCode,
    /// In words.
    message: String,
}

impl From<store::TaskError> for TaskFailure {
    fn from(error: store::TaskError) -> Self {
        Self { code: FailureCode(error.code), message: error.message }
    }
}

/// Tokens counted by the model.
#[derive(Debug, Serialize, Deserialize, Object)]
pub(super) struct Usage {
    /// Tokens of the prompt.
    pub(super) prompt_tokens: u64,
    /// Tokens of the answer, reasoning included.
    pub(super) completion_tokens: u64,
    /// Both together.
    pub(super) total_tokens: u64,
}

impl From<domain::Usage> for Usage {
    fn from(usage: domain::Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.total_tokens,
        }
    }
}

/// One answer being generated.
#[derive(Debug, Object)]
struct Task {
    /// Its ID.
    id: TaskId,
    /// Where it was asked.
    conversation_id: ConversationId,
    /// The assistant's message that it fills.
    message_id: MessageId,
    /// Where it is in its life.
    status: TaskStatus,
    /// The model that answers.
    model: String,
    /// Attempts begun.
    attempts: u32,
    /// Attempts that failed.
    failures: u32,
    /// Tokens counted, once known.
    #[oai(nullable)]
    usage: Option<Usage>,
    /// Why it failed, or its last attempt did.
    #[oai(nullable)]
    error: Option<TaskFailure>,
    /// When it was accepted.
    created_at: OffsetDateTime,
    /// When its first attempt began.
    #[oai(nullable)]
    started_at: Option<OffsetDateTime>,
    /// When it ended.
    #[oai(nullable)]
    finished_at: Option<OffsetDateTime>,
    /// Where to follow it: a reference, to be resolved against the URL of this request.
    stream_url: String,
}

impl Task {
    fn of(task: store::Task, base: &str) -> Self {
        Self {
            id: task.id,
            conversation_id: task.conversation,
            message_id: task.message,
            status: task.status.into(),
            model: task.model,
            attempts: task.attempt,
            failures: task.failures,
            usage: task.usage.map(Usage::from),
            error: task.error.map(TaskFailure::from),
            created_at: task.created_at,
            started_at: task.started_at,
            finished_at: task.finished_at,
            stream_url: stream_url(base, task.id),
        }
    }
}

/// Where a task is followed, behind the path that a proxy puts before ours.
pub(super) fn stream_url(base: &str, task: TaskId) -> String {
    format!("{base}/v1/tasks/{task}/stream")
}

pub(super) fn not_found(task: TaskId) -> Problem {
    let detail = format!("There is no task {task}; its conversation may have been deleted.");
    Problem::new(Code::TaskNotFound, detail)
}

failures! {
    GetTask: [PARAMETERS, STORE], TaskNotFound;
    CancelTask: [PARAMETERS, CHANGE, STORE], TaskNotFound;
}

#[derive(ApiResponse)]
enum CancelRequested {
    /// The task as it is now. One that had ended stays as it was; any other
    /// ends soon, most often as `cancelled`.
    #[oai(status = 202)]
    Requested(Json<Task>),
}

pub(super) struct Tasks(pub(super) State);

#[OpenApi(prefix_path = "/v1", tag = "Tag::Tasks")]
impl Tasks {
    /// Read a task
    #[oai(path = "/tasks/:task_id", method = "get", operation_id = "getTask")]
    async fn get(
        &self,
        account: Account,
        /// The task.
        task_id: Path<TaskId>,
    ) -> Result<Json<Task>, Failure<GetTask>> {
        tracing::Span::current().record("task_id", tracing::field::display(task_id.0));
        let task = self.0.tasks.store.task(account.0, task_id.0).await?;
        let task = task.ok_or_else(|| not_found(task_id.0))?;
        Ok(Json(Task::of(task, self.0.options.base_path())))
    }

    /// Cancel a task
    ///
    /// What was generated so far is kept. Repeating it is safe.
    #[oai(path = "/tasks/:task_id/cancel", method = "post", operation_id = "cancelTask")]
    async fn cancel(
        &self,
        account: Account,
        /// The task.
        task_id: Path<TaskId>,
    ) -> Result<CancelRequested, Failure<CancelTask>> {
        tracing::Span::current().record("task_id", tracing::field::display(task_id.0));
        let task = self.0.tasks.cancel(account.0, task_id.0).await?;
        let task = task.ok_or_else(|| not_found(task_id.0))?;
        Ok(CancelRequested::Requested(Json(Task::of(task, self.0.options.base_path()))))
    }
}
