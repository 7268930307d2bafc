//! A token's steps, a token at a time: what the allocations and the
//! instructions are counted of.
//!
//! Each loop is a function of its own, never inlined and without a closure:
//! callgrind counts while it is inside a function of that name.

use std::hint::black_box;

use bytes::Bytes;
use rill::domain::EventId;
use rill::hot::{FanOut, Saying, Serving, entries};
use rill::model::Delta;

use crate::provider::Answering;

/// What callgrind looks for.
pub(crate) const DECODE: &str = "steps::counted_decode";
pub(crate) const STORE: &str = "steps::counted_store";
pub(crate) const SERVE: &str = "steps::counted_serve";

/// From the model's socket to a delta.
#[inline(never)]
pub(crate) fn counted_decode(answering: &mut Answering, tokens: usize) {
    for _ in 0..tokens {
        answering.say(1);
        black_box(answering.next());
    }
}

/// What the model said, before it is an event.
pub(crate) fn deltas(tokens: usize) -> Vec<Delta> {
    (0..tokens).map(|_| Delta::Text(" token".to_owned())).collect()
}

/// From a delta to the event that is appended.
#[inline(never)]
pub(crate) fn counted_store(saying: &mut Saying, deltas: Vec<Delta>) {
    for delta in deltas {
        black_box(saying.say(delta));
    }
}

/// Replies to `XREAD`, one entry each, as Redis writes them in RESP3.
pub(crate) fn replies(tokens: usize) -> Vec<Bytes> {
    (1..=tokens).map(|seq| reply(&[EventId::new(1, seq as u64)])).collect()
}

/// One stream with these entries.
pub(crate) fn reply(ids: &[EventId]) -> Bytes {
    const KEY: &str = "rill:{17}:task:0198d5f0-7d1c-7cc2-9d5b-0a6c3f1e2b4a";
    let mut reply = format!("%1\r\n${}\r\n{KEY}\r\n*{}\r\n", KEY.len(), ids.len());
    for id in ids {
        let id = id.text();
        reply += &format!("*2\r\n${}\r\n{}\r\n*6\r\n$1\r\ne\r\n", id.len(), &*id);
        reply += "$5\r\ndelta\r\n$1\r\nd\r\n$32\r\n{\"type\":\"delta\",\"text\":\" token\"}\r\n";
        reply += "$1\r\nt\r\n$13\r\n1764230400000\r\n";
    }
    reply.into()
}

/// From Redis' reply to the bytes that one viewer is sent.
#[inline(never)]
pub(crate) fn counted_serve(fan_out: &FanOut, serving: &mut Serving, replies: &[Bytes]) {
    for reply in replies {
        for mail in fan_out.deliver(entries(reply)) {
            black_box(serving.frames(mail));
        }
    }
}

#[test]
fn every_step_has_its_token() {
    let mut answering = Answering::begin();
    answering.say(2);
    assert_eq!(answering.next(), Delta::Text(" token".to_owned()));
    let stored = Saying::default().say(answering.next()).expect("an event");
    assert_eq!(stored.data, r#"{"type":"delta","text":" token"}"#);
    let fan_out = FanOut::to(2);
    let ids = [EventId::new(1, 1), EventId::new(1, 2)];
    let mails: Vec<_> = fan_out.deliver(entries(&reply(&ids))).collect();
    assert_eq!(mails.len(), 2);
    for mail in mails {
        assert_eq!(mail.iter().map(|entry| entry.id).collect::<Vec<_>>(), ids);
        assert_eq!(mail[0].data, stored.data);
        let frames = Serving::after(EventId::new(1, 1)).frames(mail);
        assert_eq!(
            frames,
            "id: 1-2\nevent: delta\ndata: {\"type\":\"delta\",\"text\":\" token\"}\n\n"
        );
    }
}
