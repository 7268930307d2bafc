//! `XREAD`s that don't block, over one connection that many share.

use std::sync::Arc;

use bytes::Bytes;
use redis::{Client, Cmd, Value};
use tokio_util::sync::CancellationToken;

use super::deployment::Deployment;
use super::entry::{self, Page};
use super::link::{Link, OnMessage};
use super::tap::{Replies, Wires};
use super::{Error, PATIENCE, Result, answered, resp};

/// A link whose `XREAD`s are answered past redis-rs' parser, where that can be.
pub(super) struct Reads {
    pub(super) link: Link,
    replies: Arc<Replies>,
}

impl Reads {
    /// As [`Link::new`].
    pub(super) fn new(
        client: Client,
        deployment: Deployment,
        on_message: OnMessage,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let replies = Arc::<Replies>::default();
        let replies_to = Some(replies.clone());
        let wires = Wires { deployment, on_message: Some(on_message), replies: replies_to };
        let (link, driver) = Link::new(client, wires, stop);
        (Self { link, replies }, driver)
    }

    /// The connection can't be trusted: another is made.
    pub(super) fn give_up(&self) {
        self.link.give_up();
    }

    /// Sends an `XREAD`. Answers with what it brings of each key that has news,
    /// in the order of the command.
    pub(super) async fn read(&self, command: &Cmd) -> Result<Vec<(Bytes, Page)>> {
        let mut connected = self.link.get(PATIENCE).await?;
        match answered(connected.send(command).await?)? {
            Value::Int(number) => {
                let reply = self.replies.take(number).ok_or(Error::Unexpected("XREAD"))?;
                Ok(resp::pages(&reply))
            }
            answer => Ok(entry::pages(answer)),
        }
    }
}
