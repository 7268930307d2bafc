//! Requests to an endpoint without a socket. Our own and not poem's: a feature
//! that only tests need would make cargo build every dependency twice.

use poem::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use poem::{Body, Endpoint, Request, RequestBuilder, Response};
use serde_json::Value;

pub(super) struct TestClient<E>(E);

impl<E: Endpoint<Output = Response>> TestClient<E> {
    pub(super) fn new(endpoint: E) -> Self {
        Self(endpoint)
    }

    pub(super) fn request(&self, method: Method, path: impl AsRef<str>) -> TestRequest<'_, E> {
        let request = Request::builder().method(method).uri_str(path);
        TestRequest { endpoint: &self.0, request, body: Body::empty() }
    }

    pub(super) fn get(&self, path: impl AsRef<str>) -> TestRequest<'_, E> {
        self.request(Method::GET, path)
    }

    pub(super) fn head(&self, path: impl AsRef<str>) -> TestRequest<'_, E> {
        self.request(Method::HEAD, path)
    }

    pub(super) fn post(&self, path: impl AsRef<str>) -> TestRequest<'_, E> {
        self.request(Method::POST, path)
    }
}

pub(super) struct TestRequest<'a, E> {
    endpoint: &'a E,
    request: RequestBuilder,
    body: Body,
}

impl<E: Endpoint<Output = Response>> TestRequest<'_, E> {
    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a header's name");
        let value: HeaderValue = value.parse().expect("a header's value");
        self.request = self.request.header(name, value);
        self
    }

    pub(super) fn content_type(self, media_type: &str) -> Self {
        self.header(header::CONTENT_TYPE.as_str(), media_type)
    }

    pub(super) fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    pub(super) fn body_json(self, body: &Value) -> Self {
        self.content_type("application/json").body(body.to_string())
    }

    pub(super) async fn send(self) -> TestResponse {
        TestResponse(self.endpoint.get_response(self.request.body(self.body)).await)
    }
}

pub(super) struct TestResponse(pub(super) Response);

impl TestResponse {
    pub(super) fn assert_status(&self, status: StatusCode) {
        assert_eq!(self.0.status(), status);
    }

    pub(super) fn assert_status_is_ok(&self) {
        self.assert_status(StatusCode::OK);
    }

    pub(super) fn assert_header(&self, name: &str, value: &str) {
        assert_eq!(self.0.header(name), Some(value), "{name}");
    }

    pub(super) fn assert_header_is_not_exist(&self, name: &str) {
        assert_eq!(self.0.header(name), None, "{name}");
    }

    pub(super) async fn assert_json(self, expected: Value) {
        let text = self.0.into_body().into_string().await.expect("a body");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), expected);
    }
}
