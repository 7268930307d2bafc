//! What every request goes through: an ID, a span, CORS, a measurement, and
//! problem+json in the place of every error, poem's own included.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use poem::error::{MethodNotAllowedError, NotFoundError, ReadBodyError};
use poem::http::{HeaderValue, Method, StatusCode, header};
use poem::{Endpoint, IntoResponse, Middleware, PathPattern, Request, Response, Result};
use poem_openapi::error::{ContentTypeError, ParseParamError, ParsePathError};
use tracing::Instrument;

use super::cors::Cors;
use super::problem::{Code, Problem};
use super::request_id::{self, RequestId};
use crate::http::Overload;
use crate::metrics;

/// What the document says of a route.
#[derive(Debug)]
pub(super) struct Known {
    /// The route as the document writes it.
    pub(super) route: String,
    /// Its methods: what 405 says in `Allow`.
    pub(super) allow: String,
}

/// The document's routes, by the patterns that poem matches them with.
pub(super) type Routes = BTreeMap<String, Known>;

/// The middleware.
#[derive(Debug, Clone)]
pub(super) struct Edge {
    routes: Arc<Routes>,
    cors: Cors,
}

impl Edge {
    pub(super) fn new(routes: Routes, cors: Cors) -> Self {
        Self { routes: Arc::new(routes), cors }
    }
}

impl<E: Endpoint> Middleware<E> for Edge {
    type Output = EdgeEndpoint<E>;

    fn transform(&self, inner: E) -> Self::Output {
        EdgeEndpoint { inner, edge: self.clone() }
    }
}

/// An endpoint behind the edge. It answers every request, never with an error.
pub(super) struct EdgeEndpoint<E> {
    inner: E,
    edge: Edge,
}

impl<E: Endpoint> Endpoint for EdgeEndpoint<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let started = Instant::now();
        let id = RequestId::of(request.headers());
        let method = method_label(request.method());
        let span = tracing::info_span!(
            "request",
            request_id = id.as_str(),
            method,
            path = request.uri().path(),
            task_id = tracing::field::Empty,
        );
        async {
            let origin = self.edge.cors.allowed(request.headers());
            let preflight = origin.as_ref().and_then(|_| Cors::preflight(&request));
            let overload = request.extensions().get::<Overload>().copied();
            let mut response = match (preflight, overload) {
                (Some(response), _) => response,
                (None, Some(overload)) => Problem::overloaded(overload).response(&id),
                (None, None) => self.answer(request, &id).await,
            };
            let route = match overload {
                Some(_) => "refused".to_owned(),
                None => self.route(&response),
            };
            let headers = response.headers_mut();
            headers.insert(request_id::HEADER, id.header());
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            self.edge.cors.permit(origin, headers);
            let (status, took) = (response.status().as_u16(), started.elapsed());
            tracing::debug!(route, status, ?took, "answered");
            metrics::http_request(method, route, status, took);
            Ok(response)
        }
        .instrument(span)
        .await
    }
}

impl<E: Endpoint> EdgeEndpoint<E> {
    async fn answer(&self, request: Request, id: &RequestId) -> Response {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        // A defect in one request must not take the connection's others along.
        let error = match AssertUnwindSafe(self.inner.call(request)).catch_unwind().await {
            Ok(Ok(response)) => return response.into_response(),
            Ok(Err(error)) => error,
            Err(_) => Problem::internal("a handler panicked").into(),
        };
        let pattern = error.data::<PathPattern>().cloned();
        let known = pattern.as_ref().and_then(|pattern| self.edge.routes.get(&*pattern.0));
        let problem =
            problem(error, &method, &path, known.map_or("GET, HEAD", |known| &known.allow));
        problem.log();
        let mut response = problem.response(id);
        if let Some(pattern) = pattern {
            response.set_data(pattern);
        }
        response
    }

    /// The route as the document writes it, for a metric's label.
    fn route(&self, response: &Response) -> String {
        let pattern = response.data::<PathPattern>().map_or("", |pattern| &pattern.0);
        match self.edge.routes.get(pattern) {
            Some(known) => known.route.clone(),
            None if pattern.is_empty() => "unmatched".to_owned(),
            None => pattern.to_owned(),
        }
    }
}

/// The problem that an error means.
fn problem(error: poem::Error, method: &Method, path: &str, allow: &str) -> Problem {
    let error = match error.downcast::<Problem>() {
        Ok(problem) => return problem,
        Err(error) => error,
    };
    if error.is::<NotFoundError>() {
        return Problem::new(
            Code::UnknownPath,
            format!("There is nothing at {path}. What there is, /openapi.json says."),
        );
    }
    if error.is::<MethodNotAllowedError>() {
        return Problem::method_not_allowed(method, path, allow);
    }
    if let Some(error) = error.downcast_ref::<ParsePathError>() {
        return Problem::new(
            Code::InvalidParameter,
            format!("{} in the path: {}", error.name, error.reason),
        );
    }
    if let Some(error) = error.downcast_ref::<ParseParamError>() {
        return Problem::new(Code::InvalidParameter, format!("{}: {}", error.name, error.reason));
    }
    if error.is::<ContentTypeError>() {
        return Problem::new(Code::UnsupportedMediaType, super::body::DECLARE_JSON);
    }
    if matches!(error.downcast_ref(), Some(ReadBodyError::Io(_) | ReadBodyError::Utf8(_)))
        || error.status().is_client_error()
    {
        return Problem::new(Code::BadRequest, format!("The request can't be read: {error}."));
    }
    if error.status() == StatusCode::SERVICE_UNAVAILABLE {
        return Problem::unavailable(error);
    }
    Problem::internal(error)
}

/// A metric's label has few values, and anybody can invent a method.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PUT" => "PUT",
        _ => "other",
    }
}
