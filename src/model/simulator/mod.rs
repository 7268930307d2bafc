//! A model that isn't one: OpenAI's chat completions with scripted words,
//! speed and failures. For trying rill out, for tests and for benchmarks.
//!
//! The prompt directs it, by `[[…]]` in the last user message; `help.rs` has the tables, as
//! has `docs/simulator.md`.
//!
//! With `--strict` it refuses each request that some real server would, and
//! says why.
//!
//! The same seed and prompt give the same answer. `GET /stats` tells how often
//! it was called (`?prompt=` picks prompts that contain a text). It keeps
//! nothing; when its process dies, running answers are cut.

mod answer;
mod calls;
mod directives;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod help;
mod reply;
mod sloppy;
pub(crate) mod strict;
mod text;
mod whole;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use poem::http::{Method, StatusCode, header};
use poem::{Body, Endpoint, Request, Response};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::answer::answer;
use self::calls::Calls;
use self::directives::{Script, parse_rate};
use self::reply::{Reply, Running};
#[cfg(test)]
use self::sloppy::KIND_NAMES;
use self::sloppy::Kind;
use self::whole::Whole;
use crate::config::duration;
use crate::http;

/// Bytes of a request, at most: long conversations, and images inside.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// The simulator as a server of its own.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = help::SHORT, after_long_help = help::long())]
#[group(skip)]
pub struct Options {
    /// Address to listen on
    #[arg(long, env = "RILL_SIMULATOR_LISTEN", default_value = "127.0.0.1:8090")]
    pub listen: http::Address,
    /// How it answers when the prompt doesn't say.
    #[command(flatten)]
    pub defaults: Defaults,
}

/// How the simulator answers when the prompt doesn't say.
#[derive(Debug, Clone, PartialEq, clap::Args)]
#[group(skip)]
pub struct Defaults {
    /// Chunks a second; 0 for no limit
    #[arg(long, env = "RILL_SIMULATOR_RATE", default_value = "30", value_parser = parse_rate)]
    pub rate: f64,
    /// Tokens of an answer
    #[arg(long, env = "RILL_SIMULATOR_TOKENS", default_value = "120")]
    pub tokens: usize,
    /// Time before the first token, such as 500ms or 2s
    #[arg(long, env = "RILL_SIMULATOR_TTFT", default_value = "200ms", value_parser = duration)]
    pub ttft: Duration,
    /// Another seed, other texts
    #[arg(long, env = "RILL_SIMULATOR_SEED", default_value = "1")]
    pub seed: u64,
    /// Refuse requests that the strictest real server would refuse
    #[arg(long, env = "RILL_SIMULATOR_STRICT")]
    pub strict: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { rate: 30.0, tokens: 120, ttft: Duration::from_millis(200), seed: 1, strict: false }
    }
}

/// Answers on `listener` until `shutdown`; then running answers are cut.
pub async fn serve(
    listener: impl Into<http::Listener>,
    defaults: Defaults,
    shutdown: CancellationToken,
) {
    let limits = http::Limits {
        max_body: MAX_BODY,
        drain_timeout: Duration::from_secs(1),
        ..http::Limits::default()
    };
    http::serve(listener, Simulator::new(defaults), limits, shutdown).await;
}

struct Simulator {
    defaults: Defaults,
    calls: Calls,
    /// Answers being sent.
    running: Arc<AtomicU64>,
    /// Answers begun, for their IDs.
    answers: AtomicU64,
}

impl Endpoint for Simulator {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        if request.extensions().get::<http::Overload>().is_some() {
            return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "all connections are taken"));
        }
        let path = request.uri().path();
        Ok(match (request.method(), path.trim_end_matches('/')) {
            (&Method::POST, "/v1/chat/completions") => self.complete(request).await,
            (&Method::GET, "/v1/models") => {
                let model = json!({ "id": "simulator", "object": "model", "created": 0, "owned_by": "rill" });
                json_response(StatusCode::OK, &json!({ "object": "list", "data": [model] }))
            }
            (&Method::GET, "/stats") => self.stats(&request),
            (method, _) => refusal(
                StatusCode::NOT_FOUND,
                &format!(
                    "there is no {method} {path}: this simulator has POST /v1/chat/completions, \
                     GET /v1/models and GET /stats"
                ),
            ),
        })
    }
}

impl Simulator {
    fn new(defaults: Defaults) -> Self {
        Self {
            defaults,
            calls: Calls::default(),
            running: Arc::default(),
            answers: AtomicU64::new(0),
        }
    }

    fn stats(&self, request: &Request) -> Response {
        #[derive(Default, serde::Deserialize)]
        struct Query {
            #[serde(default)]
            prompt: String,
        }
        let Query { prompt } = request.params().unwrap_or_default();
        let stats = json!({
            "calls": self.calls.total(),
            "running": self.running.load(Ordering::Relaxed),
            "prompts": self.calls.prompts(&prompt),
        });
        json_response(StatusCode::OK, &stats)
    }

    async fn complete(&self, mut request: Request) -> Response {
        let body = match request.take_body().into_bytes().await {
            Ok(body) => body,
            Err(error) => return refusal(StatusCode::PAYLOAD_TOO_LARGE, &error.to_string()),
        };
        let request: wire::Request = match serde_json::from_slice(&body) {
            Ok(request) => request,
            Err(error) => {
                return refusal(
                    StatusCode::BAD_REQUEST,
                    &format!("not a chat completion: {error}"),
                );
            }
        };
        let prompt = request.prompt();
        let call = self.calls.count(&prompt);
        if self.defaults.strict
            && let Err(why) = strictly(&body)
        {
            return refusal(StatusCode::BAD_REQUEST, &why);
        }
        let script = Script::read(&prompt, &self.defaults);
        if let Some(status) = script.failure(call) {
            return failure(status, script.retry_after);
        }
        let answer = answer(&script, &prompt, call, self.defaults.tokens, request.after_tool());
        let id = format!("chatcmpl-{:08x}", self.answers.fetch_add(1, Ordering::Relaxed));
        let created =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let running = Running::new(&self.running);
        if !request.stream || script.sloppy.has(Kind::Whole) {
            let whole = Whole { id, created, running, breakage: script.breakage(call) };
            return whole.respond(&request, &script, answer).await;
        }
        let reply = Reply {
            chunks: wire::Chunks::new(&id, created, &request.model),
            rewriting: script.sloppy.rewriting(),
            answer,
            ttft: script.ttft,
            rate: script.rate,
            breakage: script.breakage(call),
            prompt_tokens: request.tokens(),
            include_usage: request.include_usage(),
            _running: running,
        };
        Response::builder()
            .content_type(script.sloppy.content_type("text/event-stream"))
            .header(header::CACHE_CONTROL, "no-cache")
            .body(Body::from_bytes_stream(reply.into_stream()))
    }
}

/// The status that the prompt asked for, worded as OpenAI does.
fn failure(status: u16, retry_after: Option<u64>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = match status {
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    };
    let message = format!("the prompt asked for status {}", status.as_u16());
    let mut response = json_response(status, &wire::error(kind, &message));
    let retry_after = retry_after.or((status == StatusCode::TOO_MANY_REQUESTS).then_some(1));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// The check of [`strict`], of a body that is JSON.
fn strictly(body: &[u8]) -> Result<(), String> {
    let body = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    strict::check(&body)
}

fn refusal(status: StatusCode, message: &str) -> Response {
    json_response(status, &wire::error("invalid_request_error", message))
}

fn json_response(status: StatusCode, value: &Value) -> Response {
    Response::builder().status(status).content_type("application/json").body(value.to_string())
}

#[cfg(test)]
mod tests;
