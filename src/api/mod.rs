//! HTTP: the resources under `/v1`, their document, the chat page, probes and
//! metrics. The only place, beside the simulator, that knows `poem`.
//!
//! A file a resource. `edge` is what every request goes through, `problem`
//! every way to say no, `failure` which of them each operation can say.
//! Nothing is kept here: whatever a request changes is in PostgreSQL when it is
//! answered, so the process may die at any time, and an open stream is
//! continued elsewhere from its cursor.

mod base_path;
mod body;
mod computing;
mod content;
mod conversations;
mod cors;
mod document;
mod edge;
mod events;
mod extract;
mod failure;
mod failure_code;
mod field_error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod guard;
mod health;
mod ids;
mod image_url;
mod json_object;
mod media_type;
mod messages;
mod models;
mod new_message;
mod options;
mod page;
mod parameters;
mod problem;
mod public_url;
mod request_hash;
mod request_id;
mod responses;
mod routes;
mod scan;
#[cfg(any(test, fuzzing))]
#[path = "../../tests/it/support/sse_grammar.rs"]
mod sse_grammar;
pub(crate) mod stream;
mod tasks;
mod union;

use std::net::SocketAddr;
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use poem::endpoint::make;
use poem::{Endpoint, EndpointExt, IntoEndpoint, Response, Route, get};
use poem_openapi::OpenApiService;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use document::openapi_document;
pub use options::{Options, PROBES};
pub use public_url::PublicUrl;
pub use responses::Responses;

use crate::model::catalog::Catalog;
use crate::tasks::Tasks;

/// What the API works with. Cheap to clone.
#[derive(Clone)]
pub struct State {
    /// What tasks do, and the store underneath.
    pub tasks: Tasks,
    /// The models that may be asked for.
    pub catalog: Arc<Catalog>,
    /// What `/metrics` shows.
    pub metrics: PrometheusHandle,
    /// Room for large responses.
    pub responses: Responses,
    /// Ends the streams that are open.
    pub shutdown: CancellationToken,
    /// The address that requests arrive at.
    pub listening: SocketAddr,
    /// As configured.
    pub options: Arc<Options>,
}

/// The document's chapters.
#[derive(poem_openapi::Tags)]
enum Tag {
    /// Conversations and their settings.
    Conversations,
    /// What is said in a conversation.
    Messages,
    /// Answers being generated, and their streams.
    Tasks,
    /// What may be asked for.
    Models,
    /// Probes for operators.
    Operations,
}

/// The whole API: answers every request, never with an error.
pub fn endpoint(state: State) -> impl Endpoint<Output = Response> + 'static {
    let limits = body::BodyLimits {
        bytes: state.options.max_body as usize,
        time: state.options.body_timeout,
        memory: Arc::new(Semaphore::new(state.options.body_memory as usize)),
    };
    let cors = cors::Cors::new(&state.options.cors_origins);
    let guard = guard::Guard::new(&state.options, state.listening.ip());
    let base = base_path::BasePath::new(state.options.base_path());
    let public_url = state.options.public_url.as_ref();
    let routes = Route::new()
        .nest("/", document::service(&state).data(limits))
        .nest("/assets", page::assets())
        .at("/openapi.json", document::json(public_url))
        .at("/docs", document::page(public_url))
        .at("/metrics", exposition(state.tasks.clone(), state.metrics));
    // poem gives "/" to what is nested there, whatever else is at it.
    let (page, routes) = (Arc::new(Route::new().at("/", page::page())), Arc::new(routes));
    make(move |request| {
        let route = if request.uri().path() == "/" { &page } else { &routes };
        let route = route.clone();
        async move { route.call(request).await }
    })
    .with(edge::Edge::new(document::routes(), cors, guard, base))
}

/// What a process without the API serves: `/healthz`, `/readyz`, `/metrics`.
pub fn probes(
    tasks: Tasks,
    metrics: PrometheusHandle,
) -> impl Endpoint<Output = Response> + 'static {
    let exposition = exposition(tasks.clone(), metrics);
    Route::new()
        .nest("/", OpenApiService::new(health::Probes(tasks), "rill", env!("CARGO_PKG_VERSION")))
        .at("/metrics", exposition)
        .with(edge::Edge::new(
            document::routes(),
            cors::Cors::new(&[]),
            guard::Guard::open(),
            base_path::BasePath::new(""),
        ))
}

/// `/metrics`, in Prometheus' text format.
fn exposition(
    tasks: Tasks,
    metrics: PrometheusHandle,
) -> impl IntoEndpoint<Endpoint: Endpoint + 'static> {
    get(make(move |_| {
        let (tasks, metrics) = (tasks.clone(), metrics.clone());
        async move {
            // Gauges of what is only known by asking.
            tasks.readiness().await;
            let format = "text/plain; version=0.0.4; charset=utf-8";
            Ok::<_, poem::Error>(Response::builder().content_type(format).body(metrics.render()))
        }
    }))
}

#[cfg(test)]
mod tests;
