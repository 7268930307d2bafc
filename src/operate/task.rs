//! `rill task`: one task's whole story, from both stores, and what happens next.

use serde::Serialize;

use super::{Desk, Error, Result, Unavailable, story, verdict};
use crate::domain::TaskId;
use crate::store::TaskStory;
use crate::streams::trace::Trace;

/// `rill task`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where the stores are.
    #[command(flatten)]
    pub common: super::Options,
    /// The task's ID, as the API and the logs show it
    pub task: TaskId,
}

#[derive(Serialize)]
struct View<'a> {
    /// What PostgreSQL knows; null if it can't be asked, or has no such task.
    task: Option<&'a TaskStory>,
    /// What Redis knows; null if it can't be asked.
    redis: Option<&'a Trace>,
    /// What happens next, for people.
    next: &'a str,
    unavailable: &'a [Unavailable],
}

/// Tells a task's story.
///
/// # Errors
/// When there is no such task, or a store is away; what the other knows is
/// printed.
pub async fn task(options: &Options) -> Result<()> {
    let mut desk = Desk::open(&options.common).await?;
    let id = options.task;
    let story = desk.ask_store(async |store, lease| store.task_story(id, lease).await).await;
    let trace = desk.ask_streams(async |streams| streams.trace(id).await).await;
    let gone = matches!(story, Some(None));
    let story = story.flatten();
    let left = trace.as_ref().is_some_and(|trace| {
        !trace.jobs.is_empty() || trace.stream.is_some() || !trace.dead_letters.is_empty()
    });
    if gone && !left {
        desk.needs_both()?;
        return Err(Error::Refused(format!(
            "there is no task {id}: is it another database's (DATABASE_URL), or was its conversation deleted?"
        )));
    }
    if story.is_none() && trace.is_none() && !desk.json {
        return desk.needs_both();
    }
    let next = match &story {
        Some(story) => verdict::next(story, trace.as_ref(), desk.lease),
        None if gone => {
            "PostgreSQL has no such task: its conversation was deleted, or it is another \
                         database's. What Redis still has of it expires."
                .to_owned()
        }
        None => "not known: PostgreSQL decides, and can't be asked.".to_owned(),
    };
    let (story, trace) = (story.as_ref(), trace.as_ref());
    let view = View { task: story, redis: trace, next: &next, unavailable: &desk.unavailable };
    desk.answer(&view, || story::human(id, story, trace, desk.lease, &next))
}
