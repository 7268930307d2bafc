//! A reader that is cut off again and again, comes back at another API, and
//! checks every event.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use rand::Rng;
use rand::rngs::StdRng;
use rill::domain::{Answer, Class, Event, EventId, StoredName};

use super::client::World;
use super::verdict::{Harm, Numbered};
use crate::support::SseParser;

/// The terminal event as a reader got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) id: String,
    pub(super) event: String,
    pub(super) data: String,
}

/// What one reader has seen of a task.
pub(super) struct Viewer {
    world: Arc<World>,
    task: String,
    cursor: Option<String>,
    pub(super) answer: Answer,
    numbered: Numbered,
    pub(super) end: Option<End>,
    /// The conversation was deleted, and the stream with it.
    pub(super) gone: bool,
}

impl Viewer {
    pub(super) fn new(world: Arc<World>, task: &str) -> Self {
        Self {
            world,
            task: task.to_owned(),
            cursor: None,
            answer: Answer::default(),
            numbered: Numbered::default(),
            end: None,
            gone: false,
        }
    }

    /// Reads until the terminal event, through any number of cuts.
    pub(super) async fn follow(mut self, random: &mut StdRng, cuts: bool) -> Self {
        let mut first = true;
        while self.end.is_none() && !self.gone {
            if !first {
                self.world.tally.resumed.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(random.random_range(10..200))).await;
            }
            first = false;
            let url = self.world.any_api(random);
            let cut = (cuts && random.random_bool(0.5)).then(|| random.random_range(1..3_000));
            // An error is what the network does; come back.
            let _ = self.connect(&url, cut).await;
        }
        self
    }

    /// Until the end of the body, or after so many bytes.
    async fn connect(&mut self, api: &str, cut: Option<usize>) -> reqwest::Result<()> {
        let url = format!("{api}/v1/tasks/{}/stream", self.task);
        let mut request = self.world.http.get(&url).header("Accept", "text/event-stream");
        if let Some(cursor) = &self.cursor {
            request = request.header("Last-Event-ID", cursor);
        }
        let Ok(response) = tokio::time::timeout(super::ANSWERS_WITHIN, request.send()).await else {
            return Ok(());
        };
        let response = response?;
        match response.status().as_u16() {
            200 => {}
            404 if self.world.deleted(&self.task) => {
                self.gone = true;
                return Ok(());
            }
            500.. => return Ok(()),
            status => {
                let what = format!("{url} after {:?}: {status}", self.cursor);
                self.world.tally.harm(Harm::Broken, what);
                self.gone = true;
                return Ok(());
            }
        }
        let mut parser = SseParser::after(self.cursor.as_deref());
        let mut body = response.bytes_stream();
        let mut left = cut.unwrap_or(usize::MAX);
        while let Some(piece) = body.next().await {
            let piece = piece?;
            let piece = &piece[..piece.len().min(left)];
            left -= piece.len();
            for event in parser.feed(piece) {
                self.take(event.id, event.event, event.data);
            }
            if left == 0 || self.end.is_some() {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, id: String, event: String, data: String) {
        let harm = |harm, what| self.world.tally.harm(harm, format!("task {}: {what}", self.task));
        if event == "ping" {
            return;
        }
        if let Some(end) = &self.end {
            return harm(Harm::SeveralEnds, format!("{id} {event} after {end:?}"));
        }
        let parse = |id: &str| id.parse::<EventId>().ok();
        let Some(number) = parse(&id) else {
            return harm(Harm::Broken, format!("{id:?} is no event ID"));
        };
        match self.cursor.as_deref().and_then(parse) {
            Some(before) if before == number => harm(Harm::Doubled, format!("event {id}")),
            Some(before) if before > number => {
                harm(Harm::Reordered, format!("event {id} after {before}"));
            }
            _ => {}
        }
        let name = StoredName::read(event.as_bytes());
        if name
            .as_ref()
            .is_some_and(|name| name.known().is_none() && name.class() != Class::Internal)
        {
            // A newer version's: clients ignore it.
            self.cursor = Some(id);
            return;
        }
        let decoded = name.and_then(|name| Event::decode(name.known()?, data.as_bytes()).ok());
        let Some(decoded) = decoded else {
            return harm(Harm::Broken, format!("{id} {event} {data} can't be read"));
        };
        self.answer.apply(&decoded);
        let text = &self.answer.text;
        if let Err((kind, what)) = self.numbered.check(text, decoded.name().is_reset()) {
            harm(kind, format!("event {id} {event}: {what}"));
        }
        if decoded.name().is_terminal() {
            self.end = Some(End { id: id.clone(), event, data });
        }
        self.cursor = Some(id);
    }
}
