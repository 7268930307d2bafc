//! Allocations a token. Counted on this thread alone (so the model's server
//! isn't), growing included.

use allocation_counter::measure;
use rill::domain::EventId;
use rill::hot::{FanOut, Saying, Serving};

use crate::bounds::Figures;
use crate::provider::Answering;
use crate::steps::{counted_decode, counted_serve, counted_store, deltas, replies};

/// Enough that what grows by doubling doesn't show.
pub(crate) const TOKENS: usize = 1_000;

/// Buffers have their size then, and caches are filled.
pub(crate) const WARM_UP: usize = 50;

fn hold(name: &str, counted: impl FnOnce()) {
    let allocations = measure(counted).count_total;
    let mut figures = Figures::default();
    figures.add(&format!("allocations a token: {name}"), allocations as f64 / TOKENS as f64);
    figures.hold();
}

#[test]
#[ignore = "counts: make guard"]
fn decode() {
    let mut answering = Answering::begin();
    for _ in 0..WARM_UP {
        answering.say(1);
        answering.next();
    }
    hold("socket to delta", || counted_decode(&mut answering, TOKENS));
}

#[test]
#[ignore = "counts: make guard"]
fn store() {
    let mut saying = Saying::default();
    let deltas = deltas(TOKENS);
    hold("delta to stored event", || counted_store(&mut saying, deltas));
}

#[test]
#[ignore = "counts: make guard"]
fn serve() {
    let (fan_out, mut serving) = (FanOut::to(1), Serving::after(EventId::new(1, 0)));
    let replies = replies(TOKENS);
    hold("Redis' reply to frame", || counted_serve(&fan_out, &mut serving, &replies));
}
