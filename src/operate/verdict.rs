//! What happens next to a task, in a sentence.

use std::time::Duration;

use super::output::{count, span};
use crate::domain::TaskStatus;
use crate::store::TaskStory;
use crate::streams::trace::Trace;

/// The sentence. `trace` is missing where Redis can't be asked.
pub(super) fn next(task: &TaskStory, trace: Option<&Trace>, lease: Duration) -> String {
    let lease = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    match task.status {
        status if status.is_terminal() => ended(task, trace),
        _ if task.deadline_in_ms < 0 => {
            let when = if task.workers_alive > 0 { "soon" } else { "when a worker is alive again" };
            format!("past its deadline: ended as failed {when}.")
        }
        TaskStatus::Queued => queued(task, trace),
        _ => running(task, trace, lease),
    }
}

fn ended(task: &TaskStory, trace: Option<&Trace>) -> String {
    let mut text = format!("ended: {}", task.status);
    match trace.map(|trace| &trace.stream) {
        None => text += ".",
        Some(None) => text += "; its stream has expired, PostgreSQL answers readers.",
        Some(Some(stream)) if stream.last != task.final_id => {
            text += "; its stream lacks the end, PostgreSQL answers readers.";
        }
        Some(Some(stream)) => {
            let left = stream.expires_in_ms.unwrap_or(0);
            text += &format!("; its stream expires in {}.", span(left));
        }
    }
    let letter = trace.and_then(|trace| trace.dead_letters.first());
    if let (Some(letter), None) = (letter, task.asked_again_as) {
        text += &format!(" To ask again: rill dead requeue {}", letter.letter);
    }
    text
}

fn queued(task: &TaskStory, trace: Option<&Trace>) -> String {
    if task.cancel_requested_ms.is_some() {
        return "a cancel was asked for: ended as cancelled within about a lease.".to_owned();
    }
    if let Some(due) = task.due_in_ms.filter(|due| *due > 0) {
        return format!("queued again, due in {}.", span(due));
    }
    if task.workers_alive == 0 {
        return "waits for a worker, and none is alive: start `rill worker`.".to_owned();
    }
    let workers = format!("{} alive", count(task.workers_alive, "worker"));
    let Some(trace) = trace else { return format!("waits for a worker ({workers}).") };
    if let Some(behind) = trace.jobs.iter().find_map(|job| job.waiting_behind) {
        return match behind {
            0 => format!("waits for a worker, first in the queue ({workers})."),
            _ => format!(
                "waits for a worker behind {} ({workers}).",
                count(behind as u64, "other job")
            ),
        };
    }
    if let Some(worker) = trace.jobs.iter().find_map(|job| job.consumer.as_ref()) {
        return format!(
            "worker {worker} has its job: begins at once, or after a lease if that died."
        );
    }
    match task.enqueued_ms {
        None => "its job is added to the queue within seconds.".to_owned(),
        Some(_) => "its job is not in the queue: added again within about a lease.".to_owned(),
    }
}

fn running(task: &TaskStory, trace: Option<&Trace>, lease: i64) -> String {
    let dead = match task.worker_heartbeat_age_ms {
        None => Some("its worker is gone".to_owned()),
        Some(age) if age > lease => Some(format!("its worker died {} ago", span(age))),
        Some(_) => None,
    };
    if let Some(dead) = dead {
        return match task.takeover_in_ms {
            None => format!("{dead}, and no other is alive: start `rill worker`."),
            Some(steady @ 1..) => format!("{dead}: taken over in about {}.", span(steady)),
            Some(_) => format!("{dead}: taken over at once, or when a worker has a free slot."),
        };
    }
    let age = task.worker_heartbeat_age_ms.unwrap_or(0);
    if age > lease / 2 {
        let left = span(lease - age);
        return format!(
            "its worker has been silent for {}: if it is dead, taken over in about {left}.",
            span(age)
        );
    }
    if task.cancel_requested_ms.is_some() {
        return "a cancel was asked for: its worker stops within a heartbeat.".to_owned();
    }
    let worker = task.worker_id.map_or_else(String::new, |id| format!(" on worker {id}"));
    let mut text = format!("runs{worker}, attempt {}", task.attempt);
    if let Some(trace) = trace {
        let stream = trace.stream.as_ref();
        let newest = stream.and_then(|stream| Some((stream.attempts.last()?, stream)));
        text += &match newest {
            Some((attempt, stream)) if attempt.attempt == task.attempt => {
                let last = stream.last.as_deref().unwrap_or("-");
                format!("; last event {last} ({})", stream.last_event.as_deref().unwrap_or("-"))
            }
            _ => "; it has written nothing yet".to_owned(),
        };
    }
    text + "."
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ConversationId, MessageId, TaskId, WorkerId};

    fn story(status: TaskStatus) -> TaskStory {
        TaskStory {
            id: TaskId::generate(),
            status,
            attempt: 2,
            failures: 0,
            model: "m".into(),
            conversation_id: ConversationId::generate(),
            conversation_deleted: false,
            message_id: MessageId::generate(),
            created_at: time::OffsetDateTime::UNIX_EPOCH,
            age_ms: 1_000,
            started_at: None,
            waited_ms: None,
            finished_at: None,
            took_ms: None,
            due_in_ms: None,
            deadline_in_ms: 60_000,
            enqueued_ms: Some(1_000),
            cancel_requested_ms: None,
            worker_id: Some(WorkerId::generate()),
            worker_heartbeat_age_ms: Some(1_000),
            workers_alive: 1,
            takeover_in_ms: Some(-1),
            error_code: None,
            error_message: None,
            usage: None,
            final_id: None,
            finish_reason: None,
            answer_chars: None,
            asked_again_for: None,
            asked_again_as: None,
        }
    }

    fn says(story: &TaskStory) -> String {
        next(story, None, Duration::from_secs(15))
    }

    #[test]
    fn a_queued_task_waits_for_its_time_or_for_a_worker() {
        let queued = story(TaskStatus::Queued);
        assert!(says(&queued).contains("waits for a worker (1 worker alive)"));
        let later = TaskStory { due_in_ms: Some(3_000), ..queued.clone() };
        assert_eq!(says(&later), "queued again, due in 3s.");
        let alone = TaskStory { workers_alive: 0, ..queued.clone() };
        assert!(says(&alone).contains("none is alive"));
        let cancelled = TaskStory { cancel_requested_ms: Some(1), ..queued.clone() };
        assert!(says(&cancelled).contains("a cancel was asked for"));
        assert!(says(&TaskStory { deadline_in_ms: -1, ..queued }).contains("past its deadline"));
    }

    #[test]
    fn a_running_task_is_taken_over_when_its_worker_is_dead() {
        let running = story(TaskStatus::Running);
        assert!(says(&running).contains("attempt 2"));
        let late = |age| TaskStory { worker_heartbeat_age_ms: age, ..running.clone() };
        assert!(says(&late(Some(9_000))).contains("if it is dead, taken over in about 6s"));
        assert!(says(&late(Some(16_000))).contains("died 16s ago: taken over at once"));
        assert!(says(&late(None)).contains("is gone: taken over at once"));
        let young = TaskStory { takeover_in_ms: Some(8_000), ..late(Some(20_000)) };
        assert!(says(&young).contains("taken over in about 8s"));
        let nobody = TaskStory { takeover_in_ms: None, ..late(Some(20_000)) };
        assert!(says(&nobody).contains("no other is alive"));
    }

    #[test]
    fn an_ended_task_is_over() {
        assert_eq!(says(&story(TaskStatus::Done)), "ended: done.");
    }
}
