//! Any server that speaks OpenAI's chat completions, through async-openai.
//!
//! A call is made once: async-openai's own retries are off, the worker
//! decides. What async-openai leaves open is closed in the service that it
//! sends requests through: statuses become [`ModelError`]s with their
//! `Retry-After` (the crate drops headers, and logs bodies), and the body goes
//! through a gate that bounds what may pile up (see `gate.rs`).
//!
//! Dropping the stream drops the connection, so that a model doesn't go on
//! for nobody. How long a model may stay silent is the worker's business.

mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod gate;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::middleware::HttpRequestFactory;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use tower::BoxError;

use self::gate::{Gate, Gated};
use self::wire::{Chunk, Translator};
use super::{ChatModel, ChatRequest, Delta, DeltaStream, ModelError};
use crate::config::Secret;

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

    /// Sends one request; the answer is a success with its body gated.
    async fn send(
        self,
        request: HttpRequestFactory,
        gate: Arc<Gate>,
    ) -> Result<reqwest::Response, BoxError> {
        let mut request = request.build().await?;
        if self.api_key.is_none() {
            request.headers_mut().remove(AUTHORIZATION);
        }
        let response = self.http.execute(request).await.map_err(error::unavailable)?;
        self.receive(response, gate).await
    }

    /// What of a response async-openai may see.
    async fn receive(
        &self,
        response: reqwest::Response,
        gate: Arc<Gate>,
    ) -> Result<reqwest::Response, BoxError> {
        if !response.status().is_success() {
            let mut error = error::refused(response).await;
            if let Some(key) = &self.api_key {
                error.message = error.message.replace(key.expose(), "[secret]");
            }
            return Err(error.into());
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if let Some(kind @ ("text/html" | "application/json")) =
            kind.and_then(|kind| kind.split(';').next()).map(str::trim)
        {
            let error = error::malformed(format_args!(
                "{kind} instead of an event stream: is its base URL right, and can it stream?"
            ));
            return Err(error.into());
        }
        let body = Gated::new(response.bytes_stream().boxed(), gate);
        // Of a success, async-openai looks at nothing but the body.
        Ok(hyper::Response::new(reqwest::Body::wrap_stream(body)).into())
    }

    /// The answer to a request that goes out through `send`.
    async fn ask<F>(
        &self,
        request: ChatRequest,
        send: impl Fn(HttpRequestFactory, Arc<Gate>) -> F + Clone + Send + Sync + 'static,
    ) -> Result<Deltas, ModelError>
    where
        F: Future<Output = Result<reqwest::Response, BoxError>> + Send + 'static,
    {
        let gate = Arc::new(Gate::default());
        let sender = tower::service_fn({
            let gate = gate.clone();
            move |request| send(request, gate.clone())
        });
        let client = self.client.clone().with_http_service(sender);
        let chunks = client.chat().create_stream_byot(wire::request(request)).await;
        let chunks = chunks.map_err(|error| error::from_client(error, &gate))?;
        let translator = Translator::default();
        Ok(Deltas { chunks: Some(chunks), gate, translator, ready: VecDeque::new() })
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
            let send = move |request, gate| this.clone().send(request, gate);
            Ok(self.ask(request, send).await?.boxed())
        })
    }
}

/// The answer's deltas, from its chunks.
struct Deltas {
    /// Gone after the end or an error.
    chunks: Option<BoxStream<'static, Result<Chunk, OpenAIError>>>,
    gate: Arc<Gate>,
    translator: Translator,
    /// The rest of the last chunk.
    ready: VecDeque<Delta>,
}

impl Stream for Deltas {
    type Item = Result<Delta, ModelError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(delta) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(delta)));
            }
            let Some(chunks) = &mut this.chunks else { return Poll::Ready(None) };
            let chunk = match chunks.as_mut().poll_next(cx) {
                Poll::Ready(chunk) => chunk,
                Poll::Pending => {
                    this.gate.wants_more();
                    return Poll::Pending;
                }
            };
            let translated = match chunk {
                Some(Ok(chunk)) => this.translator.translate(chunk, &mut this.ready),
                Some(Err(error)) => Err(error::from_client(error, &this.gate)),
                None => {
                    this.chunks = None;
                    continue;
                }
            };
            if let Err(error) = translated {
                this.chunks = None;
                return Poll::Ready(Some(Err(error)));
            }
        }
    }
}
