//! Replay: is there an order of what was seen that the protocol allows?
//!
//! First the log alone, entry by entry, through [`Log`]: the rules that the
//! checker's model obeys. Then all sources together, through [`Joint`], the
//! other half of them: a depth-first search over how far each source was taken.
//! Crashes, lost replies and pauses leave nothing to see, and so need not be
//! guessed. Runs of entries that no other source can tell apart (an attempt's
//! deltas) are taken in one step, so ten thousand cost what ten do.

use std::collections::{BTreeMap, HashSet};

use rill::domain::{Class, Event, EventId, EventName};

use super::joint::Joint;
use super::log::{Broken, Log};
use super::row::{Row, Status};
use super::text::{Content, Kind, hashed};
use super::trace::{JobSeen, LogSeen, Place, Replayed, RowSeen, TaskTrace, Violation};

pub(crate) const READABLE: &str = "what was seen can be read";
pub(crate) const ENDS: &str = "a task that was accepted ends (promise 1)";
pub(crate) const ANSWER: &str =
    "the committed answer is what the stream says at its end (promise 2)";
pub(crate) const CALLS: &str =
    "an attempt calls the model; what was completed is not asked for again";

/// Combinations of positions that are looked at in one replay, at most.
const LIMIT: usize = 500_000;

/// Replays a trace.
///
/// # Errors
/// With the observation that fits nowhere, and the rule that it breaks.
pub(crate) fn replay(trace: &TaskTrace) -> Result<Replayed, Violation> {
    let mut names = Names::default();
    let db = rows(trace, &mut names)?;
    let log = log_steps(trace)?;
    let jobs = job_steps(trace, &mut names);
    let mut search = Search { db: &db, log: &log, jobs: &jobs, seen: HashSet::new(), best: None };
    let found = search.run();
    let (tried, best) = (search.seen.len(), search.best);
    if !found {
        return Err(best.map_or_else(
            || whole(READABLE, "there is no order, or too many to look at".to_owned()),
            |(_, place, broken)| violation(trace, place, broken),
        ));
    }
    ends(trace, &db)?;
    let steps = trace.db.len() + trace.log.len() + trace.jobs.len();
    Ok(Replayed { steps, tried })
}

/// Numbers for names.
#[derive(Default)]
struct Names(BTreeMap<String, u32>);

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        *self.0.entry(name.to_owned()).or_insert(next)
    }
}

struct RowStep {
    row: Row,
    owner_fresh: Option<bool>,
}

/// A run of entries that are alike, or one that is not.
struct LogStep {
    place: usize,
    what: LogWhat,
}

enum LogWhat {
    Appended { id: EventId, event: Kind, whole: bool },
    Forgot { whole: bool },
}

#[derive(Clone, Copy)]
enum JobStep {
    Added(u32),
    Delivered(u32, u32),
    Deleted(u32),
    Lost(u32),
}

fn violation(trace: &TaskTrace, place: Place, broken: Broken) -> Violation {
    let seen = match place {
        Place::Db(n) => trace.db.get(n).map(|row| format!("{row:?}")),
        Place::Log(n) => trace.log.get(n).map(|entry| format!("{entry:?}")),
        Place::Jobs(n) => trace.jobs.get(n).map(|job| format!("{job:?}")),
        Place::End => None,
    };
    let seen = seen.unwrap_or_else(|| "the whole trace".to_owned());
    Violation { place, seen, rule: broken.rule, detail: broken.detail }
}

fn whole(rule: &'static str, detail: String) -> Violation {
    Violation { place: Place::End, seen: "the whole trace".to_owned(), rule, detail }
}

fn rows(trace: &TaskTrace, names: &mut Names) -> Result<Vec<RowStep>, Violation> {
    let unreadable = |n: usize, detail: &str| {
        violation(trace, Place::Db(n), Broken::new(READABLE, || detail.to_owned()))
    };
    let mut steps = Vec::with_capacity(trace.db.len());
    for (n, seen) in trace.db.iter().enumerate() {
        let status = status(seen).ok_or_else(|| unreadable(n, "an unknown status"))?;
        let end = match &seen.final_id {
            None => None,
            Some(id) => Some(id.parse().map_err(|_| unreadable(n, "final_id is no event ID"))?),
        };
        let names_its_end = seen.final_event.as_deref() == status.is_end().then_some(&*seen.status);
        if end.is_some() != status.is_end() || !names_its_end {
            return Err(unreadable(n, "an end has a final ID and event, and nothing else has"));
        }
        let row = Row {
            status,
            attempt: seen.attempt,
            worker: seen.worker.as_deref().map(|name| names.number(name)),
            claim: seen.claim.as_deref().map(|name| names.number(name)),
            failures: seen.failures,
            cancelled: seen.cancel_requested,
            due: seen.queued_due,
            end,
        };
        steps.push(RowStep { row, owner_fresh: seen.owner_fresh });
    }
    Ok(steps)
}

fn status(seen: &RowSeen) -> Option<Status> {
    Some(match &*seen.status {
        "queued" => Status::Queued,
        "running" => Status::Running,
        "done" => Status::Done,
        "failed" => Status::Failed,
        "cancelled" => Status::Cancelled,
        _ => return None,
    })
}

/// What the entry says, and its bytes.
fn content(event: Kind, data: &str) -> Option<Content<String>> {
    #[derive(serde::Deserialize)]
    struct Says {
        text: String,
    }
    let text = match event.known() {
        Some(EventName::Delta | EventName::Snapshot) => {
            serde_json::from_str::<Says>(data).ok()?.text
        }
        _ => String::new(),
    };
    let bytes = data.as_bytes();
    let decoded = event.known().and_then(|name| Event::decode(name, bytes).ok());
    let more = decoded.is_some_and(|event| event.leaves_content_out(bytes));
    let more = more || event.is_newer_content();
    // A reset to nothing is the same whatever its words.
    let nothing = event == EventName::Started || event == EventName::Snapshot && text.is_empty();
    Some(Content { event, text, more, data: if nothing { 0 } else { hashed(data) } })
}

/// The log through its own rules, cut down to what other sources can tell apart.
fn log_steps(trace: &TaskTrace) -> Result<Vec<LogStep>, Violation> {
    let mut log = Log::<String>::default();
    let mut steps: Vec<LogStep> = Vec::new();
    let mut before = None;
    for (place, seen) in trace.log.iter().enumerate() {
        let unreadable = |detail: &str| {
            violation(trace, Place::Log(place), Broken::new(READABLE, || detail.to_owned()))
        };
        let what = match seen {
            LogSeen::Append { id, event, data } => {
                let id: EventId = id.parse().map_err(|_| unreadable("no event ID"))?;
                let event = Kind::read(event).ok_or_else(|| unreadable("no event's name"))?;
                let content = content(event, data).ok_or_else(|| unreadable("no such data"))?;
                ends_as_committed(trace, id, data)
                    .map_err(|b| violation(trace, Place::Log(place), b))?;
                log.append(id, content).map_err(|b| violation(trace, Place::Log(place), b))?;
                let alike = (id.attempt, event, log.whole());
                let says = event.class() == Class::Content;
                if says && before == Some(alike) {
                    if let Some(LogStep { what: LogWhat::Appended { id: last, .. }, .. }) =
                        steps.last_mut()
                    {
                        *last = id;
                    }
                    continue;
                }
                before = Some(alike);
                LogWhat::Appended { id, event, whole: log.whole() }
            }
            LogSeen::Gone => {
                log.gone();
                before = None;
                LogWhat::Forgot { whole: false }
            }
            LogSeen::Lost { from } => {
                log.lost(from.parse().map_err(|_| unreadable("no event ID"))?);
                before = None;
                LogWhat::Forgot { whole: log.whole() }
            }
        };
        steps.push(LogStep { place, what });
    }
    Ok(steps)
}

/// The terminal event has the data that was committed.
fn ends_as_committed(trace: &TaskTrace, id: EventId, data: &str) -> Result<(), Broken> {
    let id = id.to_string();
    let end = trace.db.iter().find(|row| row.final_id.as_ref() == Some(&id));
    match end.and_then(|row| row.final_data.as_deref()) {
        Some(committed) if committed != data => {
            Err(Broken::new(super::joint::COMMITTED, || format!("committed was {committed}")))
        }
        _ => Ok(()),
    }
}

fn job_steps(trace: &TaskTrace, names: &mut Names) -> Vec<JobStep> {
    let mut number = |name: &String| names.number(name);
    let step = |seen: &JobSeen| match seen {
        JobSeen::Added { entry } => JobStep::Added(number(entry)),
        JobSeen::Delivered { entry, consumer } => {
            JobStep::Delivered(number(entry), number(consumer))
        }
        JobSeen::Deleted { entry } => JobStep::Deleted(number(entry)),
        JobSeen::Lost { entry } => JobStep::Lost(number(entry)),
    };
    trace.jobs.iter().map(step).collect()
}

/// What the end of a run must show.
fn ends(trace: &TaskTrace, db: &[RowStep]) -> Result<(), Violation> {
    let last = db.last().map(|step| step.row);
    if trace.settled && !last.is_some_and(|row| row.status.is_end()) {
        return Err(whole(ENDS, format!("the row is {last:?}")));
    }
    let attempts = last.map_or(0, |row| row.attempt);
    // Who ends a task with a snapshot as its first word has called nothing.
    let opening = last.and_then(|row| row.end).map(|end| EventId::new(end.attempt, 0).to_string());
    let says = |what: &str| {
        trace.log.iter().any(|seen| match seen {
            LogSeen::Append { id, event, .. } => Some(id) == opening.as_ref() && event == what,
            _ => false,
        })
    };
    let most = attempts - u32::from(says("snapshot") && !says("started"));
    if let Some(calls) = trace.calls
        && calls > most
    {
        return Err(whole(CALLS, format!("{calls} calls in {attempts} attempts; {most} at most")));
    }
    let snapshot = trace.log.iter().rev().find_map(|seen| match seen {
        LogSeen::Append { id, event, data } if event == "snapshot" && id.ends_with("-0") => {
            Some((id, data))
        }
        _ => None,
    });
    if let (Some(answer), Some((id, data)), Some(end)) =
        (&trace.answer, snapshot, last.and_then(|row| row.end))
        && *id == end.before().to_string()
        && content(EventName::Snapshot.into(), data).is_some_and(|content| content.text != *answer)
    {
        return Err(whole(ANSWER, format!("the answer is {answer:?}, the stream says {data}")));
    }
    Ok(())
}

/// Of several sources that can't go on, the row's or the stream's is to blame:
/// the others wait for it. What they wait for is told as well.
fn blame(stuck: Vec<(Place, Broken)>) -> Option<(Place, Broken)> {
    let mut stuck = stuck.into_iter();
    let (place, mut broken) = stuck.next()?;
    for (place, waits) in stuck {
        broken.detail.push_str(&format!("\n  and {place:?} waits: {}", waits.rule));
    }
    Some((place, broken))
}

struct Search<'a> {
    db: &'a [RowStep],
    log: &'a [LogStep],
    jobs: &'a [JobStep],
    seen: HashSet<([usize; 3], Joint)>,
    /// Where the search got furthest, and what stopped it there.
    best: Option<(usize, Place, Broken)>,
}

impl Search<'_> {
    /// Depth first; the latest source to be tried is taken up first, so a
    /// trace that is in order goes straight through.
    fn run(&mut self) -> bool {
        let mut open = vec![([0; 3], Joint::default())];
        while let Some((at, joint)) = open.pop() {
            if at == [self.db.len(), self.log.len(), self.jobs.len()] {
                return true;
            }
            if self.seen.len() >= LIMIT || !self.seen.insert((at, joint.clone())) {
                continue;
            }
            let mut stuck = Vec::new();
            let before = open.len();
            for source in 0..3 {
                let mut next = joint.clone();
                match self.take(source, at[source], &mut next) {
                    None => {}
                    Some((_, Ok(()))) => {
                        let mut on = at;
                        on[source] += 1;
                        open.push((on, next));
                    }
                    Some((place, Err(broken))) => stuck.push((place, broken)),
                }
            }
            let far = at.iter().sum();
            if open.len() == before && self.best.as_ref().is_none_or(|(best, ..)| far > *best) {
                self.best = blame(stuck).map(|(place, broken)| (far, place, broken));
            }
        }
        false
    }

    /// Takes the next of a source, if there is one.
    fn take(
        &self,
        source: usize,
        at: usize,
        joint: &mut Joint,
    ) -> Option<(Place, Result<(), Broken>)> {
        Some(match source {
            0 => {
                let RowStep { row, owner_fresh } = self.db.get(at)?;
                let taken = match at {
                    0 => joint.accepted(*row),
                    _ => joint.changed(*row, *owner_fresh),
                };
                (Place::Db(at), taken)
            }
            1 => {
                let step = self.log.get(at)?;
                let taken = match step.what {
                    LogWhat::Appended { id, event, whole } => joint.appended(id, event, whole),
                    LogWhat::Forgot { whole } => {
                        joint.forgot(whole);
                        Ok(())
                    }
                };
                (Place::Log(step.place), taken)
            }
            _ => {
                let taken = match *self.jobs.get(at)? {
                    JobStep::Added(entry) => joint.job_added(entry),
                    JobStep::Delivered(entry, to) => joint.job_delivered(entry, to),
                    JobStep::Deleted(entry) => joint.job_deleted(entry),
                    JobStep::Lost(entry) => {
                        joint.job_lost(entry);
                        Ok(())
                    }
                };
                (Place::Jobs(at), taken)
            }
        })
    }
}
