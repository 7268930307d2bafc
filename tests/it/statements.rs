//! Promise 5: PostgreSQL is near idle.

use std::collections::BTreeMap;

use crate::support::{App, Cut, eventually};

/// Statements of this database by their text, from `pg_stat_statements`.
pub(crate) async fn statements(app: &App) -> BTreeMap<String, i64> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT left(regexp_replace(s.query, '\\s+', ' ', 'g'), 90), sum(s.calls)::bigint
         FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
         WHERE d.datname = current_database() GROUP BY 1",
    )
    .fetch_all(&app.pool)
    .await
    .expect("pg_stat_statements is loaded");
    rows.into_iter()
        .filter(|(query, _)| {
            !query.contains("regexp_replace") && !query.contains("CREATE EXTENSION")
        })
        .collect()
}

pub(crate) fn since(
    before: &BTreeMap<String, i64>,
    after: &BTreeMap<String, i64>,
) -> BTreeMap<String, i64> {
    after
        .iter()
        .map(|(query, calls)| (query.clone(), calls - before.get(query).unwrap_or(&0)))
        .filter(|(_, calls)| *calls > 0)
        .collect()
}

/// What each process does once in a while, whatever runs.
pub(crate) fn is_periodic(query: &str) -> bool {
    [
        "WITH me AS",
        "WITH turn AS",
        "SELECT id, message_id, attempt, status, cancel",
        "WITH dead AS",
        // Of each connection that is opened, and of one that is tried.
        "SELECT id FROM deployment",
        "SHOW transaction_read_only",
        "SET ",
        // Of a look at the metrics.
        "SELECT current_setting",
        "SELECT CASE WHEN NOT current_setting",
    ]
    .iter()
    .any(|start| query.starts_with(start))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_of_500_chunks_costs_at_most_8_statements_and_none_a_chunk() {
    let app = App::start().await;
    sqlx::query("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        .execute(&app.pool)
        .await
        .expect("extension");
    let conversation = app.conversation().await;
    eventually("the worker has begun its heartbeat", || async {
        statements(&app).await.keys().any(|query| query.starts_with("WITH me AS"))
    })
    .await;
    let before = statements(&app).await;
    let body = serde_json::json!({ "content": "[[tokens=500]] [[rate=250]]" });
    let posted = app.say_in(&conversation, body).await;
    eventually("the task has ended, and said so", || async {
        app.metric("rill_tasks_accepted_total", "").await > 0.0
            && sqlx::query_scalar::<_, Option<String>>(
                "SELECT final_id FROM tasks WHERE id = $1::uuid",
            )
            .bind(&posted.task)
            .fetch_one(&app.pool)
            .await
            .expect("reads")
            .is_some()
    })
    .await;
    let all = since(&before, &statements(&app).await);
    let of_the_task: BTreeMap<_, _> = all
        .iter()
        .filter(|(query, _)| {
            !is_periodic(query) && !query.starts_with("SELECT final_id FROM tasks")
        })
        .collect();
    println!("statements of a task of 500 chunks: {of_the_task:#?}");
    let total: i64 = of_the_task.values().copied().sum();
    assert!((1..=8).contains(&total), "{total} statements: {of_the_task:#?}");

    let before = statements(&app).await;
    let mut reader = app.reader(&posted);
    reader.connect(Cut::Never).await.expect("connects");
    assert_eq!(reader.answer, app.stored(&posted).await);
    let opening: BTreeMap<_, _> = since(&before, &statements(&app).await)
        .into_iter()
        .filter(|(query, _)| !is_periodic(query) && !query.starts_with("SELECT answer, reasoning"))
        .collect();
    println!("statements of opening a stream: {opening:#?}");
    assert_eq!(opening.values().sum::<i64>(), 1, "{opening:#?}");
}
