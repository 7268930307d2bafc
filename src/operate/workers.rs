//! `rill workers`: who takes jobs. PostgreSQL knows who lives and what runs,
//! Redis who has which jobs.

use serde::Serialize;

use super::output::{maybe, span, table};
use super::{Desk, Options, Result, Unavailable};
use crate::store::WorkerView;
use crate::streams::inspect::ConsumerView;

/// A worker, as both stores know it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Worker {
    id: String,
    /// `alive`; `dead`: no heartbeat within a lease; `gone`: PostgreSQL doesn't
    /// know it (any more); `unknown`: PostgreSQL can't be asked.
    state: &'static str,
    started_at: Option<String>,
    up_ms: Option<i64>,
    heartbeat_age_ms: Option<i64>,
    steady_ms: Option<i64>,
    /// It may take over from workers that died.
    may_take_over: Option<bool>,
    /// Tasks that run under it, in PostgreSQL.
    running: Option<i64>,
    /// Jobs that it has, in Redis.
    pending: Option<u64>,
    /// The job that it has not renewed for longest.
    longest_idle_ms: Option<u64>,
}

/// Joins what the two stores know: in PostgreSQL's order, then those that only
/// Redis knows.
pub(super) fn join(
    known: Option<Vec<WorkerView>>,
    consumers: Option<&[ConsumerView]>,
    lease: std::time::Duration,
) -> Vec<Worker> {
    let asked = known.is_some();
    let lease = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    let mut workers: Vec<_> = known
        .unwrap_or_default()
        .into_iter()
        .map(|view| Worker {
            id: view.id.to_string(),
            state: if view.alive { "alive" } else { "dead" },
            started_at: serde_json::to_value(&view)
                .ok()
                .and_then(|view| view["started_at"].as_str().map(str::to_owned)),
            up_ms: Some(view.up_ms),
            heartbeat_age_ms: Some(view.heartbeat_age_ms),
            steady_ms: Some(view.steady_ms),
            may_take_over: Some(view.alive && view.steady_ms >= lease),
            running: Some(view.running),
            pending: consumers.map(|_| 0),
            longest_idle_ms: None,
        })
        .collect();
    for consumer in consumers.unwrap_or_default() {
        let at = workers.iter().position(|worker| worker.id == consumer.name);
        let at = at.unwrap_or_else(|| {
            workers.push(Worker {
                id: consumer.name.clone(),
                state: if asked { "gone" } else { "unknown" },
                started_at: None,
                up_ms: None,
                heartbeat_age_ms: None,
                steady_ms: None,
                may_take_over: None,
                running: None,
                pending: None,
                longest_idle_ms: None,
            });
            workers.len() - 1
        });
        workers[at].pending = Some(consumer.pending);
        workers[at].longest_idle_ms = consumer.longest_idle_ms;
    }
    workers
}

/// For people.
pub(super) fn human(workers: &[Worker]) -> String {
    if workers.is_empty() {
        return "No worker is there: nothing is answered until one is. Start `rill worker`.\n"
            .into();
    }
    let number = |n: Option<String>| n.unwrap_or_else(|| "-".to_owned());
    let rows: Vec<_> = workers
        .iter()
        .map(|worker| {
            vec![
                worker.id.clone(),
                worker.state.to_owned(),
                maybe(worker.up_ms),
                worker.heartbeat_age_ms.map_or("-".into(), |ms| format!("{} ago", span(ms))),
                match worker.may_take_over {
                    Some(true) => "yes".to_owned(),
                    Some(false) if worker.state == "alive" => "not yet".to_owned(),
                    _ => "no".to_owned(),
                },
                number(worker.running.map(|n| n.to_string())),
                number(worker.pending.map(|n| n.to_string())),
                maybe(worker.longest_idle_ms),
            ]
        })
        .collect();
    let head = ["WORKER", "STATE", "UP", "HEARTBEAT", "STEADY", "RUNNING", "PENDING", "UNRENEWED"];
    let mut text = table(&head, &rows);
    let lost = workers.iter().filter(|w| w.state != "alive" && w.state != "unknown");
    if lost.clone().any(|worker| worker.running > Some(0) || worker.pending > Some(0)) {
        text += match workers.iter().any(|worker| worker.may_take_over == Some(true)) {
            true => "\nWhat dead workers have left is being taken over.\n",
            false => {
                "\nWhat dead workers have left is taken over as soon as a worker has been steady for a lease.\n"
            }
        };
    }
    text
}

#[derive(Serialize)]
struct View {
    lease_ms: u64,
    workers: Vec<Worker>,
    unavailable: Vec<Unavailable>,
}

/// Who takes jobs, and what they have.
///
/// # Errors
/// When a store is away; what the other knows is printed.
pub async fn workers(options: &Options) -> Result<()> {
    let mut desk = Desk::open(options).await?;
    let known = desk.ask_store(async |store, lease| store.workers(lease).await).await;
    let queue = desk.ask_streams(async |streams| streams.queue_view().await).await;
    let consumers = queue.as_ref().map(|queue| queue.consumers.as_slice());
    let nothing = known.is_none() && consumers.is_none();
    let view = View {
        lease_ms: u64::try_from(desk.lease.as_millis()).unwrap_or(u64::MAX),
        workers: join(known, consumers, desk.lease),
        unavailable: desk.unavailable.clone(),
    };
    if nothing && !desk.json {
        return desk.needs_both();
    }
    desk.answer(&view, || human(&view.workers))
}
