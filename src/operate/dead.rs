//! `rill dead`: what was given up on; to be looked at, asked again, or dropped.
//!
//! A letter is a task that failed for good, or a job that could not be read. The
//! task's end stands; asking again makes a new task ([`Tasks::requeue`]). The
//! letter is removed after that is committed: a crash between the two leaves a
//! letter whose requeue finds the new task.
//!
//! [`Tasks::requeue`]: crate::tasks::Tasks::requeue

use std::collections::HashMap;

use serde::Serialize;

use super::output::{count, span, table, text};
use super::{Desk, Error, Result, Unavailable, output};
use crate::domain::TaskId;
use crate::store::Letter;
use crate::streams::dead::{DeadLetter, is_letter};
use crate::tasks::Requeued;
use crate::text::one_line;

/// `rill dead`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where the stores are.
    #[command(flatten)]
    pub common: super::Options,
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with dead letters.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Action {
    /// Lists them, the newest first
    List {
        /// How many at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// Only those older than this letter: the last one of the list before
        #[arg(long, value_name = "LETTER", value_parser = letter)]
        before: Option<String>,
    },
    /// Shows one, with its task as it is now
    Show {
        /// Its ID, from the list
        #[arg(value_parser = letter)]
        letter: String,
    },
    /// Asks again: a new task answers, in a new message behind the failed one. A
    /// failed task is asked again once, however often this is repeated
    Requeue {
        /// Their IDs, from the list
        #[arg(value_name = "LETTER", required_unless_present = "all", value_parser = letter)]
        letters: Vec<String>,
        /// All there are
        #[arg(long, conflicts_with = "letters")]
        all: bool,
    },
    /// Removes them; their tasks stay failed
    Drop {
        /// Their IDs, from the list
        #[arg(value_name = "LETTER", required_unless_present = "all", value_parser = letter)]
        letters: Vec<String>,
        /// All there are
        #[arg(long, conflicts_with = "letters")]
        all: bool,
    },
}

fn letter(text: &str) -> std::result::Result<String, String> {
    match is_letter(text) {
        true => Ok(text.to_owned()),
        false => {
            Err("a letter is two numbers such as 1795420282000-0, as `rill dead list` shows them"
                .to_owned())
        }
    }
}

/// A letter, with its task as it is now.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    letter: DeadLetter,
    /// Null: there is no such task (any more), or PostgreSQL can't be asked.
    task_now: Option<Letter>,
}

#[derive(Serialize)]
struct List {
    dead_letters: Vec<Row>,
    /// For `--before`; null at the end.
    before: Option<String>,
    unavailable: Vec<Unavailable>,
}

/// What became of one letter.
#[derive(Serialize)]
struct Outcome {
    letter: String,
    /// The task that answers now.
    task: Option<TaskId>,
    stream_url: Option<String>,
    /// It was asked again before.
    repeated: bool,
    /// Why not.
    refused: Option<String>,
}

/// Letters read at a time, with `--all`.
const PAGE: usize = 500;

/// Lists, shows, asks again, or drops.
///
/// # Errors
/// When a store is away, or something can't be done.
pub async fn dead(options: &Options) -> Result<()> {
    let mut desk = Desk::open(&options.common).await?;
    if desk.is_away("Redis") {
        desk.needs_both()?;
    }
    match &options.action {
        Action::List { limit, before } => list(&mut desk, *limit as usize, before.as_deref()).await,
        Action::Show { letter } => show(&mut desk, letter).await,
        Action::Requeue { letters, all } => requeue(&desk, letters, *all).await,
        Action::Drop { letters, all } => {
            let letters = match all {
                true => all_letters(&desk).await?.into_iter().map(|l| l.letter).collect(),
                false => letters.clone(),
            };
            let dropped = desk.tasks.streams.drop_dead(&letters).await?;
            match desk.json {
                true => output::json(&serde_json::json!({ "dropped": dropped })),
                false => text(&format!("dropped {}", count(dropped, "dead letter"))),
            }
            if !all && dropped < letters.len() as u64 {
                return Err(Error::Refused(format!(
                    "{} of {} were not there: dropped or asked again before? See rill dead list",
                    letters.len() as u64 - dropped,
                    count(letters.len(), "letter"),
                )));
            }
            Ok(())
        }
    }
}

/// All there are now, the newest first. What comes meanwhile is not among them.
async fn all_letters(desk: &Desk) -> Result<Vec<DeadLetter>> {
    let mut letters: Vec<DeadLetter> = Vec::new();
    loop {
        let before = letters.last().map(|last| last.letter.clone());
        let page = desk.tasks.streams.dead_letters(before.as_deref(), PAGE).await?;
        let full = page.len() == PAGE;
        letters.extend(page);
        if !full {
            return Ok(letters);
        }
    }
}

async fn with_tasks(desk: &mut Desk, letters: Vec<DeadLetter>) -> Vec<Row> {
    let named: Vec<_> = letters.iter().filter_map(|letter| letter.task).collect();
    let tasks = desk.ask_store(async |store, _| store.letters(&named).await).await;
    let mut tasks: HashMap<_, _> = tasks.unwrap_or_default().into_iter().collect();
    let row = |letter: DeadLetter| Row {
        task_now: letter.task.and_then(|task| tasks.remove(&task)),
        letter,
    };
    letters.into_iter().map(row).collect()
}

async fn list(desk: &mut Desk, limit: usize, before: Option<&str>) -> Result<()> {
    let letters = desk.tasks.streams.dead_letters(before, limit).await?;
    let more = letters.len() == limit;
    let dead_letters = with_tasks(desk, letters).await;
    let before = dead_letters.last().filter(|_| more).map(|row| row.letter.letter.clone());
    let view = List { dead_letters, before, unavailable: desk.unavailable.clone() };
    let known = !desk.is_away("PostgreSQL");
    desk.answer(&view, || human_list(&view, known))
}

fn human_list(view: &List, known: bool) -> String {
    if view.dead_letters.is_empty() {
        return "There are no dead letters.\n".to_owned();
    }
    let row = |row: &Row| {
        let letter = &row.letter;
        let now = match (&row.task_now, letter.task) {
            (Some(now), _) if now.asked_again_as.is_some() => "asked again".to_owned(),
            (Some(now), _) => now.status.to_string(),
            (None, None) => "-".to_owned(),
            (None, Some(_)) if known => "gone".to_owned(),
            (None, Some(_)) => "?".to_owned(),
        };
        let task = letter.task.map_or("-".to_owned(), |task| task.to_string());
        let age = format!("{} ago", span(letter.age_ms));
        vec![letter.letter.clone(), age, task, now, short(&letter.why)]
    };
    let rows: Vec<_> = view.dead_letters.iter().map(row).collect();
    let mut text = table(&["LETTER", "DIED", "TASK", "NOW", "WHY"], &rows);
    if let Some(before) = &view.before {
        text += &format!("\nMore: rill dead list --before {before}\n");
    }
    text
}

/// A line of a table.
fn short(why: &str) -> String {
    let line = one_line(why);
    match line.char_indices().nth(100) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.into_owned(),
    }
}

fn no_such(letter: &str) -> String {
    format!("there is no dead letter {letter}: asked again or dropped before? See rill dead list")
}

async fn show(desk: &mut Desk, id: &str) -> Result<()> {
    let Some(letter) = desk.tasks.streams.dead_letter_of(id).await? else {
        return Err(Error::Refused(no_such(id)));
    };
    let row = with_tasks(desk, vec![letter]).await.remove(0);
    let known = !desk.is_away("PostgreSQL");
    desk.answer(&row, || human_letter(&row, known))
}

fn human_letter(row: &Row, known: bool) -> String {
    let letter = &row.letter;
    let mut text = format!("Letter        {} ({} ago)\n", letter.letter, span(letter.age_ms));
    text += &format!("Why           {}\n", one_line(&letter.why));
    let Some(task) = letter.task else {
        let entry = letter.entry.as_deref().unwrap_or("-");
        text += &format!("Job           {entry}, which names no task\n");
        if let Some(job) = &letter.job {
            text += &format!("Fields        {}\n", one_line(job));
        }
        return text
            + "\nNobody waits for it. Who else writes to the job stream? Then: rill dead drop "
            + &letter.letter
            + "\n";
    };
    text += &format!("Task          {task}\n");
    let Some(now) = &row.task_now else {
        return text
            + match known {
                true => "Now           gone, with its conversation\n",
                false => "Now           not known: PostgreSQL can't be asked\n",
            };
    };
    text += &format!("Now           {}, model {}\n", now.status, one_line(&now.model));
    if let Some(code) = &now.error_code {
        let message = now.error_message.as_deref().unwrap_or_default();
        text += &format!("Error         {code}: {}\n", one_line(message));
    }
    text += &format!("Conversation  {}\n", now.conversation_id);
    match now.asked_again_as {
        Some(again) => text += &format!("Asked again   as task {again}\n"),
        None => text += &format!("\nAsk again: rill dead requeue {}\n", letter.letter),
    }
    text + &format!("All of it: rill task {task}\n")
}

async fn requeue(desk: &Desk, ids: &[String], all: bool) -> Result<()> {
    desk.needs_both()?;
    let mut outcomes = Vec::new();
    // Of a single one, the error says it.
    let alone = ids.len() == 1;
    if all {
        // The oldest first.
        for letter in all_letters(desk).await?.into_iter().rev() {
            outcomes.push(requeue_one(desk, letter).await?);
            say(desk, &outcomes, alone);
        }
    } else {
        for id in ids {
            outcomes.push(match desk.tasks.streams.dead_letter_of(id).await? {
                Some(letter) => requeue_one(desk, letter).await?,
                None => Outcome::refused(id.clone(), no_such(id)),
            });
            say(desk, &outcomes, alone);
        }
    }
    if desk.json {
        output::json(&serde_json::json!({ "requeued": outcomes }));
    }
    if all && outcomes.is_empty() && !desk.json {
        text("There are no dead letters.");
    }
    let refused: Vec<_> =
        outcomes.iter().filter_map(|o| o.refused.as_ref().map(|why| (&o.letter, why))).collect();
    match refused.as_slice() {
        [] => Ok(()),
        [(_, why)] if alone => Err(Error::Refused((*why).clone())),
        some => Err(Error::Refused(format!(
            "{} of {} were not asked again; they are still there, for rill dead drop",
            some.len(),
            count(outcomes.len(), "letter")
        ))),
    }
}

impl Outcome {
    fn refused(letter: String, why: String) -> Self {
        Self { letter, task: None, stream_url: None, repeated: false, refused: Some(why) }
    }

    fn asked(letter: String, task: TaskId, repeated: bool) -> Self {
        let stream_url = Some(format!("/v1/tasks/{task}/stream"));
        Self { letter, task: Some(task), stream_url, repeated, refused: None }
    }
}

/// Says at once what became of the last one: with `--all`, the rest may fail.
fn say(desk: &Desk, outcomes: &[Outcome], alone: bool) {
    let Some(last) = outcomes.last().filter(|_| !desk.json) else { return };
    match (&last.refused, last.task, &last.stream_url) {
        (Some(why), ..) if !alone => text(&format!("{}: {why}", last.letter)),
        (None, Some(task), Some(url)) => {
            let before = if last.repeated { " (asked again before)" } else { "" };
            text(&format!("{} → task {task}{before}, stream {url}", last.letter));
        }
        _ => {}
    }
}

async fn requeue_one(desk: &Desk, letter: DeadLetter) -> Result<Outcome> {
    let id = letter.letter;
    let Some(task) = letter.task else {
        return Ok(Outcome::refused(
            id.clone(),
            format!(
                "letter {id} is a job that names no task: there is nothing to ask again; rill dead drop {id}"
            ),
        ));
    };
    let why_not = match desk.tasks.requeue(task).await? {
        Requeued::New(task) => {
            desk.tasks.streams.drop_dead(std::slice::from_ref(&id)).await?;
            return Ok(Outcome::asked(id, task, false));
        }
        Requeued::Before(task) => {
            desk.tasks.streams.drop_dead(std::slice::from_ref(&id)).await?;
            return Ok(Outcome::asked(id, task, true));
        }
        Requeued::NotFailed(status) => {
            format!("task {task} is {status}, not failed: see rill task {task}")
        }
        Requeued::MovedOn => format!(
            "the conversation of task {task} went on behind the failed answer, so an answer now would \
             come too late: ask again in the conversation, and rill dead drop {id}"
        ),
        Requeued::Deleted | Requeued::Gone => format!(
            "the conversation of task {task} was deleted: nobody would see the answer; rill dead drop {id}"
        ),
    };
    Ok(Outcome::refused(id, why_not))
}
