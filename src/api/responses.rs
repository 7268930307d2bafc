//! Large responses: the bytes that wait for slow clients, bounded for all of them
//! together.
//!
//! A response of 64 KiB at most waits for nobody: its connection's buffer is as large. A
//! larger one needs room, and loses it when its client takes too long for it: then the
//! connection breaks, and others have the room. So does what is larger than a reader's
//! buffer of an event stream: a snapshot.

use std::io;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use poem::http::header;
use poem::{Body, IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::payload::Payload;
use poem_openapi::registry::{MetaResponses, MetaSchemaRef, Registry};
use poem_openapi::types::{ToJSON, Type};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::body::Json;
use super::problem::{Code, Problem};
use crate::budget::{Budget, Room};
use crate::metrics;
use crate::sync::lock;

/// Bytes of a response that needs no room. Larger ones are handed out in such parts.
const SMALL: usize = 64 * 1024;
/// Responses that wait for room at the same time: they are in memory already.
const WAITING: usize = 8;
/// How long a response waits for room.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client may take for a large response.
const LIFETIME: Duration = Duration::from_secs(60);

/// Room for large responses. Clones share it.
#[derive(Debug, Clone)]
pub struct Responses {
    budget: Budget,
    waiting: Arc<Semaphore>,
    patience: Duration,
}

impl Responses {
    /// Room for so many bytes.
    pub fn new(bytes: usize) -> Self {
        let waiting = Arc::new(Semaphore::new(WAITING));
        Self { budget: Budget::new(bytes), waiting, patience: PATIENCE }
    }

    /// A value as a response, once there is room for it.
    pub(super) async fn json<T: ToJSON>(&self, value: &T) -> Result<LargeJson<T>, Problem> {
        let json = value.to_json_string();
        let room = self.room(json.len()).await?;
        Ok(LargeJson { json, room, of: PhantomData })
    }

    /// What is larger than a reader's buffer, in parts, once there is room for it;
    /// nothing if there is none. (The reader comes back.)
    pub(super) async fn parts(&self, bytes: Bytes) -> Option<BoxStream<'static, Part>> {
        let room = self.room(bytes.len()).await.ok()??;
        Some(parts(bytes, room, LIFETIME).boxed())
    }

    /// Room for a response of so many bytes; none where it needs none.
    pub(super) async fn room(&self, bytes: usize) -> Result<Option<Room>, Problem> {
        if bytes <= SMALL {
            return Ok(None);
        }
        if let Some(room) = self.budget.try_take(bytes) {
            return Ok(Some(room));
        }
        metrics::response_waited();
        let Ok(_waiting) = self.waiting.try_acquire() else { return Err(busy()) };
        match tokio::time::timeout(self.patience, self.budget.take(bytes)).await {
            Ok(room) => Ok(Some(room)),
            Err(_) => Err(busy()),
        }
    }
}

fn busy() -> Problem {
    metrics::response_refused();
    let detail = "Too many large responses wait for slow clients right now. Repeat the request \
                  after the seconds that Retry-After names, or ask for fewer items by limit.";
    Problem::new(Code::Busy, detail)
}

/// JSON that may be large. In the document, [`Json`].
#[derive(Debug)]
pub(super) struct LargeJson<T> {
    json: String,
    room: Option<Room>,
    of: PhantomData<T>,
}

impl<T: ToJSON> LargeJson<T> {
    /// A value, in room that was taken before.
    pub(super) fn new(value: &T, room: Option<Room>) -> Self {
        Self { json: value.to_json_string(), room, of: PhantomData }
    }
}

impl<T: Type + Send> Payload for LargeJson<T> {
    const CONTENT_TYPE: &'static str = Json::<T>::CONTENT_TYPE;

    fn schema_ref() -> MetaSchemaRef {
        Json::<T>::schema_ref()
    }

    fn register(registry: &mut Registry) {
        <Json<T> as Payload>::register(registry);
    }
}

impl<T: ToJSON> ApiResponse for LargeJson<T> {
    fn meta() -> MetaResponses {
        Json::<T>::meta()
    }

    fn register(registry: &mut Registry) {
        <Json<T> as ApiResponse>::register(registry);
    }
}

impl<T: Send> IntoResponse for LargeJson<T> {
    fn into_response(self) -> Response {
        let response = Response::builder()
            .content_type("application/json")
            .header(header::CACHE_CONTROL, "no-store");
        let Some(room) = self.room else { return response.body(self.json) };
        let response = response.header(header::CONTENT_LENGTH, self.json.len());
        response.body(Body::from_bytes_stream(parts(self.json.into(), room, LIFETIME)))
    }
}

/// A part of a large response; an error where its time is over.
pub(super) type Part = io::Result<Bytes>;

/// What is not sent yet, and its room.
type Unsent = Mutex<Option<(Bytes, Room)>>;

/// Takes the rest back when it is time, though nobody asks for it.
struct Parts {
    unsent: Arc<Unsent>,
    end: AbortHandle,
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.end.abort();
    }
}

/// Bytes in parts that don't share memory, as long as their time is not over.
fn parts(bytes: Bytes, room: Room, lifetime: Duration) -> impl Stream<Item = Part> + Send {
    let unsent = Arc::new(Mutex::new(Some((bytes, room))));
    let end = tokio::spawn(take_back(Arc::downgrade(&unsent), lifetime)).abort_handle();
    stream::unfold(Some(Parts { unsent, end }), |parts| async {
        let parts = parts?;
        let next = {
            let mut unsent = lock(&parts.unsent);
            match &mut *unsent {
                Some((bytes, _)) if bytes.is_empty() => return None,
                Some((bytes, _)) => {
                    let part = Bytes::copy_from_slice(&bytes[..bytes.len().min(SMALL)]);
                    bytes.advance(part.len());
                    Ok(part)
                }
                None => Err(io::ErrorKind::TimedOut.into()),
            }
        };
        Some((next, Some(parts)))
    })
}

async fn take_back(unsent: Weak<Unsent>, lifetime: Duration) {
    tokio::time::sleep(lifetime).await;
    if let Some(unsent) = unsent.upgrade() {
        lock(&unsent).take();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    /// Patient for a tenth of a second.
    fn responses() -> Responses {
        Responses { patience: Duration::from_millis(100), ..Responses::new(SMALL) }
    }

    #[tokio::test]
    async fn small_responses_wait_for_nobody_and_large_ones_for_a_time() {
        let responses = responses();
        let all = responses.room(10 * SMALL).await.expect("room");
        assert!(all.is_some());
        assert!(responses.room(SMALL).await.expect("needs none").is_none());
        let refused = responses.room(SMALL + 1).await.expect_err("no room");
        assert_eq!(refused.code(), Code::Busy);
        drop(all);
        assert!(responses.room(SMALL + 1).await.expect("room").is_some());
    }

    #[tokio::test]
    async fn few_wait_at_the_same_time() {
        let responses = Responses { patience: Duration::from_secs(600), ..responses() };
        let all = responses.room(10 * SMALL).await.expect("room");
        let mut waiting: Vec<_> =
            (0..WAITING).map(|_| Box::pin(responses.room(SMALL + 1))).collect();
        for room in &mut waiting {
            assert!(futures_util::poll!(room).is_pending());
        }
        assert!(responses.room(SMALL + 1).await.is_err());
        drop(all);
        for room in waiting {
            assert!(room.await.is_ok());
        }
    }

    #[tokio::test]
    async fn a_slow_clients_room_is_taken_back_and_its_response_broken_off() {
        let budget = Budget::new(4 * SMALL);
        let whole = Bytes::from(vec![1; 3 * SMALL + 5]);
        let room = budget.take(whole.len()).await;
        let mut quick = pin!(parts(whole.clone(), room, LIFETIME));
        let mut read = Vec::new();
        while let Some(part) = quick.next().await {
            read.extend_from_slice(&part.expect("in time"));
        }
        assert_eq!(read, whole);
        let room = budget.take(whole.len()).await;
        let mut slow = pin!(parts(whole, room, Duration::from_millis(50)));
        // Polled by nobody meanwhile.
        let _room = budget.take(4 * SMALL).await;
        assert!(slow.next().await.expect("an error").is_err());
    }
}
