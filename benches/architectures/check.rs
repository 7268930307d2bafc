//! That a design is exact: readers are cut and come back, during the answer and
//! after it, and each gets every token once and in order. This may fail the
//! bench.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::random_range;
use sqlx::{Connection, PgConnection};

use crate::architecture::Architecture;
use crate::load::client::Client;
use crate::load::post::Poster;
use crate::load::request::{Cursor, Request};
use crate::load::tally::Tally;
use crate::load::tokens;
use crate::options::{Load, Options};
use crate::stage::{Setup, Stage};

const LOAD: Load = Load { streams: 20, rate: 50, tokens: 100 };
/// Readers of each stream that are cut while the model talks.
const CUT: u64 = 3;
/// How long it may take, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(60);

/// Fails unless every reader gets every token once, in order.
pub(crate) async fn check(options: &Options, architecture: Architecture) -> Result<()> {
    eprintln!("check {}: starts servers", architecture.name());
    let setup = Setup { architecture, tasks: LOAD.streams, connections: options.connections };
    let stage = Stage::start(setup).await?;
    let client = Client::start()?;
    let (paths, cursors, live) = follow(&stage, &client).await?;
    let mut expected = u64::from(LOAD.streams) * (1 + CUT) * u64::from(LOAD.tokens);
    judge(&live, u64::from(LOAD.streams) * (1 + CUT), expected).context("while the model talks")?;
    // Who is cut at the last tokens may have had the end with them.
    let least = u64::from(LOAD.streams) * CUT / 2;
    ensure!(live.reconnects >= least, "only {} readers were cut", live.reconnects);

    expected = come_back_late(&stage, &client, &paths, &cursors)?;
    let readers = 2 * u64::from(LOAD.streams);
    let before = live.done;
    wait(&client, before + readers).await?;
    let late = client.finish()?;
    judge(&late, readers, expected).context("after the end")?;
    texts(&stage).await?;
    let reconnects = live.reconnects + late.reconnects;
    println!(
        "check {}: {} streams, {} readers, {reconnects} cut: each token once and in order",
        architecture.name(),
        LOAD.streams,
        before + readers,
    );
    Ok(())
}

type Cursors = BTreeMap<usize, Cursor>;

/// One reader of each stream stays, and says where it was at some moment; the
/// others are cut somewhere, and come back.
async fn follow(stage: &Stage, client: &Client) -> Result<(Vec<String>, Cursors, Tally)> {
    let poster = Poster::new(&format!("http://{}", stage.server))?;
    let mut paths = vec![String::new(); LOAD.streams as usize];
    let anywhere = || random_range(1..u64::from(LOAD.tokens));
    let posts = poster.say_evenly(
        LOAD.streams,
        LOAD.ramp(),
        |n| LOAD.prompt(n),
        |n, posted| {
            paths[n as usize].clone_from(&posted.stream);
            let mut request = Request::get(stage.server, posted.stream, LOAD.tokens.into());
            request.tag = n as usize;
            for _ in 0..CUT {
                client.open(Request { drop_at: Some(anywhere()), ..request.clone() })?;
            }
            request.mark_at = Some(anywhere());
            client.open(request)
        },
    );
    tokio::time::timeout(LIMIT, posts).await.context("not posted in time")??;
    wait(client, u64::from(LOAD.streams) * (1 + CUT)).await?;
    let mut tally = client.take()?;
    let cursors: Cursors = std::mem::take(&mut tally.cursors).into_iter().collect();
    ensure!(cursors.len() == LOAD.streams as usize, "{} cursors", cursors.len());
    Ok((paths, cursors, tally))
}

/// Of each stream, one reads on from a cursor and one reads all; both are cut
/// on the way. How many tokens that are.
fn come_back_late(
    stage: &Stage,
    client: &Client,
    paths: &[String],
    cursors: &Cursors,
) -> Result<u64> {
    let mut expected = 0;
    for (tag, path) in paths.iter().enumerate() {
        let cursor = cursors.get(&tag).context("a cursor")?;
        let left = u64::from(LOAD.tokens) - cursor.next;
        let mut request = Request::get(stage.server, path.clone(), LOAD.tokens.into());
        request.drop_at = Some(random_range(1..=left.max(1)));
        request.timed = false;
        client.open(Request { cursor: Some(cursor.clone()), ..request.clone() })?;
        client.open(request)?;
        expected += left + u64::from(LOAD.tokens);
    }
    Ok(expected)
}

async fn wait(client: &Client, readers: u64) -> Result<()> {
    client.until(LIMIT, |now| now.ended.load(Ordering::Relaxed) >= readers, |_| {}).await
}

fn judge(tally: &Tally, readers: u64, tokens: u64) -> Result<()> {
    let Tally { lost, doubled, misplaced, restarted, done, .. } = tally;
    let why = tally.reason.as_deref().unwrap_or("no stream broke off");
    ensure!(*done == readers, "{done} of {readers} readers saw the end: {why}");
    ensure!(
        lost + doubled + misplaced + restarted == 0,
        "{lost} lost, {doubled} doubled, {misplaced} misplaced, {restarted} streams began again"
    );
    ensure!(tally.tokens == tokens, "{} tokens instead of {tokens}", tally.tokens);
    Ok(())
}

/// That the answers are in PostgreSQL, whole.
async fn texts(stage: &Stage) -> Result<()> {
    let column = match stage.architecture {
        Architecture::Rill => "SELECT coalesce(answer, '') FROM messages WHERE role = 'assistant'",
        _ => "SELECT content FROM messages WHERE role = 'assistant'",
    };
    let mut database = PgConnection::connect(stage.postgres.url()).await?;
    let texts: Vec<String> = sqlx::query_scalar(column).fetch_all(&mut database).await?;
    ensure!(texts.len() == LOAD.streams as usize, "{} answers in PostgreSQL", texts.len());
    for text in texts {
        let numbers = tokens::find(text.as_bytes()).map(|(n, _)| n);
        ensure!(numbers.eq(0..u64::from(LOAD.tokens)), "an answer in PostgreSQL is {text:?}");
    }
    Ok(())
}
