//! Any server that speaks OpenAI's chat completions, through async-openai.
//!
//! A call is made once: async-openai's own retries are off, the worker
//! decides. It writes the request (URL, headers, body) and sends it through a
//! service of ours; statuses become [`ModelError`]s with their `Retry-After`
//! there (the crate drops headers, and logs bodies).
//!
//! The answer goes round async-openai: the service keeps it, and `decode`
//! reads its body where the worker polls. The crate would read it in a task of
//! its own, through a parser that copies the rest of its input after each line,
//! into a queue without a bound. That, and the gate that bounded the queue, was
//! a sixth of the worker's CPU at 1,000 streams.
//!
//! How a server differs from others is in its [`Profile`], and what it refuses in
//! `learned`.
//!
//! Dropping the stream drops the connection, so that a model doesn't go on
//! for nobody. How long a model may stay silent is the worker's business.

mod decode;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod http;
mod key;
mod learned;
pub mod profile;
mod request;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::middleware::HttpRequestFactory;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use tower::BoxError;

use self::decode::lines::Lines;
use self::decode::{Decoder, Flow};
use self::error::Refusal;
pub use self::http::{HttpError, HttpOptions, http_client};
pub use self::key::{ApiKey, KeyError};
use self::learned::Learned;
use self::profile::Profile;
use super::{ChatModel, ChatRequest, Delta, DeltaStream, ModelError};
use crate::config::Secret;
use crate::domain::RawObject;
use crate::sync::lock;

/// How often a call is changed and made again because its server refuses part of it.
const CHANGES: usize = 5;

/// A server's model.
#[derive(Clone)]
pub struct OpenAi {
    client: Client<OpenAIConfig>,
    http: reqwest::Client,
    base_url: String,
    /// Goes with each request, behind the path: Azure's `api-version`.
    query: Option<String>,
    key: ApiKey,
    profile: Arc<Profile>,
    learned: Arc<Mutex<Learned>>,
}

/// What our service tells async-openai, which passes it on.
#[derive(Debug, thiserror::Error)]
#[error("the call failed")]
struct Failed(Mutex<Option<Refusal>>);

impl OpenAi {
    /// The server whose chat completions are at `{base_url}/chat/completions`; a query
    /// in the URL comes behind that.
    pub fn new(http: reqwest::Client, base_url: &str, key: ApiKey) -> Self {
        let (base_url, query) = match base_url.split_once('?') {
            Some((base_url, query)) => (base_url, Some(query.to_owned())),
            None => (base_url, None),
        };
        let base_url = base_url.trim_end_matches('/').to_owned();
        // Everything that the environment would fill in is set here, so that
        // nothing meant for one server goes to another.
        let config = OpenAIConfig::new()
            .with_api_base(&base_url)
            .with_api_key("")
            .with_org_id("")
            .with_project_id("");
        Self {
            client: Client::build(http.clone(), config),
            http,
            base_url,
            query,
            key,
            profile: Arc::default(),
            learned: Arc::default(),
        }
    }

    /// A model of the server, which is spoken to as `profile` says. What one model's
    /// calls teach is not believed of another.
    #[must_use]
    pub fn with_profile(mut self, profile: Profile) -> Self {
        self.profile = Arc::new(profile);
        self.learned = Arc::default();
        self
    }

    /// Sends one request; the answer is a success.
    async fn send(
        self,
        request: HttpRequestFactory,
        key: Option<Secret>,
    ) -> Result<reqwest::Response, BoxError> {
        let mut request = request.build().await?;
        // Set here: async-openai would encode it anew.
        if self.query.is_some() {
            request.url_mut().set_query(self.query.as_deref());
        }
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.remove(AUTHORIZATION);
        if let Some(key) = &key {
            let (name, mut value) = self.profile.key_header.header(key.expose())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let failed = |refusal| BoxError::from(Failed(Mutex::new(Some(refusal))));
        let response = self.http.execute(request).await;
        let response = response.map_err(|error| failed(error::unavailable(error).into()))?;
        receive(response, key.as_ref()).await.map_err(failed)
    }

    /// The answer to a request that goes out through `send`, changed as long as the
    /// server refuses what can be said otherwise.
    async fn ask<F>(
        &self,
        request: Arc<ChatRequest>,
        send: impl Fn(HttpRequestFactory, Option<Secret>) -> F + Clone + Send + Sync + 'static,
    ) -> Result<Deltas, ModelError>
    where
        F: Future<Output = Result<reqwest::Response, BoxError>> + Send + 'static,
    {
        let mut changes = 0;
        let mut key = self.key.current().await;
        let mut learned = lock(&self.learned).clone();
        let mut lessons = Vec::new();
        loop {
            let body = request::body(&request, &self.profile, &learned);
            let refusal = match self.ask_once(&body, key.clone(), &send).await {
                Ok(response) => {
                    self.remember(learned, &lessons, &request.model);
                    return Ok(Deltas::new(response, &self.profile, key));
                }
                Err(refusal) => refusal,
            };
            changes += 1;
            if changes > CHANGES {
                return Err(refusal.error);
            }
            if refusal.status == StatusCode::UNAUTHORIZED && self.key.may_change() {
                let newer = self.key.current().await;
                let same = newer.as_ref().map(Secret::expose) == key.as_ref().map(Secret::expose);
                if same {
                    return Err(refusal.error);
                }
                key = newer;
                continue;
            }
            let Some((next, lesson)) = learned.learn(&body, &refusal) else {
                return Err(refusal.error);
            };
            learned = next;
            lessons.push(lesson);
        }
    }

    /// Keeps to what made the server accept a request.
    fn remember(&self, learned: Learned, lessons: &[String], model: &str) {
        if lessons.is_empty() {
            return;
        }
        lock(&self.learned).merge(learned);
        tracing::warn!(
            upstream = self.base_url,
            model,
            "the model's server refused part of a request: from now on rill {} (a profile can say \
             so at once)",
            lessons.join(", "),
        );
    }

    async fn ask_once<F>(
        &self,
        body: &RawObject,
        key: Option<Secret>,
        send: &(impl Fn(HttpRequestFactory, Option<Secret>) -> F + Clone + Send + Sync + 'static),
    ) -> Result<Option<reqwest::Response>, Refusal>
    where
        F: Future<Output = Result<reqwest::Response, BoxError>> + Send + 'static,
    {
        let kept = Arc::new(Mutex::new(None));
        let sender = tower::service_fn({
            let (kept, send) = (kept.clone(), send.clone());
            move |request| {
                let (kept, sent) = (kept.clone(), send(request, key.clone()));
                async move {
                    let response = sent.await?;
                    *lock(&kept) = Some(response);
                    // What async-openai reads in its place.
                    Ok::<_, BoxError>(hyper::Response::new("null").into())
                }
            }
        });
        let client = self.client.clone().with_http_service(sender);
        // Of the crate's calls, the one that only sends what it is given.
        let sent: Result<(), _> = client.chat().create_byot(body).await;
        match sent {
            Ok(()) => Ok(lock(&kept).take()),
            Err(error) => Err(refusal(error)),
        }
    }
}

/// What our service said, or a defect.
fn refusal(error: OpenAIError) -> Refusal {
    let failed = match &error {
        OpenAIError::Boxed(boxed) => {
            boxed.downcast_ref::<Failed>().and_then(|Failed(refusal)| lock(refusal).take())
        }
        _ => None,
    };
    failed.unwrap_or_else(|| error::from_client(&error).into())
}

/// A response, if it is a success.
async fn receive(
    response: reqwest::Response,
    key: Option<&Secret>,
) -> Result<reqwest::Response, Refusal> {
    if response.status().is_success() {
        return Ok(response);
    }
    let mut refusal = error::refused(response).await;
    redact(&mut refusal.error, key);
    Err(refusal)
}

/// Some servers repeat the key.
fn redact(error: &mut ModelError, key: Option<&Secret>) {
    let Some(key) = key.map(Secret::expose) else { return };
    error.message = error.message.replace(key, "[secret]");
    error.told = error.told.as_ref().map(|told| told.replace(key, "[secret]"));
    // A message that was cut may end in its beginning.
    if let Some(text) = error.message.strip_suffix('…')
        && let Some(length) = (4..key.len()).rev().find(|&length| text.ends_with(&key[..length]))
    {
        error.message = format!("{}[secret]…", &text[..text.len() - length]);
    }
}

impl fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAi")
            .field("base_url", &self.base_url)
            .field("key", &self.key)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

impl ChatModel for OpenAi {
    fn answer(&self, request: Arc<ChatRequest>) -> BoxFuture<'_, Result<DeltaStream, ModelError>> {
        Box::pin(async move {
            let this = self.clone();
            let send = move |request, key| this.clone().send(request, key);
            Ok(self.ask(request, send).await?.boxed())
        })
    }
}

/// The answer's deltas, from its lines.
struct Deltas {
    /// Gone after the end or an error.
    lines: Option<Lines>,
    decoder: Decoder,
    /// The rest of the last line.
    ready: VecDeque<Delta>,
    /// What comes after that.
    failed: Option<ModelError>,
    key: Option<Secret>,
}

impl Deltas {
    fn new(response: Option<reqwest::Response>, profile: &Profile, key: Option<Secret>) -> Self {
        Self {
            lines: response.map(|response| Lines::new(response.bytes_stream().boxed())),
            decoder: Decoder::new(profile),
            ready: VecDeque::new(),
            failed: None,
            key,
        }
    }

    /// Reads the next line into `ready`. Ready: there is none any more, or an error.
    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<(), ModelError>>> {
        let Some(lines) = &mut self.lines else { return Poll::Ready(None) };
        let read = match ready!(lines.poll_next(cx)) {
            Some(Ok(line)) => self.decoder.line(lines.line(line), &mut self.ready),
            Some(Err(error)) => Err(error),
            None => self.decoder.end(&mut self.ready).map(|()| Flow::Done),
        };
        match read {
            Ok(Flow::More) => {}
            Ok(Flow::Done) => {
                if let Some(lines) = self.lines.take() {
                    lines.finish();
                }
            }
            Err(error) => {
                self.lines = None;
                return Poll::Ready(Some(Err(error)));
            }
        }
        Poll::Ready(Some(Ok(())))
    }
}

impl Stream for Deltas {
    type Item = Result<Delta, ModelError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(delta) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(delta)));
            }
            if let Some(error) = this.failed.take() {
                return Poll::Ready(Some(Err(error)));
            }
            match this.poll_line(cx) {
                Poll::Ready(Some(Ok(()))) => {
                    if !this.ready.is_empty() {
                        // It says so itself.
                        this.decoder.take_alive();
                    }
                }
                Poll::Ready(Some(Err(mut error))) => {
                    redact(&mut error, this.key.as_ref());
                    this.failed = Some(error);
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending if this.decoder.take_alive() => {
                    return Poll::Ready(Some(Ok(Delta::Alive)));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
