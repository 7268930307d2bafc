//! Every metric that rill exports, one function each, so that a name and its
//! labels are written once. Labels have few values: never an ID.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Counter, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

use crate::domain::EventName;

/// Bucket bounds in seconds: from a local append to a long answer.
const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 300.0,
];

/// How often samples are put into their buckets: until then, each is kept.
const UPKEEP: Duration = Duration::from_secs(1);

/// Installs the recorder of this process; what it holds is served at
/// `/metrics`. Before anything is counted: what is counted for each event finds
/// its place once. Needs a runtime.
///
/// # Errors
/// When a recorder is installed already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new().set_buckets(SECONDS)?.install_recorder()?;
    let upkeep = handle.clone();
    // Whether anyone asks for the metrics or not: memory is bounded.
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

/// What is counted for each event: looking a metric up by its name and labels
/// costs as much as the rest of an append's own work.
struct Hot {
    appended: Vec<(EventName, Counter)>,
    append_duration: Histogram,
    delivery_duration: Histogram,
    sent: Counter,
    /// Reads, and those of them that brought nothing.
    reads: Vec<(Way, Counter, Counter)>,
    entries: Counter,
}

static HOT: LazyLock<Hot> = LazyLock::new(|| Hot {
    appended: EventName::ALL
        .into_iter()
        .map(|name| (name, counter!("rill_events_appended_total", "event" => name.as_str())))
        .collect(),
    append_duration: histogram!("rill_append_duration_seconds"),
    delivery_duration: histogram!("rill_delivery_duration_seconds"),
    sent: counter!("rill_events_sent_total"),
    reads: Way::ALL
        .into_iter()
        .map(|(way, name)| {
            let reads = counter!("rill_tail_reads_total", "way" => name);
            (way, reads, counter!("rill_tail_empty_reads_total", "way" => name))
        })
        .collect(),
    entries: counter!("rill_tail_entries_total"),
});

/// Whether the process can do its work, as `/readyz` says.
pub fn ready(ready: bool) {
    gauge!("rill_ready").set(f64::from(u8::from(ready)));
}

/// Workers that have said within 30 s that they live.
pub fn workers_alive(count: u64) {
    gauge!("rill_workers_alive").set(count as f64);
}

/// Whether a connection to Redis takes writes.
pub fn redis_connection(name: &'static str, writes: bool) {
    gauge!("rill_redis_connection_up", "connection" => name).set(f64::from(u8::from(writes)));
}

/// A message was committed and its task will end.
pub fn task_accepted() {
    counter!("rill_tasks_accepted_total").increment(1);
}

/// A task reached its end.
pub fn task_finished(status: &'static str, took: Option<Duration>) {
    counter!("rill_tasks_finished_total", "status" => status).increment(1);
    if let Some(took) = took {
        histogram!("rill_task_duration_seconds", "status" => status).record(took);
    }
}

/// A worker began an attempt.
pub fn attempt_started() {
    counter!("rill_attempts_started_total").increment(1);
}

/// An attempt failed and another follows.
pub fn attempt_retried(code: &'static str) {
    counter!("rill_attempts_retried_total", "code" => code).increment(1);
}

/// The first token came this long after the attempt began.
pub fn first_token(after: Duration) {
    histogram!("rill_time_to_first_token_seconds").record(after);
}

/// An event is in its stream.
pub fn event_appended(event: EventName, took: Duration) {
    if let Some((_, counter)) = HOT.appended.iter().find(|(name, _)| *name == event) {
        counter.increment(1);
    }
    HOT.append_duration.record(took);
}

/// An append was refused or its outcome is unknown.
pub fn append_error(kind: &'static str) {
    counter!("rill_append_errors_total", "kind" => kind).increment(1);
}

/// An event was written to a reader, so long after its append: two machines'
/// clocks are in it.
pub fn event_delivered(took: Duration) {
    HOT.delivery_duration.record(took);
}

/// Events were handed to a reader's connection.
pub fn events_sent(count: u64) {
    HOT.sent.increment(count);
}

/// Why task streams were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// There was news, said a hint.
    Hint,
    /// A stream that hints come for was quiet.
    Look,
    /// A read that blocks, for streams that no hints come for.
    Block,
    /// A subscriber came late, or was slow.
    CatchUp,
}

impl Way {
    const ALL: [(Self, &str); 4] = [
        (Self::Hint, "hint"),
        (Self::Look, "look"),
        (Self::Block, "block"),
        (Self::CatchUp, "catch_up"),
    ];
}

/// One read of task streams brought `entries`.
pub fn tail_read(way: Way, entries: usize) {
    if let Some((_, reads, empty)) = HOT.reads.iter().find(|(other, ..)| *other == way) {
        reads.increment(1);
        empty.increment(u64::from(entries == 0));
    }
    HOT.entries.increment(entries as u64);
}

/// Task streams that this process follows.
pub fn tail_streams(count: usize) {
    gauge!("rill_tail_streams").set(count as f64);
}

/// A stream was opened, and is served from there.
pub fn stream_opened(source: &'static str) {
    counter!("rill_streams_opened_total", "source" => source).increment(1);
}

/// Counts one up for as long as it lives.
#[derive(Debug)]
pub struct InFlight(&'static str);

impl Drop for InFlight {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1.0);
    }
}

fn in_flight(name: &'static str) -> InFlight {
    gauge!(name).increment(1.0);
    InFlight(name)
}

/// So many bytes of prompts are held for as long as it lives.
#[derive(Debug)]
pub struct Held(f64);

impl Drop for Held {
    fn drop(&mut self) {
        gauge!("rill_prompt_bytes").decrement(self.0);
    }
}

/// A large prompt is held.
pub fn prompt_held(bytes: usize) -> Held {
    let bytes = bytes as f64;
    gauge!("rill_prompt_bytes").increment(bytes);
    Held(bytes)
}

/// A large prompt had to wait for room.
pub fn prompt_waited() {
    counter!("rill_prompt_waits_total").increment(1);
}

/// A prompt was cut to its newest exchanges.
pub fn prompt_cut() {
    counter!("rill_prompts_cut_total").increment(1);
}

/// A large response had to wait for room.
pub fn response_waited() {
    counter!("rill_response_waits_total").increment(1);
}

/// A large response was refused, as there was no room for it.
pub fn response_refused() {
    counter!("rill_responses_refused_total").increment(1);
}

/// A reader is connected.
pub fn reader() -> InFlight {
    in_flight("rill_readers_open")
}

/// A worker runs a task.
pub fn task_running() -> InFlight {
    in_flight("rill_tasks_running")
}

/// A client's connection is open.
pub fn connection() -> InFlight {
    in_flight("rill_connections_open")
}

/// Why the server ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// It sent no request in time.
    Silent,
    /// It was idle for as long as it may be.
    Idle,
    /// It was idle, and its slot was needed.
    Evicted,
    /// Slots and guests' places were taken, and it was the oldest guest.
    Crowded,
    /// It left a full socket unread, or a stream of HTTP/2 (the stream alone ends).
    Unread,
    /// It was gone, and nothing said so.
    Vanished,
}

/// The server ended a connection.
pub fn connection_closed(why: Closed) {
    let why = match why {
        Closed::Silent => "silent",
        Closed::Idle => "idle",
        Closed::Evicted => "evicted",
        Closed::Crowded => "crowded",
        Closed::Unread => "unread",
        Closed::Vanished => "vanished",
    };
    counter!("rill_connections_closed_total", "reason" => why).increment(1);
}

/// A request was refused, as it is beyond `limit`.
pub fn overloaded(limit: &'static str) {
    counter!("rill_http_overloaded_total", "limit" => limit).increment(1);
}

/// A statement was sent to PostgreSQL.
pub fn store_statement(statement: &'static str) {
    counter!("rill_store_statements_total", "statement" => statement).increment(1);
}

/// A request was answered (for a stream: its head).
pub fn http_request(method: &'static str, route: String, status: u16, took: Duration) {
    histogram!("rill_http_request_duration_seconds", "route" => route.clone()).record(took);
    counter!("rill_http_requests_total", "method" => method, "route" => route, "status" => status.to_string())
        .increment(1);
}
