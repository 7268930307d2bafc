//! The books: what PostgreSQL did to each task, row by row, and at the end
//! whether it, Redis, the readers and the protocol agree.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rill::domain::{Answer, answer::ToolCall};
use sqlx::types::Json;
use sqlx::{Connection, Executor, PgConnection};

use super::client::{Asked, World};
use super::fleet::{Fleet, PREFIX};
use super::verdict::{Harm, Numbered};
use super::viewer::{End, Viewer};
use crate::protocol::replay::replay as held_against_the_model;
use crate::protocol::trace::{RowSeen, TaskTrace};
use crate::support::{Process, connect_to_redis, eventually};

/// Late readers at the end, at most.
const LATE: usize = 300;

/// Every change of a task's row, committed with the change itself.
const JOURNAL: &str = "
CREATE TABLE journal (n bigserial PRIMARY KEY, task uuid NOT NULL, row jsonb NOT NULL);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE fresh boolean;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF (OLD.status, OLD.attempt, OLD.worker_id, OLD.claim_id, OLD.failures, OLD.run_after,
            OLD.cancel_requested_at, OLD.final_id)
           IS NOT DISTINCT FROM
           (NEW.status, NEW.attempt, NEW.worker_id, NEW.claim_id, NEW.failures, NEW.run_after,
            NEW.cancel_requested_at, NEW.final_id) THEN
            RETURN NULL;
        END IF;
        SELECT heartbeat_at > now() - interval '1500 ms' INTO fresh FROM workers WHERE id = OLD.worker_id;
    END IF;
    INSERT INTO journal (task, row) VALUES (NEW.id, jsonb_build_object(
        'status', NEW.status, 'attempt', NEW.attempt, 'worker', NEW.worker_id,
        'claim', NEW.claim_id, 'failures', NEW.failures,
        'cancel_requested', NEW.cancel_requested_at IS NOT NULL,
        'queued_due', NEW.run_after IS NULL,
        'final_id', NEW.final_id, 'final_event', NEW.final_event, 'final_data', NEW.final_data,
        'owner_fresh', fresh));
    RETURN NULL;
END $$;
CREATE TRIGGER journal AFTER INSERT OR UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION note();
";

/// The schema, and the journal.
pub(super) async fn open(database_url: &str) {
    let url = ("DATABASE_URL".to_owned(), database_url.to_owned());
    let mut migrate = Process::start(&["migrate"], &[url]);
    assert!(migrate.ended().await.success(), "{}", migrate.log());
    let mut connection = PgConnection::connect(database_url).await.expect("connects");
    connection.execute(JOURNAL).await.expect("the journal");
}

/// A task as PostgreSQL has it in the end.
struct Row {
    status: String,
    end: Option<End>,
    answer: Answer,
}

/// Compares everything with everything.
pub(super) async fn audit(world: &Arc<World>, fleet: &mut Fleet, seed: u64) {
    let mut database = PgConnection::connect(&fleet.database_url).await.expect("connects");
    let asked = world.asked.lock().expect("asked").clone();
    let rows = rows(&mut database).await;
    for (task, asked) in &asked {
        match rows.get(task) {
            None => world.tally.harm(Harm::Lost, format!("task {task} was accepted, and is gone")),
            Some(row) => judge(world, task, asked, row),
        }
    }
    // Also those that no client was told of.
    for (task, row) in &rows {
        if row.end.is_none() && !asked.contains_key(task) {
            world.tally.harm(Harm::Stuck, format!("task {task} is {}", row.status));
        }
    }
    late_readers(world, &rows, &asked).await;
    queue_is_empty(fleet).await;
    replay(world, fleet, &mut database, &rows, seed).await;
}

async fn rows(database: &mut PgConnection) -> HashMap<String, Row> {
    type Found = (
        String,
        String,
        Option<String>,
        Option<String>,
        Option<String>,
        Option<String>,
        Option<String>,
        Option<Json<Vec<ToolCall>>>,
    );
    let rows: Vec<Found> = sqlx::query_as(
        "SELECT t.id::text, t.status, t.final_id, t.final_event, t.final_data,
                m.answer, m.reasoning, m.tool_calls
         FROM tasks t JOIN messages m ON m.id = t.message_id",
    )
    .fetch_all(database)
    .await
    .expect("reads tasks");
    let rows = rows.into_iter().map(|(task, status, id, event, data, text, reasoning, calls)| {
        let end = id.zip(event).zip(data).map(|((id, event), data)| End { id, event, data });
        let answer = Answer {
            text: text.unwrap_or_default(),
            reasoning: reasoning.unwrap_or_default(),
            tool_calls: calls.map(|calls| calls.0).unwrap_or_default(),
            opaque: Vec::new(),
        };
        (task, Row { status, end, answer })
    });
    rows.collect()
}

/// What was promised to whoever asked.
fn judge(world: &World, task: &str, asked: &Asked, row: &Row) {
    let harm = |harm, what: String| {
        world.tally.harm(harm, format!("task {task} ({}): {what}", asked.prompt));
    };
    let Some(end) = &row.end else {
        return harm(Harm::Stuck, format!("is {}", row.status));
    };
    let mut numbered = Numbered::default();
    if let Err((kind, what)) = numbered.check(&row.answer.text, true) {
        harm(kind, format!("stored: {what}"));
    }
    if end.event == "done" && numbered.tokens() != asked.tokens {
        let (has, of) = (numbered.tokens(), asked.tokens);
        harm(Harm::Lost, format!("done with {has} of {of} tokens"));
    }
    if end.event != row.status {
        harm(Harm::Disagreement, format!("is {} and ended as {end:?}", row.status));
    }
    if asked.seen.is_empty() {
        harm(Harm::Stuck, format!("{end:?}, and its readers were not told"));
    }
    for (answer, seen) in &asked.seen {
        same(world, task, row, answer, seen.as_ref());
    }
}

/// A reader that was told of the end has the answer.
fn same(world: &World, task: &str, row: &Row, answer: &Answer, seen: Option<&End>) {
    let Some(seen) = seen else { return };
    if row.end.as_ref() != Some(seen) {
        let what = format!("task {task}: ended as {:?}, its reader saw {seen:?}", row.end);
        world.tally.harm(Harm::Disagreement, what);
    }
    if *answer != row.answer {
        let what = format!("task {task}: stored {:?}, its reader has {answer:?}", row.answer);
        world.tally.harm(Harm::Disagreement, what);
    }
}

/// Who comes after the end sees the same.
async fn late_readers(
    world: &Arc<World>,
    rows: &HashMap<String, Row>,
    asked: &HashMap<String, Asked>,
) {
    let ended = asked.keys().filter(|task| rows.get(*task).is_some_and(|row| row.end.is_some()));
    for task in ended.filter(|task| !world.deleted(task)).take(LATE) {
        let mut random = StdRng::seed_from_u64(0);
        let viewer = Viewer::new(world.clone(), task).follow(&mut random, false);
        match tokio::time::timeout(super::CALM, viewer).await {
            Ok(viewer) => same(world, task, &rows[task], &viewer.answer, viewer.end.as_ref()),
            Err(_) => world.tally.harm(Harm::Stuck, format!("task {task}: a late reader")),
        }
    }
}

async fn queue_is_empty(fleet: &Fleet) {
    let mut redis = connect_to_redis(&fleet.redis_url()).await;
    let jobs = format!("{PREFIX}:{{jobs}}:generate");
    let left = || {
        let (mut redis, jobs) = (redis.clone(), jobs.clone());
        async move { redis::cmd("XLEN").arg(jobs).query_async::<usize>(&mut redis).await }
    };
    eventually("no job is left", || async { left().await.is_ok_and(|left| left == 0) }).await;
    let _: Result<(), _> = redis::cmd("PING").query_async(&mut redis).await;
}

/// What happened, as the protocol's model sees it.
async fn replay(
    world: &World,
    fleet: &mut Fleet,
    database: &mut PgConnection,
    rows: &HashMap<String, Row>,
    seed: u64,
) {
    let journal: Vec<(String, Json<RowSeen>)> =
        sqlx::query_as("SELECT task::text, row FROM journal ORDER BY n")
            .fetch_all(database)
            .await
            .expect("reads the journal");
    let mut traces: BTreeMap<String, TaskTrace> = BTreeMap::new();
    for (task, Json(row)) in journal {
        traces.entry(task).or_default().db.push(row);
    }
    for (task, seen) in fleet.aof.take() {
        // Malformed jobs and jobs of nobody have no row.
        if let Some(trace) = traces.get_mut(&task) {
            (trace.log, trace.jobs) = (seen.log, seen.jobs);
        }
    }
    let (mut lines, mut steps) = (String::new(), 0);
    for (task, trace) in &mut traces {
        trace.task.clone_from(task);
        trace.answer = rows.get(task).map(|row| row.answer.text.clone());
        trace.settled = true;
        lines.push_str(&trace.to_line().expect("a trace is JSON"));
        lines.push('\n');
        match held_against_the_model(trace) {
            Ok(replayed) => steps += replayed.steps,
            Err(violation) => world.tally.harm(Harm::Protocol, format!("task {task}: {violation}")),
        }
    }
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos");
    std::fs::create_dir_all(&directory).expect("a directory for traces");
    let file = directory.join(format!("{seed}.jsonl"));
    std::fs::write(&file, lines).expect("writes the traces");
    eprintln!(
        "chaos: {} traces of {steps} steps replayed through the model ({})",
        traces.len(),
        file.display()
    );
}
