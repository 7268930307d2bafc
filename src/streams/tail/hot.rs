//! The tail's steps, for [`crate::hot`].

use std::sync::Arc;

use bytes::Bytes;

use super::feed::{Feed, Mail, Mailbox};
use crate::domain::{EventId, TaskId};
use crate::streams::Entry;
use crate::streams::entry::Page;
use crate::streams::resp::{Scanner, pages};

/// The entries of all streams in an `XREAD`'s reply, from its bytes. What can't
/// be read has none.
pub fn entries(reply: &Bytes) -> Vec<Entry> {
    let Ok(Some(length)) = Scanner::default().scan(reply) else { return Vec::new() };
    pages(&reply.slice(..length)).into_iter().flat_map(|(_, page)| page.entries).collect()
}

/// One task's feed, and the mailboxes of its viewers.
#[derive(Debug)]
pub struct FanOut {
    feed: Feed,
    mailboxes: Vec<Arc<Mailbox>>,
}

impl FanOut {
    /// To so many viewers, each with all the room that it needs.
    pub fn to(viewers: usize) -> Self {
        let feed = Feed::new(TaskId::generate(), String::new(), 0, EventId::START);
        let mailboxes: Vec<_> =
            (0..viewers).map(|_| Arc::new(Mailbox::new(usize::MAX / 2))).collect();
        for mailbox in &mailboxes {
            feed.attach(mailbox);
        }
        Self { feed, mailboxes }
    }

    /// Hands out what one read brought; what each viewer then takes.
    pub fn deliver(&self, entries: Vec<Entry>) -> impl Iterator<Item = Vec<Entry>> {
        let last = entries.last().map(|entry| entry.id);
        let page = Page { len: entries.len(), last, entries, bytes: 0 };
        self.feed.deliver(self.feed.read(), &page);
        self.mailboxes.iter().map(|mailbox| took(mailbox))
    }
}

fn took(mailbox: &Mailbox) -> Vec<Entry> {
    match mailbox.take() {
        Mail::Entries(entries) => entries,
        Mail::Nothing | Mail::Overflowed | Mail::Suspect => Vec::new(),
    }
}
