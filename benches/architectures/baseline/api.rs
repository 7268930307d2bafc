//! HTTP: the part of rill's contract that the bench uses, and `/stats`.

use std::sync::Arc;

use anyhow::Result;
use poem::http::{Method, StatusCode};
use poem::{Body, Endpoint, Request, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::gauges::Gauges;
use super::records::Records;
use super::{Design, frames};

/// The API of a baseline.
pub(super) struct Api<D> {
    pub(super) design: D,
    pub(super) records: Records,
    pub(super) gauges: Arc<Gauges>,
}

/// `/stats` alone: what a worker serves.
pub(super) struct Numbers(pub(super) Arc<Gauges>);

/// What is posted.
#[derive(Deserialize)]
struct NewMessage {
    content: String,
}

impl<D: Design> Api<D> {
    async fn answer(&self, mut request: Request) -> Result<Response> {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (request.method().clone(), parts.as_slice()) {
            (Method::POST, ["v1", "conversations"]) => {
                let id = self.records.create_conversation().await?;
                Ok(say(StatusCode::CREATED, &json!({ "id": id })))
            }
            (Method::POST, ["v1", "conversations", id, "messages"]) => {
                let body = request.take_body().into_bytes().await?;
                let (Ok(id), Ok(message)) = (id.parse(), serde_json::from_slice(&body)) else {
                    return Ok(refuse(StatusCode::UNPROCESSABLE_ENTITY));
                };
                self.accept(id, message).await
            }
            (Method::GET, ["v1", "tasks", id, "stream"]) => {
                let cursor = request.header("last-event-id").map_or(Ok(0), str::parse);
                let (Ok(id), Ok(after)) = (id.parse(), cursor) else {
                    return Ok(refuse(StatusCode::BAD_REQUEST));
                };
                self.follow(id, after).await
            }
            (Method::GET, ["stats"]) => Ok(numbers(&self.gauges)),
            _ => Ok(refuse(StatusCode::NOT_FOUND)),
        }
    }

    async fn accept(&self, conversation: Uuid, message: NewMessage) -> Result<Response> {
        let Some(job) = self.records.accept(conversation, &message.content).await? else {
            return Ok(refuse(StatusCode::NOT_FOUND));
        };
        self.design.submitted(job.id).await?;
        let accepted = json!({
            "message_id": job.message_id,
            "task_id": job.id,
            "stream_url": format!("/v1/tasks/{}/stream", job.id),
        });
        Ok(say(StatusCode::ACCEPTED, &accepted))
    }

    async fn follow(&self, task: Uuid, after: u64) -> Result<Response> {
        if !self.records.knows(task).await? {
            return Ok(refuse(StatusCode::NOT_FOUND));
        }
        let reader = self.design.read(task, after).await?;
        Ok(Response::builder()
            .content_type("text/event-stream; charset=utf-8")
            .header("cache-control", "no-store")
            .header("x-accel-buffering", "no")
            .body(Body::from_bytes_stream(frames::body(reader, after))))
    }
}

impl<D: Design> Endpoint for Api<D> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        Ok(self.answer(request).await.unwrap_or_else(|error| {
            eprintln!("a request fails: {error:#}");
            refuse(StatusCode::INTERNAL_SERVER_ERROR)
        }))
    }
}

impl Endpoint for Numbers {
    type Output = Response;

    async fn call(&self, _: Request) -> poem::Result<Response> {
        Ok(numbers(&self.0))
    }
}

fn numbers(gauges: &Gauges) -> Response {
    let shown = serde_json::to_value(gauges.shown()).unwrap_or_default();
    say(StatusCode::OK, &shown)
}

fn say(status: StatusCode, body: &Value) -> Response {
    Response::builder().status(status).content_type("application/json").body(body.to_string())
}

fn refuse(status: StatusCode) -> Response {
    say(status, &json!({ "status": status.as_u16() }))
}
