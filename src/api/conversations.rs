//! `/v1/conversations`: to create, list, read, change and delete them.

use poem_openapi::param::{Path, Query};
use poem_openapi::types::MaybeUndefined;
use poem_openapi::{ApiResponse, Object, OpenApi};
use serde::Deserialize;
use time::OffsetDateTime;

use super::body::JsonBody;
use super::extract::{Account, Limit};
use super::failure::{Failure, failures};
use super::field_error::{FieldError, FieldErrors};
use super::problem::{Code, Problem};
use super::responses::LargeJson;
use super::{State, Tag};
use crate::domain::ConversationId;
use crate::store::{self, ConversationChange};

/// Characters of a title at most.
const TITLE: usize = 500;

/// A conversation: messages in order, with a title and standing instructions.
#[derive(Debug, Object)]
struct Conversation {
    /// Its ID.
    id: ConversationId,
    /// What it is about.
    #[oai(nullable)]
    title: Option<String>,
    /// Standing instructions: the system message of every prompt.
    #[oai(nullable)]
    instructions: Option<String>,
    /// When it was created.
    created_at: OffsetDateTime,
    /// When it was last changed or spoken in.
    updated_at: OffsetDateTime,
}

impl From<store::Conversation> for Conversation {
    fn from(conversation: store::Conversation) -> Self {
        Self {
            id: conversation.id,
            title: conversation.title,
            instructions: conversation.instructions,
            created_at: conversation.created_at,
            updated_at: conversation.updated_at,
        }
    }
}

/// A page of conversations, newest first.
#[derive(Debug, Object)]
struct ConversationPage {
    /// The conversations.
    items: Vec<Conversation>,
    /// Where the next page begins: to be given as `cursor`. Null on the last page.
    #[oai(nullable)]
    next_cursor: Option<String>,
}

/// A conversation to create.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct NewConversation {
    /// What it is about.
    #[oai(validator(min_length = 1, max_length = 500))]
    title: Option<String>,
    /// Standing instructions: the system message of every prompt.
    #[oai(validator(min_length = 1))]
    instructions: Option<String>,
}

/// What to change. A field that isn't there stays as it is; null removes it.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct ConversationPatch {
    /// The new title, or null for none.
    #[serde(default)]
    #[oai(nullable, validator(min_length = 1, max_length = 500))]
    title: MaybeUndefined<String>,
    /// The new instructions, or null for none. They hold for messages sent from
    /// now on.
    #[serde(default)]
    #[oai(nullable, validator(min_length = 1))]
    instructions: MaybeUndefined<String>,
}

/// Checks a title and instructions, whether new or changed.
fn check(title: Option<&str>, instructions: Option<&str>) -> Result<(), Problem> {
    let mut errors = FieldErrors::default();
    if title.is_some_and(|title| title.is_empty() || title.chars().count() > TITLE) {
        let detail = format!("a title has 1 to {TITLE} characters; null means none");
        errors.push(FieldError::new("/title", detail));
    }
    if instructions.is_some_and(str::is_empty) {
        errors
            .push(FieldError::new("/instructions", "instructions say something; null means none"));
    }
    if errors.is_empty() { Ok(()) } else { Err(Problem::body(Code::InvalidBody, errors)) }
}

fn change<T>(value: MaybeUndefined<T>) -> Option<Option<T>> {
    match value {
        MaybeUndefined::Undefined => None,
        MaybeUndefined::Null => Some(None),
        MaybeUndefined::Value(value) => Some(Some(value)),
    }
}

pub(super) fn not_found(conversation: ConversationId) -> Problem {
    let detail = format!("There is no conversation {conversation}; it may have been deleted.");
    Problem::new(Code::ConversationNotFound, detail)
}

failures! {
    CreateConversation: [PARAMETERS, CHANGE, BODY, STORE, LARGE];
    ListConversations: [PARAMETERS, STORE, LARGE], MalformedCursor;
    GetConversation: [PARAMETERS, STORE, LARGE], ConversationNotFound;
    UpdateConversation: [PARAMETERS, CHANGE, BODY, STORE, LARGE], ConversationNotFound;
    DeleteConversation: [PARAMETERS, CHANGE, STORE], ConversationNotFound;
}

#[derive(ApiResponse)]
enum Created {
    /// The conversation is there.
    #[oai(status = 201)]
    Created(LargeJson<Conversation>),
}

#[derive(ApiResponse)]
enum Deleted {
    /// The conversation is gone, and what it generated is being stopped.
    #[oai(status = 204)]
    Deleted,
}

pub(super) struct Conversations(pub(super) State);

#[OpenApi(prefix_path = "/v1", tag = "Tag::Conversations")]
impl Conversations {
    /// Create a conversation
    #[oai(path = "/conversations", method = "post", operation_id = "createConversation")]
    async fn create(
        &self,
        account: Account,
        body: JsonBody<NewConversation>,
    ) -> Result<Created, Failure<CreateConversation>> {
        let NewConversation { title, instructions } = body.value;
        check(title.as_deref(), instructions.as_deref())?;
        // Refused before anything is stored.
        let room = self.0.responses.room(instructions.as_ref().map_or(0, String::len)).await?;
        let store = &self.0.tasks.store;
        let conversation =
            store.create_conversation(account.0, title.as_deref(), instructions.as_deref()).await?;
        Ok(Created::Created(LargeJson::new(&conversation.into(), room)))
    }

    /// List conversations
    ///
    /// Newest first, a page at a time. A page ends at about 1 MiB, so it may have fewer
    /// items than asked for: `next_cursor` alone tells whether others follow.
    #[oai(path = "/conversations", method = "get", operation_id = "listConversations")]
    async fn list(
        &self,
        account: Account,
        /// Conversations a page.
        #[oai(default)]
        limit: Query<Limit>,
        /// Where the page begins: the `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<LargeJson<ConversationPage>, Failure<ListConversations>> {
        let before = match cursor.0.as_deref() {
            None | Some("") => None,
            Some(cursor) => Some(cursor.parse().map_err(|_| {
                let detail = "The cursor is not one that this list gave out. Leave it away to begin \
                              with the first page.";
                Problem::new(Code::MalformedCursor, detail)
            })?),
        };
        let store = &self.0.tasks.store;
        let found = store.conversations(account.0, before, limit.0.get()).await?;
        let last = found.items.last().filter(|_| found.more);
        let next_cursor = last.map(|last| last.id.to_string());
        let items = found.items.into_iter().map(Into::into).collect();
        Ok(self.0.responses.json(&ConversationPage { items, next_cursor }).await?)
    }

    /// Read a conversation
    #[oai(
        path = "/conversations/:conversation_id",
        method = "get",
        operation_id = "getConversation"
    )]
    async fn get(
        &self,
        account: Account,
        /// The conversation.
        conversation_id: Path<ConversationId>,
    ) -> Result<LargeJson<Conversation>, Failure<GetConversation>> {
        let found = self.0.tasks.store.conversation(account.0, conversation_id.0).await?;
        let found = found.ok_or_else(|| not_found(conversation_id.0))?;
        Ok(self.0.responses.json(&found.into()).await?)
    }

    /// Change a conversation
    #[oai(
        path = "/conversations/:conversation_id",
        method = "patch",
        operation_id = "updateConversation"
    )]
    async fn update(
        &self,
        account: Account,
        /// The conversation.
        conversation_id: Path<ConversationId>,
        body: JsonBody<ConversationPatch>,
    ) -> Result<LargeJson<Conversation>, Failure<UpdateConversation>> {
        let ConversationPatch { title, instructions } = body.value;
        check(title.value().map(String::as_str), instructions.value().map(String::as_str))?;
        let change =
            ConversationChange { title: change(title), instructions: change(instructions) };
        let store = &self.0.tasks.store;
        let found = store.update_conversation(account.0, conversation_id.0, &change).await?;
        let found = found.ok_or_else(|| not_found(conversation_id.0))?;
        Ok(self.0.responses.json(&found.into()).await?)
    }

    /// Delete a conversation
    ///
    /// With all its messages. Answers that are being generated are cancelled.
    #[oai(
        path = "/conversations/:conversation_id",
        method = "delete",
        operation_id = "deleteConversation"
    )]
    async fn delete(
        &self,
        account: Account,
        /// The conversation.
        conversation_id: Path<ConversationId>,
    ) -> Result<Deleted, Failure<DeleteConversation>> {
        let tasks = &self.0.tasks;
        let stopped = tasks.store.delete_conversation(account.0, conversation_id.0).await?;
        let stopped = stopped.ok_or_else(|| not_found(conversation_id.0))?;
        tasks.cancel_all(account.0, &stopped).await;
        Ok(Deleted::Deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_bounded_in_characters_not_bytes() {
        assert!(check(Some(&"ü".repeat(TITLE)), None).is_ok());
        assert!(check(Some(&"u".repeat(TITLE + 1)), None).is_err());
        assert!(check(Some(""), None).is_err());
        assert!(check(None, Some("")).is_err());
        assert!(check(None, None).is_ok());
    }

    #[test]
    fn null_removes_and_absence_keeps() {
        let patch: ConversationPatch = serde_json::from_str(r#"{"title": null}"#).expect("a patch");
        assert_eq!(change(patch.title), Some(None));
        assert_eq!(change(patch.instructions), None);
    }
}
