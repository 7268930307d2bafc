//! `cargo bench --bench hot`: the steps that every token takes through rill,
//! one by one, without servers.
//!
//! The steps are the real ones ([`rill::hot`]). What they cost in allocations
//! and instructions is bounded by `tests/guard`; here is how long they take.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rill::domain::{Event, EventId, EventName};
use rill::hot::{FanOut, Saying, entries, frames};
use rill::model::Delta;
use rill::streams::Entry;

#[path = "../../tests/guard/provider.rs"]
mod provider;

/// Tokens that are taken at a time where a step works on several.
const TOKENS: usize = 64;

fn ids(count: usize) -> Vec<EventId> {
    (1..=count).map(|seq| EventId::new(2, seq as u64)).collect()
}

fn stored(count: usize) -> Vec<Entry> {
    let data = Bytes::from_static(br#"{"type":"delta","text":" token"}"#);
    let entry = |id| Entry::new(id, EventName::Delta, data.clone());
    ids(count).into_iter().map(entry).collect()
}

/// A reply to `XREAD` (RESP3) with so many entries of one stream.
fn reply(count: usize) -> bytes::Bytes {
    const KEY: &str = "rill:{17}:task:0198d5f0-7d1c-7cc2-9d5b-0a6c3f1e2b4a";
    let mut reply = format!("%1\r\n${}\r\n{KEY}\r\n*{count}\r\n", KEY.len());
    for id in ids(count) {
        let id = id.text();
        reply += &format!("*2\r\n${}\r\n{}\r\n*6\r\n$1\r\ne\r\n", id.len(), &*id);
        reply += "$5\r\ndelta\r\n$1\r\nd\r\n$32\r\n{\"type\":\"delta\",\"text\":\" token\"}\r\n";
        reply += "$1\r\nt\r\n$13\r\n1764230400000\r\n";
    }
    reply.into()
}

fn writing(c: &mut Criterion) {
    let mut group = c.benchmark_group("write");
    group.throughput(Throughput::Elements(TOKENS as u64));
    group.bench_function("decode: provider's socket to deltas", |b| {
        let mut answering = provider::Answering::begin();
        b.iter(|| {
            answering.say(TOKENS);
            for _ in 0..TOKENS {
                black_box(answering.next());
            }
        });
    });
    group.bench_function("store: deltas to events", |b| {
        let deltas = || (0..TOKENS).map(|_| Delta::Text(" token".to_owned())).collect::<Vec<_>>();
        b.iter_batched(
            || (Saying::default(), deltas()),
            |(mut saying, deltas)| {
                for delta in deltas {
                    black_box(saying.say(delta));
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode: an event's JSON", |b| {
        let event = Event::Delta { text: " token \"quoted\"\n".to_owned() };
        b.iter(|| black_box(&event).encode());
    });
    group.finish();
}

fn reading(c: &mut Criterion) {
    let mut group = c.benchmark_group("read");
    for count in [1, TOKENS] {
        group.throughput(Throughput::Elements(count as u64));
        let reply = reply(count);
        group.bench_with_input(
            BenchmarkId::new("parse: XREAD's reply", count),
            &reply,
            |b, reply| {
                b.iter(|| entries(black_box(reply)));
            },
        );
        let stored = stored(count);
        group.bench_with_input(
            BenchmarkId::new("frame: entries to SSE", count),
            &stored,
            |b, stored| {
                b.iter(|| frames(black_box(stored)));
            },
        );
    }
    group.finish();
}

fn fanning_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("fan-out");
    for viewers in [1, 10, 1_000] {
        group.throughput(Throughput::Elements(viewers as u64));
        group.bench_function(BenchmarkId::from_parameter(viewers), |b| {
            b.iter_batched(
                || (FanOut::to(viewers), stored(1)),
                |(fan_out, entries)| {
                    fan_out.deliver(entries).for_each(|mail| {
                        black_box(mail);
                    });
                    fan_out
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn event_ids(c: &mut Criterion) {
    let mut group = c.benchmark_group("event ID");
    group.bench_function("parse", |b| b.iter(|| black_box("2-1234567").parse::<EventId>()));
    group
        .bench_function("write", |b| b.iter(|| black_box(EventId::new(2, 1_234_567)).text().len()));
    group.finish();
}

criterion_group!(benches, writing, reading, fanning_out, event_ids);
criterion_main!(benches);
