//! An answer in one piece, at the end of its time.

use poem::http::StatusCode;
use poem::{Body, Response};
use serde_json::json;

use super::answer::{Answer, Piece};
use super::directives::{Break, Script};
use super::reply::{Running, time_for};
use super::sloppy::Kinds;
use super::wire::{self, Usage};

/// An answer that isn't streamed.
pub(super) struct Whole {
    pub id: String,
    pub created: u64,
    pub breakage: Option<(Break, usize)>,
    pub running: Running,
}

impl Whole {
    pub(super) async fn respond(
        self,
        request: &wire::Request,
        script: &Script,
        answer: Answer,
    ) -> Response {
        // Only who asked for a stream gets something else.
        let sloppy = if request.stream { script.sloppy } else { Kinds::default() };
        let pieces: Vec<Piece> = answer.pieces.collect();
        tokio::time::sleep(script.ttft + time_for(pieces.len(), script.rate)).await;
        let usage = Usage::new(request.tokens(), pieces.len());
        let mut completion = wire::completion(
            &self.id,
            self.created,
            &request.model,
            pieces,
            &answer.finish_reason,
            usage,
        );
        let response = Response::builder()
            .status(StatusCode::OK)
            .content_type(sloppy.content_type("application/json"));
        let response = match self.breakage.map(|(how, _)| how) {
            None => response.body(sloppy.completion(completion)),
            Some(Break::Eof) => response.finish(),
            Some(Break::Garbage) => response.body("{\"choices\":[{"),
            Some(Break::Error) => {
                let said = completion["choices"][0]["message"].take();
                completion["choices"] = json!([wire::failed_choice("message", said)]);
                response.body(sloppy.completion(completion))
            }
            Some(Break::ErrorEvent) => {
                response.body(json!({ "error": wire::model_crashed() }).to_string())
            }
            Some(Break::Stall) => std::future::pending().await,
            Some(Break::Cut) => {
                let cut = std::io::Error::other("cut, as the prompt asked");
                let body = futures_util::stream::once(async { Err::<bytes::Bytes, _>(cut) });
                response.body(Body::from_bytes_stream(body))
            }
        };
        drop(self.running);
        response
    }
}
