//! HTTP: the resources under `/v1`, their document, the chat page, probes and
//! metrics. The only place, beside the simulator, that knows `poem`.
//!
//! A file a resource. `edge` is what every request goes through, `problem`
//! every way to say no, `failure` which of them each operation can say.
//! Nothing is kept here: whatever a request changes is in PostgreSQL when it is
//! answered, so the process may die at any time, and an open stream is
//! continued elsewhere from its cursor.

mod body;
mod content;
mod conversations;
mod cors;
mod distinct;
mod document;
mod edge;
mod events;
mod extract;
mod failure;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod health;
mod ids;
mod image_url;
mod messages;
mod models;
mod new_message;
mod options;
mod page;
mod parameters;
mod problem;
mod request_hash;
mod request_id;
#[cfg(any(test, fuzzing))]
#[path = "../../tests/it/support/sse_grammar.rs"]
mod sse_grammar;
pub(crate) mod stream;
mod tasks;
mod union;

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use poem::endpoint::make;
use poem::{Endpoint, EndpointExt, IntoEndpoint, Response, Route, get};
use poem_openapi::OpenApiService;
use tokio_util::sync::CancellationToken;

pub use document::openapi_document;
pub use options::{Options, PROBES};

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
    /// Ends the streams that are open.
    pub shutdown: CancellationToken,
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
    };
    let cors = cors::Cors::new(&state.options.cors_origins);
    let routes = Route::new()
        .nest("/", document::service(&state).data(limits))
        .nest("/assets", page::assets())
        .at("/openapi.json", document::json())
        .at("/docs", document::page())
        .at("/metrics", exposition(state.tasks.clone(), state.metrics));
    // poem gives "/" to what is nested there, whatever else is at it.
    let (page, routes) = (Arc::new(Route::new().at("/", page::page())), Arc::new(routes));
    make(move |request| {
        let route = if request.uri().path() == "/" { &page } else { &routes };
        let route = route.clone();
        async move { route.call(request).await }
    })
    .with(edge::Edge::new(document::routes(), cors))
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
        .with(edge::Edge::new(document::routes(), cors::Cors::new(&[])))
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
