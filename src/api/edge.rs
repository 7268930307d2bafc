//! What every request goes through: an ID, a span, the base path, CORS, the guard
//! against others' pages, a measurement, and problem+json in the place of every error, poem's own included.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use poem::error::{MethodNotAllowedError, NotFoundError, ReadBodyError};
use poem::http::{HeaderValue, Method, StatusCode, header};
use poem::{Endpoint, IntoResponse, Middleware, PathPattern, Request, Response, Result};
use poem_openapi::error::{ContentTypeError, ParseParamError, ParsePathError};
use tracing::Instrument;

use super::base_path::BasePath;
use super::cors::Cors;
use super::guard::Guard;
use super::problem::{Code, Problem};
use super::request_id::{self, RequestId};
use super::routes::{Known, Routes};
use crate::http::Overload;
use crate::metrics;

/// The middleware.
#[derive(Debug, Clone)]
pub(super) struct Edge {
    routes: Arc<Routes>,
    cors: Cors,
    guard: Guard,
    base: BasePath,
}

impl Edge {
    pub(super) fn new(routes: Routes, cors: Cors, guard: Guard, base: BasePath) -> Self {
        Self { routes: Arc::new(routes), cors, guard, base }
    }

    /// What can be refused before a handler is looked for.
    fn check(&self, request: &Request) -> Result<(), Problem> {
        self.guard.check(request, &self.cors)?;
        match request.uri().query() {
            Some(query) => self.routes.check_query(request.method(), request.uri().path(), query),
            None => Ok(()),
        }
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

    async fn call(&self, mut request: Request) -> Result<Response> {
        let started = Instant::now();
        let moved = self.edge.base.strip(&mut request);
        let id = RequestId::of(request.headers());
        let method = method_label(request.method());
        let span = tracing::info_span!(
            "request",
            request_id = id.as_str(),
            method,
            path = shortened(request.uri().path()),
            task_id = tracing::field::Empty,
        );
        async {
            let origin = self.edge.cors.allowed(request.headers());
            let preflight = origin.as_ref().and_then(|_| Cors::preflight(&request));
            let overload = request.extensions().get::<Overload>().copied();
            let overloaded = overload.map(|overload| Problem::overloaded(overload).response(&id));
            let refused = self.edge.check(&request).err().map(|problem| problem.response(&id));
            let mut response = match refused.or(preflight).or(overloaded).or(moved) {
                Some(response) => response,
                None => self.answer(request, &id).await,
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
        let routes = &self.edge.routes;
        let known = pattern.as_ref().and_then(|pattern| routes.by_pattern(&pattern.0));
        let slash = path.strip_suffix('/').and_then(|path| routes.of_path(path)).is_some();
        let problem = problem(error, &method, &path, known, slash);
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
        match self.edge.routes.by_pattern(pattern) {
            Some(known) => known.route.clone(),
            None if pattern.is_empty() => "unmatched".to_owned(),
            None => pattern.to_owned(),
        }
    }
}

/// The problem that an error means.
fn problem(
    error: poem::Error,
    method: &Method,
    path: &str,
    known: Option<&Known>,
    slash: bool,
) -> Problem {
    let error = match error.downcast::<Problem>() {
        Ok(problem) => return problem,
        Err(error) => error,
    };
    if error.is::<NotFoundError>() {
        let path = shortened(path);
        let more = if slash {
            "Leave the slash at its end away."
        } else {
            "What there is, /openapi.json says."
        };
        return Problem::new(Code::UnknownPath, format!("There is nothing at {path}. {more}"));
    }
    if error.is::<MethodNotAllowedError>() {
        let allow = known.map_or("GET, HEAD", |known| &known.allow);
        return Problem::method_not_allowed(method, path, allow);
    }
    if let Some(error) = error.downcast_ref::<ParsePathError>() {
        return Problem::new(
            Code::InvalidParameter,
            format!(
                "{} in the path: {}",
                known.and_then(|known| known.parameter(error.name)).unwrap_or(error.name),
                error.reason
            ),
        );
    }
    if let Some(error) = error.downcast_ref::<ParseParamError>() {
        return Problem::new(Code::InvalidParameter, format!("{}: {}", error.name, error.reason));
    }
    if error.is::<ContentTypeError>() {
        return Problem::new(Code::UnsupportedMediaType, super::media_type::DECLARE_JSON);
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

/// A path as it is repeated: most of a long one is the caller's own.
fn shortened(path: &str) -> &str {
    const LONGEST: usize = 200;
    let end = (0..=path.len().min(LONGEST)).rev().find(|&end| path.is_char_boundary(end));
    &path[..end.unwrap_or(0)]
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
