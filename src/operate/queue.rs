//! `rill queue`: how much there is to do, for how long, and who does it.

use serde::Serialize;

use super::output::{count, maybe, span, table};
use super::workers::{self, Worker};
use super::{Desk, Options, Result, Unavailable};
use crate::store::TaskCounts;
use crate::streams::inspect::QueueView;

#[derive(Serialize)]
struct View {
    /// What Redis knows; null if it can't be asked.
    jobs: Option<QueueView>,
    /// What PostgreSQL knows; null if it can't be asked.
    tasks: Option<TaskCounts>,
    workers: Vec<Worker>,
    unavailable: Vec<Unavailable>,
}

/// The queue.
///
/// # Errors
/// When a store is away; what the other knows is printed.
pub async fn queue(options: &Options) -> Result<()> {
    let mut desk = Desk::open(options).await?;
    let jobs = desk.ask_streams(async |streams| streams.queue_view().await).await;
    let tasks = desk.ask_store(async |store, lease| store.task_counts(lease).await).await;
    let known = desk.ask_store(async |store, lease| store.workers(lease).await).await;
    if jobs.is_none() && tasks.is_none() && !desk.json {
        return desk.needs_both();
    }
    let consumers = jobs.as_ref().map(|jobs| jobs.consumers.as_slice());
    let workers = workers::join(known, consumers, desk.lease);
    let view = View { jobs, tasks, workers, unavailable: desk.unavailable.clone() };
    desk.answer(&view, || human(&view))
}

fn human(view: &View) -> String {
    let mut text = String::new();
    if let Some(jobs) = &view.jobs {
        let pending = match jobs.longest_idle_ms {
            None => String::new(),
            Some(idle) => {
                let mut notes = vec![format!("unrenewed for up to {}", span(idle))];
                if jobs.redelivered > 0 {
                    notes.push(format!(
                        "{} delivered more than once, up to {} times",
                        jobs.redelivered, jobs.most_deliveries
                    ));
                }
                if jobs.looked_at < jobs.pending {
                    notes.push(format!("of the first {}", jobs.looked_at));
                }
                notes.join("; ")
            }
        };
        let dead = if jobs.dead_letters > 0 {
            format!("newest {} ago; rill dead list", maybe(jobs.newest_dead_letter_ms))
        } else {
            String::new()
        };
        text += &table(
            // As wide as the table below.
            &["JOBS (Redis)      ", "COUNT", "OLDEST", ""],
            &[
                row("waiting", jobs.waiting, maybe(jobs.oldest_waiting_ms), String::new()),
                row("pending", jobs.pending, maybe(jobs.oldest_pending_ms), pending),
                row("dead letters", jobs.dead_letters, String::new(), dead),
            ],
        );
        text.push('\n');
    }
    if let Some(tasks) = &view.tasks {
        let next = tasks.next_due_in_ms.map(|ms| format!("next due in {}", span(ms)));
        let mut running = Vec::new();
        if tasks.orphaned > 0 {
            running.push(format!("{} under dead workers", tasks.orphaned));
        }
        if tasks.cancelling > 0 {
            running.push(format!("{} to be cancelled", count(tasks.cancelling, "task")));
        }
        text += &table(
            &["TASKS (PostgreSQL)", "COUNT", "OLDEST", ""],
            &[
                row("queued, due", tasks.queued_due, maybe(tasks.oldest_due_ms), String::new()),
                row("queued, later", tasks.queued_later, String::new(), next.unwrap_or_default()),
                row("running", tasks.running, maybe(tasks.oldest_running_ms), running.join("; ")),
            ],
        );
        text.push('\n');
    }
    text + &workers::human(&view.workers)
}

fn row(name: &str, count: impl std::fmt::Display, oldest: String, note: String) -> Vec<String> {
    vec![name.to_owned(), count.to_string(), oldest, note]
}
