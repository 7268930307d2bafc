//! `/v1/conversations/{conversation_id}/messages`: to say something, which
//! starts a task, and to read what was said.

use poem_openapi::param::{Path, Query};
use poem_openapi::{ApiResponse, Enum, Object, OpenApi};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use super::body::{Json, JsonBody};
use super::computing::work_on;
use super::content::{Content, ToolResult};
use super::conversations::not_found;
use super::extract::{Account, Limit, RawHeader, TraceParent};
use super::failure::{Failure, failures};
use super::field_error::FieldError;
use super::image_url::ImageUrls;
use super::new_message::{self, NewMessage, Said};
use super::parameters;
use super::problem::{Code, Problem};
use super::request_hash::request_hash;
use super::responses::LargeJson;
use super::tasks::{TaskFailure, TaskStatus, stream_url};
use super::union::TextOr;
use super::{State, Tag};
use crate::domain::message::Role;
use crate::domain::{ConversationId, MessageId, RawObject, TaskId, quoted};
use crate::store::{Idempotency, StoredMessage};
use crate::tasks::{Accepted, Submission};

/// What will answer a message.
#[derive(Debug, Object)]
struct AcceptedMessage {
    /// The assistant's message, which the task fills.
    message_id: MessageId,
    /// The task that generates the answer.
    task_id: TaskId,
    /// Where to follow it: a reference, to be resolved against the URL of this request.
    stream_url: String,
}

/// Who said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
enum MessageRole {
    User,
    Assistant,
    Tool,
}

/// A message of a conversation.
#[derive(Debug, Object)]
struct Message {
    /// Its ID.
    id: MessageId,
    /// Who said it.
    role: MessageRole,
    /// What was said: by users, text or parts; by assistants, text, once their
    /// task has ended. Null for the results of tools.
    #[oai(nullable)]
    content: Option<Content>,
    /// The results of tools.
    #[oai(skip_serializing_if_is_none)]
    tool_results: Option<Vec<ToolResult>>,
    /// The model's reasoning, where it shows it.
    #[oai(skip_serializing_if_is_none)]
    reasoning: Option<String>,
    /// The tools that the model called.
    #[oai(skip_serializing_if_is_none)]
    tool_calls: Option<Vec<ToolCall>>,
    /// Why the model stopped: `stop`, `length`, `tool_calls`, `content_filter`, …
    #[oai(skip_serializing_if_is_none)]
    finish_reason: Option<String>,
    /// The message before it.
    #[oai(nullable)]
    parent_id: Option<MessageId>,
    /// When it was accepted.
    created_at: OffsetDateTime,
    /// The task that fills it; assistants' messages have one.
    #[oai(skip_serializing_if_is_none)]
    task: Option<MessageTask>,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Object)]
pub(super) struct ToolCall {
    /// Its place among the answer's calls.
    pub(super) index: u32,
    /// The ID that a result answers it by.
    #[oai(skip_serializing_if_is_none)]
    pub(super) id: Option<String>,
    /// The function's name.
    #[oai(skip_serializing_if_is_none)]
    pub(super) name: Option<String>,
    /// The arguments, as the JSON text that the model wrote. It may be invalid.
    pub(super) arguments: String,
}

impl From<crate::domain::answer::ToolCall> for ToolCall {
    fn from(call: crate::domain::answer::ToolCall) -> Self {
        Self { index: call.index, id: call.id, name: call.name, arguments: call.arguments }
    }
}

/// The state of the task that fills a message.
#[derive(Debug, Object)]
struct MessageTask {
    /// Its ID, for following or cancelling it.
    id: TaskId,
    /// Where it is in its life.
    status: TaskStatus,
    /// Its newest attempt; 0 before the first.
    attempt: u32,
    /// Why it failed.
    #[oai(skip_serializing_if_is_none)]
    error: Option<TaskFailure>,
}

/// A page of messages, oldest first.
#[derive(Debug, Object)]
struct MessagePage {
    /// The messages.
    items: Vec<Message>,
    /// Where the next page begins: to be given as `cursor`. Null on the last page.
    #[oai(nullable)]
    next_cursor: Option<String>,
}

impl TryFrom<StoredMessage> for Message {
    type Error = Problem;

    fn try_from(stored: StoredMessage) -> Result<Self, Problem> {
        fn read<T: serde::de::DeserializeOwned>(json: Option<Value>) -> Result<Option<T>, Problem> {
            json.map(serde_json::from_value).transpose().map_err(Problem::internal)
        }
        let (role, content, tool_results) = match stored.role {
            Role::User => (MessageRole::User, read(stored.content)?, None),
            Role::Assistant => (MessageRole::Assistant, stored.answer.map(TextOr::Text), None),
            Role::Tool => (MessageRole::Tool, None, read(stored.content)?),
        };
        let calls: Vec<_> = stored.tool_calls.into_iter().map(ToolCall::from).collect();
        Ok(Self {
            id: stored.id,
            role,
            content,
            tool_results,
            reasoning: stored.reasoning,
            tool_calls: (!calls.is_empty()).then_some(calls),
            finish_reason: stored.finish_reason,
            parent_id: stored.parent,
            created_at: stored.created_at,
            task: stored.task.map(|task| MessageTask {
                id: task.id,
                status: task.status.into(),
                attempt: task.attempt,
                error: task.error.map(TaskFailure::from),
            }),
        })
    }
}

failures! {
    CreateMessage: [PARAMETERS, CHANGE, BODY, STORE], ConversationNotFound, EmptyContent, UnknownModel, UnknownParent,
        UnknownToolCall, MissingToolResults, IdempotencyKeyReused;
    ListMessages: [PARAMETERS, STORE, LARGE], MalformedCursor, ConversationNotFound;
}

#[derive(ApiResponse)]
enum Posted {
    /// The message is stored and its task will end, whatever happens now.
    #[oai(status = 202)]
    Accepted(Json<AcceptedMessage>),
}

/// What is made of a body, which may be large.
struct Prepared {
    said: Said,
    model: Option<String>,
    parameters: RawObject,
    idempotency: Option<Idempotency>,
}

impl Prepared {
    fn of(
        conversation: ConversationId,
        key: Option<String>,
        body: &JsonBody<NewMessage>,
        images: ImageUrls,
    ) -> Result<Self, Problem> {
        let said = new_message::judge(body, images)?;
        let idempotency = key.map(|key| {
            let hash = request_hash(conversation.0.as_bytes(), &body.raw.to_json());
            Idempotency { key, hash }
        });
        let (model, parameters) = (body.value.model.clone(), parameters::passed_on(&body.raw));
        Ok(Self { said, model, parameters, idempotency })
    }
}

pub(super) struct Messages(pub(super) State);

impl Messages {
    fn model(&self, asked: Option<&str>) -> Result<String, Problem> {
        let catalog = &self.0.catalog;
        let Some(asked) = asked else { return Ok(catalog.default_model().name.clone()) };
        if catalog.get(asked).is_some() {
            return Ok(asked.to_owned());
        }
        let names: Vec<_> = catalog.models().map(|model| model.name.as_str()).collect();
        let detail = format!("there is no model {}; there are {}", quoted(asked), names.join(", "));
        Err(Problem::body(Code::UnknownModel, FieldError::new("/model", detail)))
    }

    async fn submit(
        &self,
        account: Account,
        conversation: ConversationId,
        key: Option<String>,
        traceparent: Option<String>,
        mut body: JsonBody<NewMessage>,
    ) -> Result<Accepted, Problem> {
        let _held = body.held.take();
        let images = self.0.options.image_urls;
        let prepared = {
            let key = key.clone();
            let length = body.raw.text_len();
            let prepare = move || Prepared::of(conversation, key, &body, images);
            work_on(length, prepare).await??
        };
        let Prepared { said, model, parameters, idempotency } = prepared;
        let model = self.model(model.as_deref())?;
        if said.role == Role::Tool {
            let store = &self.0.tasks.store;
            let calls =
                store.open_tool_calls(account.0, conversation, said.parent, key.as_deref()).await?;
            let calls = calls.ok_or_else(|| not_found(conversation))?;
            new_message::match_calls(&said.answers, &calls)?;
        }
        let submission = Submission {
            account: account.0,
            conversation,
            role: said.role,
            parent: said.parent,
            content: said.content,
            model,
            parameters,
            idempotency,
            traceparent,
        };
        self.0.tasks.accept(submission).await.map_err(|error| {
            Problem::from(error).explain(
                Code::Unavailable,
                "Whether the message was stored is not known. Repeat the request with the same \
                 Idempotency-Key; without one, look first whether the message is there.",
            )
        })
    }
}

#[OpenApi(prefix_path = "/v1", tag = "Tag::Messages")]
impl Messages {
    /// Send a message
    ///
    /// Stores the message and starts a task that generates the answer. Follow
    /// the task at `stream_url`, from any number of places, as often as you like.
    ///
    /// Give each message an `Idempotency-Key` of its own: then repeating the
    /// request, after a time-out or a 503, never generates twice.
    #[oai(
        path = "/conversations/:conversation_id/messages",
        method = "post",
        operation_id = "createMessage"
    )]
    async fn create(
        &self,
        account: Account,
        /// The conversation.
        conversation_id: Path<ConversationId>,
        /// Makes repeating safe: 1 to 255 visible ASCII characters. The same key
        /// with the same body gives the same answer; with another body, 422.
        #[oai(name = "Idempotency-Key", validator(min_length = 1, max_length = 255))]
        idempotency_key: RawHeader,
        trace: TraceParent,
        body: JsonBody<NewMessage>,
    ) -> Result<Posted, Failure<CreateMessage>> {
        let conversation = conversation_id.0;
        let key = new_message::idempotency_key(idempotency_key)?;
        match self.submit(account, conversation, key, trace.0, body).await? {
            Accepted::New { task, message } | Accepted::Repeated { task, message } => {
                tracing::Span::current().record("task_id", tracing::field::display(task));
                Ok(Posted::Accepted(Json(AcceptedMessage {
                    message_id: message,
                    task_id: task,
                    stream_url: stream_url(self.0.options.base_path(), task),
                })))
            }
            Accepted::KeyReused => {
                let detail = "This Idempotency-Key came with another request before. Repeat that one \
                              unchanged, or use a new key.";
                Err(Problem::new(Code::IdempotencyKeyReused, detail).into())
            }
            Accepted::NoConversation => Err(not_found(conversation).into()),
            Accepted::NoParent => {
                let detail = "it is the message_id of an answer in this conversation; leave it away to \
                              follow the newest, or give null to begin anew";
                let error = FieldError::new("/parent_id", detail);
                Err(Problem::body(Code::UnknownParent, error).into())
            }
        }
    }

    /// List messages
    ///
    /// Oldest first, a page at a time. A page ends at about 1 MiB, so it may have fewer
    /// items than asked for: `next_cursor` alone tells whether others follow. Each assistant's message comes with the
    /// state of its task.
    #[oai(
        path = "/conversations/:conversation_id/messages",
        method = "get",
        operation_id = "listMessages"
    )]
    async fn list(
        &self,
        account: Account,
        /// The conversation.
        conversation_id: Path<ConversationId>,
        /// Messages a page.
        #[oai(default)]
        limit: Query<Limit>,
        /// Where the page begins: the `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<LargeJson<MessagePage>, Failure<ListMessages>> {
        let after = match cursor.0.as_deref() {
            None | Some("") => None,
            Some(cursor) => Some(cursor.parse::<u32>().map(i64::from).map_err(|_| {
                let detail = "The cursor is not one that this list gave out. Leave it away to begin \
                              with the first page.";
                Problem::new(Code::MalformedCursor, detail)
            })?),
        };
        let store = &self.0.tasks.store;
        let found = store.messages(account.0, conversation_id.0, after, limit.0.get()).await?;
        let found = found.ok_or_else(|| not_found(conversation_id.0))?;
        let last = found.items.last().filter(|_| found.more);
        let next_cursor = last.map(|last| last.position.to_string());
        let items = found.items.into_iter().map(Message::try_from).collect::<Result<_, _>>()?;
        Ok(self.0.responses.json(&MessagePage { items, next_cursor }).await?)
    }
}
