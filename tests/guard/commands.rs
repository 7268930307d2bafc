//! What a token costs Redis and a task costs PostgreSQL, in commands and
//! statements: a real API and worker on a Redis of their own.
//!
//! A stream alone shares nothing, so it has one read a token, and its counts are
//! fixed. Of many, those whose tokens coincide share a read: how many do depends
//! on the moment, and only writes are bounded there.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;

use crate::bounds::Figures;
use crate::counted;
use crate::support::{App, PrivateRedis, connect_to_redis, eventually, within};

const STREAMS: usize = 20;
/// Of each stream, at 20 a second.
const TOKENS: usize = 100;
const PERIOD: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "counts: make guard"]
async fn of_streams() {
    let redis = PrivateRedis::start().await;
    let app = counted().redis(redis.url()).start().await;
    let mut figures = Figures::default();
    of_one(&app, &mut figures).await;
    of_twenty(&app, &mut figures).await;
    figures.hold();
}

/// So much later than others, as models don't speak in chorus.
fn prompt(later: Duration) -> String {
    let (rate, ttft) = (1.0 / PERIOD.as_secs_f64(), later.as_millis());
    format!("[[tokens={TOKENS}]] [[rate={rate}]] [[ttft={ttft}ms]]")
}

async fn of_one(app: &App, figures: &mut Figures) {
    sqlx::query("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        .execute(&app.pool)
        .await
        .expect("comes with PostgreSQL, preloaded by scripts/with-services");
    // Whatever a first task brings about is then done.
    let first = app.say("[[tokens=3]]").await;
    app.read(&first).await;
    app.reaches(&first, "done").await;

    let (before, statements_before) = (commands(&app.redis_url).await, statements(app).await);
    let reader = app.read(&app.say(&prompt(Duration::ZERO)).await).await;
    let commands = since(commands(&app.redis_url).await, &before);
    let statements = since(statements(app).await, &statements_before);
    println!("guard: a stream of {TOKENS}: {} events, {commands:?}", reader.count("delta"));
    let of_a_token: u64 =
        ["xadd", "publish", "xread"].iter().filter_map(|name| commands.get(*name)).sum();
    figures.add("Redis: commands a token, one stream", of_a_token as f64 / TOKENS as f64);
    let of_the_task: Vec<_> = statements
        .iter()
        .filter(|(query, _)| !PERIODIC.iter().any(|start| query.starts_with(start)))
        .collect();
    for (statement, calls) in &of_the_task {
        println!("guard: {calls:>3} a task: {statement}");
    }
    let calls: u64 = of_the_task.iter().map(|(_, calls)| **calls).sum();
    figures.add("PostgreSQL: statements a task alone", calls as f64);
}

async fn of_twenty(app: &App, figures: &mut Figures) {
    let before = commands(&app.redis_url).await;
    let streams = (0..STREAMS).map(|n| async move {
        let later = PERIOD.mul_f64(n as f64 / STREAMS as f64);
        app.read(&app.say(&prompt(later)).await).await
    });
    let readers = within("all streams end", join_all(streams)).await;
    eventually("the last job is acknowledged", || async {
        let commands = since(commands(&app.redis_url).await, &before);
        commands.get("xack").copied().unwrap_or_default() >= STREAMS as u64
    })
    .await;
    let commands = since(commands(&app.redis_url).await, &before);
    let deltas: usize = readers.iter().map(|reader| reader.count("delta")).sum();
    println!("guard: {STREAMS} streams of {TOKENS}: {deltas} events, {commands:?}");

    let (streams, tokens) = (STREAMS as f64, (STREAMS * TOKENS) as f64);
    let of = |name: &str| commands.get(name).copied().unwrap_or_default() as f64;
    println!("guard: {:.2} XREADs a token, shared as it comes", of("xread") / tokens);
    figures.add("Redis: writes a token, 20 streams", (of("xadd") + of("publish")) / tokens);
    let others: f64 = PER_TASK.iter().map(|name| of(name)).sum();
    figures.add("Redis: other commands a task", others / streams);
}

/// What processes say to PostgreSQL once in a while, and this test itself.
const PERIODIC: &[&str] = &[
    "WITH me AS",
    "WITH turn AS",
    "SELECT id FROM deployment",
    // Each connection, before it is used and after: a ping, which wasn't counted, before.
    "SHOW transaction_read_only",
    "SET ",
    // Each look at readiness and at the metrics.
    "SELECT current_setting(",
    "SELECT CASE WHEN NOT current_setting(",
    "SELECT id, message_id, attempt, status, cancel",
    "WITH dead AS",
    // After a reconnect, the first one included.
    "SELECT id FROM tasks WHERE id = ANY($1) AND final_id IS NULL",
    "SELECT left(regexp_replace",
];

/// Commands that a task causes and time doesn't (no heartbeats, no blocking
/// reads), each for itself (subscriptions go several at once).
const PER_TASK: &[&str] = &["multi", "exec", "xack", "xdel"];

/// How often each was called so far.
type Calls = BTreeMap<String, u64>;

fn since(now: Calls, before: &Calls) -> Calls {
    let since = |(name, calls): (String, u64)| {
        let calls = calls - before.get(&name).copied().unwrap_or_default();
        (calls > 0).then_some((name, calls))
    };
    now.into_iter().filter_map(since).collect()
}

async fn commands(url: &str) -> Calls {
    let mut redis = connect_to_redis(url).await;
    let info: String = redis::cmd("INFO")
        .arg("commandstats")
        .query_async(&mut redis)
        .await
        .expect("INFO commandstats");
    let calls = info.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    });
    calls.collect()
}

async fn statements(app: &App) -> Calls {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        r"SELECT left(regexp_replace(s.query, '\s+', ' ', 'g'), 70), sum(s.calls)::bigint
          FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
          WHERE d.datname = current_database() GROUP BY 1",
    )
    .fetch_all(&app.pool)
    .await
    .expect("pg_stat_statements is loaded");
    rows.into_iter().map(|(query, calls)| (query, calls.unsigned_abs())).collect()
}
