//! A task that kills its workers: it fails, and those beside it don't pay for it.

use crate::support::{App, eventually};

/// With real workers that are killed whenever one has begun the culprit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_kills_its_workers_fails_and_all_beside_it_are_answered() {
    let mut app = App::builder()
        .workers(0)
        .with("RILL_LEASE", "900ms")
        .with("RILL_HEARTBEAT", "300ms")
        .with("RILL_MAX_LOSSES", "5")
        .start()
        .await;
    let culprit = app.say("[[tokens=4000]] [[rate=20]]").await;
    let mut innocents = Vec::new();
    for seed in 0..8 {
        innocents.push(app.say(&format!("[[tokens=40]] [[rate=20]] [[seed={seed}]]")).await);
    }
    let mut killed = 0;
    loop {
        app.start_worker();
        let row = || async {
            sqlx::query_as::<_, (String, i64)>(
                "SELECT status, (SELECT count(*) FROM attempts WHERE task_id = tasks.id)
                 FROM tasks WHERE id = $1::uuid",
            )
            .bind(&culprit.task)
            .fetch_one(&app.pool)
            .await
            .expect("reads")
        };
        eventually("another attempt of the culprit, or its end", || async {
            let (status, attempts) = row().await;
            attempts > killed || status == "failed"
        })
        .await;
        // The attempt that gives it up never calls the model.
        if killed == 5 || row().await.0 == "failed" {
            break;
        }
        app.workers.last_mut().expect("a worker").kill();
        killed += 1;
    }
    let task = app.reaches(&culprit, "failed").await;
    assert_eq!(task["error"]["code"], "worker_lost", "{task}");
    assert_eq!(killed, 5);
    for innocent in &innocents {
        let task = app.reaches(innocent, "done").await;
        assert_eq!(task["failures"], 0, "{task}");
        let reader = app.read(innocent).await;
        assert_eq!(reader.answer, app.stored(innocent).await);
    }
    let most: i64 = sqlx::query_scalar(
        "SELECT max(losses) FROM (SELECT count(*) AS losses FROM attempts
         WHERE outcome = 'lost' AND task_id <> $1::uuid GROUP BY task_id) AS counts",
    )
    .bind(&culprit.task)
    .fetch_one(&app.pool)
    .await
    .expect("counts");
    assert!(most <= 4, "an innocent task was lost {most} times");
}
