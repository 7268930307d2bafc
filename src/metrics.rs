//! Every metric that rill exports, one function each, so that a name and its
//! labels are written once. Labels have few values: never an ID.

use std::time::Duration;

use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

/// Bucket bounds in seconds: from a local append to a long answer.
const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 300.0,
];

/// Installs the recorder of this process; what it holds is served at `/metrics`.
///
/// # Errors
/// When a recorder is installed already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    PrometheusBuilder::new().set_buckets(SECONDS)?.install_recorder()
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
pub fn event_appended(event: &'static str, took: Duration) {
    counter!("rill_events_appended_total", "event" => event).increment(1);
    histogram!("rill_append_duration_seconds").record(took);
}

/// An append was refused or its outcome is unknown.
pub fn append_error(kind: &'static str) {
    counter!("rill_append_errors_total", "kind" => kind).increment(1);
}

/// Events were handed to a reader's connection.
pub fn events_sent(count: u64) {
    counter!("rill_events_sent_total").increment(count);
}

/// One read of task streams brought `entries`.
pub fn tail_read(way: &'static str, entries: usize) {
    counter!("rill_tail_reads_total", "way" => way).increment(1);
    counter!("rill_tail_entries_total").increment(entries as u64);
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
