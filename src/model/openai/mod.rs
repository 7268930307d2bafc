//! Any server that speaks OpenAI's chat completions, through async-openai.
//!
//! A call is made once: async-openai's own retries are off, the worker
//! decides. It writes the request (URL, headers, body) and sends it through a
//! service of ours; statuses become [`ModelError`]s with their `Retry-After`
//! there (the crate drops headers, and logs bodies).
//!
//! The answer goes round async-openai: the service keeps it, and `events.rs`
//! reads its body where the worker polls. The crate would read it in a task of
//! its own, through a parser that copies the rest of its input after each line,
//! into a queue without a bound. That, and the gate that bounded the queue, was
//! a sixth of the worker's CPU at 1,000 streams.
//!
//! Dropping the stream drops the connection, so that a model doesn't go on
//! for nobody. How long a model may stay silent is the worker's business.

mod error;
mod events;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::middleware::HttpRequestFactory;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use tower::BoxError;

use self::events::{Data, Events};
use self::wire::Translator;
use super::{ChatModel, ChatRequest, Delta, DeltaStream, ModelError};
use crate::config::Secret;
use crate::sync::lock;

/// Time to connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An HTTP client for [`OpenAi`]; its connections are shared by all that use
/// it. `proxies`: those that the environment names are used.
///
/// HTTP/1.1 only: hyper's pool has one HTTP/2 connection to a server, and calls
/// beyond the server's limit of streams (often 100) wait on it in silence
/// (hyperium/hyper#3623), while a worker runs 256 long ones. A connection for
/// each also keeps an answer that nobody reads from slowing the others.
///
/// # Errors
/// When TLS can't be set up: a `rustls` crypto provider must be installed.
pub fn http_client(proxies: bool) -> reqwest::Result<reqwest::Client> {
    let client = reqwest::Client::builder()
        .http1_only()
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(Duration::from_secs(30))
        // The key goes to the configured server and nowhere else.
        .redirect(reqwest::redirect::Policy::none());
    if proxies { client } else { client.no_proxy() }.build()
}

/// One server's models.
#[derive(Clone)]
pub struct OpenAi {
    client: Client<OpenAIConfig>,
    http: reqwest::Client,
    base_url: String,
    api_key: Option<Secret>,
}

impl OpenAi {
    /// The server whose chat completions are at `{base_url}/chat/completions`.
    /// A key, where one is needed, has only visible ASCII characters.
    pub fn new(http: reqwest::Client, base_url: &str, api_key: Option<Secret>) -> Self {
        let base_url = base_url.trim_end_matches('/').to_owned();
        // Everything that the environment would fill in is set here, so that
        // nothing meant for one server goes to another.
        let config = OpenAIConfig::new()
            .with_api_base(&base_url)
            .with_api_key(api_key.as_ref().map_or("", Secret::expose))
            .with_org_id("")
            .with_project_id("");
        Self { client: Client::build(http.clone(), config), http, base_url, api_key }
    }

    /// Sends one request; the answer is a success.
    async fn send(self, request: HttpRequestFactory) -> Result<reqwest::Response, BoxError> {
        let mut request = request.build().await?;
        if self.api_key.is_none() {
            request.headers_mut().remove(AUTHORIZATION);
        }
        let response = self.http.execute(request).await.map_err(error::unavailable)?;
        Ok(self.receive(response).await?)
    }

    /// A response, if it is what was asked for.
    async fn receive(&self, response: reqwest::Response) -> Result<reqwest::Response, ModelError> {
        if !response.status().is_success() {
            let mut error = error::refused(response).await;
            if let Some(key) = &self.api_key {
                error.message = error.message.replace(key.expose(), "[secret]");
            }
            return Err(error);
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if let Some(kind @ ("text/html" | "application/json")) =
            kind.and_then(|kind| kind.split(';').next()).map(str::trim)
        {
            return Err(error::malformed(format_args!(
                "{kind} instead of an event stream: is its base URL right, and can it stream?"
            )));
        }
        Ok(response)
    }

    /// The answer to a request that goes out through `send`.
    async fn ask<F>(
        &self,
        request: ChatRequest,
        send: impl Fn(HttpRequestFactory) -> F + Clone + Send + Sync + 'static,
    ) -> Result<Deltas, ModelError>
    where
        F: Future<Output = Result<reqwest::Response, BoxError>> + Send + 'static,
    {
        let kept = Arc::new(Mutex::new(None));
        let sender = tower::service_fn({
            let kept = kept.clone();
            move |request| {
                let (kept, sent) = (kept.clone(), send(request));
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
        let () =
            client.chat().create_byot(wire::request(request)).await.map_err(error::from_client)?;
        let response = lock(&kept).take();
        let events = response.map(|response| Events::new(response.bytes_stream().boxed()));
        Ok(Deltas { events, translator: Translator::default(), ready: VecDeque::new() })
    }
}

impl fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAi")
            .field("base_url", &self.base_url)
            .field("api_key", &self.api_key)
            .finish_non_exhaustive()
    }
}

impl ChatModel for OpenAi {
    fn answer(&self, request: ChatRequest) -> BoxFuture<'_, Result<DeltaStream, ModelError>> {
        Box::pin(async move {
            let this = self.clone();
            let send = move |request| this.clone().send(request);
            Ok(self.ask(request, send).await?.boxed())
        })
    }
}

/// The answer's deltas, from its chunks.
struct Deltas {
    /// Gone after the end or an error.
    events: Option<Events>,
    translator: Translator,
    /// The rest of the last chunk.
    ready: VecDeque<Delta>,
}

impl Deltas {
    /// Reads the next event into `ready`. False: there is none any more.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ModelError>> {
        let Some(events) = &mut self.events else { return Poll::Ready(Ok(false)) };
        let Some(event) = ready!(events.poll_next(cx)) else { return Poll::Ready(Ok(false)) };
        match events::data(events.event(event?))? {
            Data::Chunk(data) => {
                let chunk = serde_json::from_str(&data).map_err(|e| error::no_chunk(&e))?;
                self.translator.translate(chunk, &mut self.ready)?;
            }
            Data::Nothing => {}
            Data::Done => {
                if let Some(events) = self.events.take() {
                    events.finish();
                }
            }
        }
        Poll::Ready(Ok(true))
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
            match ready!(this.poll_event(cx)) {
                Ok(true) => {}
                Ok(false) => {
                    this.events = None;
                    return Poll::Ready(None);
                }
                Err(error) => {
                    this.events = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}
