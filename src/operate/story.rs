//! A task's story, for people.

use std::time::Duration;

use super::output::{count, maybe, span};
use crate::domain::{TaskId, WorkerId};
use crate::store::TaskStory;
use crate::streams::trace::{AttemptTrace, JobTrace, StreamTrace, Trace};
use crate::text::one_line;

/// Lines of a name and what there is to say.
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, what: impl AsRef<str>) {
        self.0 += &format!("{name:<13} {}\n", one_line(what.as_ref()));
    }
}

pub(super) fn human(
    id: TaskId,
    story: Option<&TaskStory>,
    trace: Option<&Trace>,
    lease: Duration,
    next: &str,
) -> String {
    let mut lines = Lines(String::new());
    lines.add("Task", id.to_string());
    if let Some(story) = story {
        life(&mut lines, story, lease);
    }
    if let Some(trace) = trace {
        redis(&mut lines, trace, story.and_then(|story| story.worker_id));
    }
    lines.add("Next", next);
    lines.0
}

fn life(lines: &mut Lines, story: &TaskStory, lease: Duration) {
    let mut status = format!("{}, attempt {}", story.status, story.attempt);
    if story.failures > 0 {
        status += &format!(", {} counted", count(story.failures, "failure"));
    }
    lines.add("Status", status);
    lines.add("Model", &story.model);
    lines.add("Accepted", format!("{} ({} ago)", moment(story.created_at), span(story.age_ms)));
    if let (Some(at), Some(waited)) = (story.started_at, story.waited_ms) {
        lines.add("Begun", format!("{}, after {} in the queue", moment(at), span(waited)));
    }
    if let (Some(at), Some(took)) = (story.finished_at, story.took_ms) {
        lines.add("Ended", format!("{}, {} after it was accepted", moment(at), span(took)));
    } else {
        lines.add(
            "Deadline",
            match story.deadline_in_ms {
                past @ ..0 => format!("{} ago", span(-past)),
                left => format!("in {}", span(left)),
            },
        );
    }
    if let Some(worker) = story.worker_id {
        let lease = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        let state = match story.worker_heartbeat_age_ms {
            None => "not there any more".to_owned(),
            Some(age) if age > lease => format!("dead, last heartbeat {} ago", span(age)),
            Some(age) => format!("alive, heartbeat {} ago", span(age)),
        };
        lines.add("Worker", format!("{worker} ({state})"));
    }
    if let Some(asked) = story.cancel_requested_ms {
        lines.add("Cancel", format!("asked for {} ago", span(asked)));
    }
    if let Some(code) = &story.error_code {
        let message = story.error_message.as_deref().unwrap_or_default();
        let of = if story.status.is_terminal() { "" } else { " (of an attempt before)" };
        lines.add("Error", format!("{code}: {message}{of}"));
    }
    let deleted = if story.conversation_deleted { ", which is deleted" } else { "" };
    lines.add(
        "Message",
        format!("{} in conversation {}{deleted}", story.message_id, story.conversation_id),
    );
    if story.status.is_terminal() {
        let mut answer = vec![count(story.answer_chars.unwrap_or(0), "character")];
        answer.extend(story.finish_reason.as_ref().map(|why| format!("finish reason {why}")));
        answer.extend(
            story.usage.map(|usage| {
                format!("{} + {} tokens", usage.prompt_tokens, usage.completion_tokens)
            }),
        );
        lines.add("Answer", answer.join(", "));
    }
    if let Some(task) = story.asked_again_for {
        lines.add("Repeats", format!("task {task}, which failed"));
    }
    if let Some(task) = story.asked_again_as {
        lines.add("Asked again", format!("as task {task}"));
    }
}

fn redis(lines: &mut Lines, trace: &Trace, worker: Option<WorkerId>) {
    let worker = worker.map(|worker| worker.to_string());
    if trace.jobs.is_empty() {
        lines.add(
            "Job",
            match trace.jobs_looked_at {
                None => "not in the queue".to_owned(),
                Some(some) => format!("not among the oldest {some} of the queue"),
            },
        );
    }
    for held in &trace.jobs {
        lines.add("Job", job(held, worker.as_deref()));
    }
    match &trace.stream {
        None => lines.add("Stream", "none in Redis"),
        Some(found) => stream(lines, found),
    }
    for letter in &trace.dead_letters {
        let age = span(letter.age_ms);
        lines.add("Dead letter", format!("{} ({age} ago): {}", letter.letter, letter.why));
    }
}

fn job(job: &JobTrace, its_worker: Option<&str>) -> String {
    let JobTrace { entry, age_ms, .. } = job;
    let age = span(*age_ms);
    match (&job.consumer, job.waiting_behind) {
        (Some(worker), _) => {
            let times = count(job.deliveries.unwrap_or(1), "time");
            let who = match its_worker == Some(worker) {
                true => "its worker".to_owned(),
                false => format!("worker {worker}"),
            };
            let idle = maybe(job.idle_ms);
            format!("{entry}, added {age} ago, delivered {times}, renewed by {who} {idle} ago")
        }
        (None, Some(behind)) => {
            format!("{entry}, waiting for {age} behind {}", count(behind as u64, "other"))
        }
        (None, None) => format!("{entry}, acknowledged, but not deleted"),
    }
}

fn stream(lines: &mut Lines, stream: &StreamTrace) {
    let ids = match (&stream.first, &stream.last) {
        (Some(first), Some(last)) => format!(", {first} to {last}"),
        _ => String::new(),
    };
    let expires = match stream.expires_in_ms {
        Some(ms) => format!("expires in {}", span(ms)),
        None => "NEVER EXPIRES".to_owned(),
    };
    lines.add(
        "Stream",
        format!("{}: {}{ids}; {expires}", stream.key, count(stream.events, "event")),
    );
    for attempt in &stream.attempts {
        lines.add(&format!("  attempt {}", attempt.attempt), events(attempt));
    }
}

fn events(attempt: &AttemptTrace) -> String {
    let counts: Vec<_> = attempt.events.iter().map(|(name, n)| format!("{name} {n}")).collect();
    let mut text = counts.join(", ");
    if let Some(code) = &attempt.retrying {
        text += &format!(" (failed: {code})");
    }
    text
}

/// To the second, in UTC.
fn moment(at: time::OffsetDateTime) -> String {
    let at = at.replace_nanosecond(0).unwrap_or(at).to_offset(time::UtcOffset::UTC);
    at.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}
