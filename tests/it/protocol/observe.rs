//! A path of the model as a trace, as a chaos run would have seen it.

use rill::domain::{EventId, EventName};
use serde_json::json;

use super::actions::Action;
use super::row::Row;
use super::text::{Content, Span};
use super::trace::{JobSeen, LogSeen, RowSeen, TaskTrace};
use super::world::World;

/// What was seen of a path.
pub(crate) fn observe(path: &[(World, Option<Action>)]) -> TaskTrace {
    let mut trace = TaskTrace { task: "of the model".to_owned(), ..TaskTrace::default() };
    if let Some((start, _)) = path.first() {
        trace.db.push(row(&start.row, None));
        trace.jobs.extend(start.jobs.iter().map(|job| JobSeen::Added { entry: name(job.entry) }));
    }
    for step in path.windows(2) {
        let [(before, Some(action)), (after, _)] = step else { continue };
        if before.row != after.row {
            let fresh = |owner: u32| before.fresh & (1 << owner) != 0;
            trace.db.push(row(&after.row, before.row.worker.map(fresh)));
        }
        see_stream(before, after, &mut trace.log);
        see_jobs(before, after, *action, &mut trace.jobs);
    }
    trace
}

fn name(number: u32) -> String {
    format!("n{number}")
}

fn row(row: &Row, owner_fresh: Option<bool>) -> RowSeen {
    let status = format!("{:?}", row.status).to_lowercase();
    RowSeen {
        final_event: row.end.map(|_| status.clone()),
        status,
        attempt: row.attempt,
        worker: row.worker.map(name),
        claim: row.claim.map(name),
        failures: row.failures,
        cancel_requested: row.cancelled,
        queued_due: row.due,
        final_id: row.end.map(|id| id.to_string()),
        final_data: None,
        owner_fresh,
    }
}

fn see_stream(before: &World, after: &World, log: &mut Vec<LogSeen>) {
    let (old, new) = (before.stream.as_deref(), after.stream.as_deref().unwrap_or_default());
    if old.is_some() && after.stream.is_none() {
        return log.push(LogSeen::Gone);
    }
    let old = old.unwrap_or_default();
    let common = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    if let Some((from, _)) = old.get(common) {
        log.push(LogSeen::Lost { from: from.to_string() });
    }
    log.extend(new[common..].iter().map(|(id, content)| append(*id, content)));
}

fn append(id: EventId, content: &Content<Span>) -> LogSeen {
    let event = content.event.as_str();
    let data = match content.event.known() {
        Some(EventName::Delta | EventName::Snapshot) if content.more => {
            json!({ "type": event, "text": content.text.to_string(), "more": true })
        }
        Some(EventName::Delta | EventName::Snapshot) => {
            json!({ "type": event, "text": content.text.to_string() })
        }
        _ => json!({ "type": event }),
    };
    LogSeen::Append { id: id.to_string(), event: event.to_owned(), data: data.to_string() }
}

fn see_jobs(before: &World, after: &World, action: Action, jobs: &mut Vec<JobSeen>) {
    let lost = matches!(action, Action::JobLost(_) | Action::RedisFlushed);
    for job in &after.jobs {
        let entry = name(job.entry);
        let old = before.jobs.iter().find(|old| old.entry == job.entry);
        match (old, job.holder) {
            (None, _) => jobs.push(JobSeen::Added { entry }),
            (Some(old), Some(holder)) if old.holder != job.holder => {
                jobs.push(JobSeen::Delivered { entry, consumer: name(holder) });
            }
            _ => {}
        }
    }
    for job in before.jobs.iter().filter(|old| after.jobs.iter().all(|new| new.entry != old.entry))
    {
        let entry = name(job.entry);
        jobs.push(if lost { JobSeen::Lost { entry } } else { JobSeen::Deleted { entry } });
    }
}
