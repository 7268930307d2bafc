//! Processes are replaced under load, and readers come back all at once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;

use crate::in_both_modes;
use crate::scale::{append_to_all, running_tasks};
use crate::statements::{is_periodic, since, statements};
use crate::support::{App, Builder, Cut, PATIENCE, Process, Reader, SseParser, eventually, within};

/// The APIs that a load balancer would know.
type Pool = Arc<Mutex<Vec<String>>>;

/// Follows a task to its end, each time at the next API.
async fn wander(mut reader: Reader, path: String, apis: Pool, first: usize) -> Reader {
    for turn in first.. {
        let url = {
            let apis = apis.lock().expect("APIs");
            apis[turn % apis.len()].clone()
        };
        reader.url = format!("{url}{path}");
        match reader.connect(Cut::Never).await {
            Ok(status) => assert_ne!(status, 204, "no end came"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        if reader.end.is_some() {
            break;
        }
    }
    reader
}

in_both_modes! {
    async fn a_rolling_restart_under_load_is_seen_by_nobody(builder: Builder) {
        const TASKS: usize = 30;
        let mut app = builder.workers(2).with("RILL_DRAIN_GRACE", "200ms").start().await;
        let mut others = [app.start_api().await, app.start_api().await];
        let apis: Pool = Arc::default();
        *apis.lock().expect("APIs") =
            [app.url.clone()].into_iter().chain(others.iter().map(|(_, url)| url.clone())).collect();
        let mut tasks = Vec::new();
        let mut readers = Vec::new();
        for number in 0..TASKS {
            let posted = app.say(&format!("[[tokens=180]] [[rate=30]] [[seed={number}]]")).await;
            let (reader, path) = (app.reader(&posted), posted.stream_url.clone());
            readers.push(tokio::spawn(wander(reader, path, apis.clone(), number)));
            tasks.push(posted);
        }
        for turn in 0..2 {
            app.start_worker();
            app.workers[2 + turn].logged("answers come from").await;
            stop(&mut app.workers[turn]).await;
        }
        // Each API in turn: another comes, and then the old one goes.
        let old = [app.url.clone()].into_iter().chain(others.iter().map(|(_, url)| url.clone()));
        for (turn, url) in old.collect::<Vec<_>>().into_iter().enumerate() {
            let (api, new_url) = app.start_api().await;
            {
                let mut apis = apis.lock().expect("APIs");
                apis.retain(|other| *other != url);
                apis.push(new_url.clone());
            }
            let mut gone = if turn == 0 {
                app.url = new_url;
                std::mem::replace(&mut app.api, api)
            } else {
                std::mem::replace(&mut others[turn - 1], (api, new_url)).0
            };
            if turn == 1 {
                gone.kill();
            } else {
                stop(&mut gone).await;
            }
        }
        let readers = within("all readers get their end", join_all(readers)).await;
        let mut attempts = 0;
        for (reader, posted) in readers.into_iter().zip(&tasks) {
            let reader = reader.expect("a reader");
            assert_eq!(reader.end.as_ref().expect("ended").event, "done");
            assert_eq!(reader.answer, app.stored(posted).await);
            let task = app.task(posted).await;
            assert_eq!(task["failures"], 0, "a drained attempt was charged: {task}");
            attempts += task["attempts"].as_u64().expect("a number");
        }
        println!("{attempts} attempts for {TASKS} tasks");
        assert!(attempts as usize > TASKS, "nothing was drained");
    }
}

async fn stop(process: &mut Process) {
    process.signal("TERM");
    assert!(process.ended().await.success(), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnects_are_spread() {
    let app = App::builder().workers(0).start().await;
    let posted = app.say("waits").await;
    let greetings = (0..60).map(|_| async {
        let response = app.client.get(format!("{}{}", app.url, posted.stream_url));
        let mut body = response.send().await.expect("answers").bytes_stream();
        let mut parser = SseParser::default();
        while parser.retry.is_none() {
            parser.feed(&body.next().await.expect("a greeting").expect("a piece"));
        }
        parser.retry.expect("retry")
    });
    let waits = within("all are greeted", join_all(greetings)).await;
    let (least, most) = (waits.iter().min().expect("60"), waits.iter().max().expect("60"));
    println!("readers are told to wait {least} to {most} ms");
    assert!((1000..=3000).contains(least) && (1000..=3000).contains(most));
    assert!(*least < 1500 && *most > 2500, "not spread: {waits:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_readers_dropped_at_once_cost_one_statement_each() {
    const READERS: usize = 2_000;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let mut app = App::builder().workers(0).with("RILL_LISTEN", &address).start().await;
    sqlx::query("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        .execute(&app.pool)
        .await
        .expect("extension");
    let tasks = running_tasks(&app, READERS).await;
    let client = app.client.clone();
    let url = app.url.clone();
    let opened = futures_util::stream::iter(tasks.clone()).map(|task| {
        let mut reader = Reader::new(client.clone(), format!("{url}/v1/tasks/{task}/stream"));
        async move {
            reader.connect(Cut::AfterEvents(1)).await.expect("connects");
            reader
        }
    });
    let readers: Vec<_> =
        within("all streams are opened", opened.buffer_unordered(100).collect()).await;
    let following = join_all(readers.into_iter().map(|reader| tokio::spawn(count_opens(reader))));
    all_are_open(&app, READERS).await;
    let before = statements(&app).await;
    app.restart_api().await;
    all_are_open(&app, READERS).await;
    let mut redis = app.redis().await;
    append_to_all(&app, &mut redis, &tasks, 1, "delta", r#"{"text":"more "}"#).await;
    let end = r#"{"message_id":"00000000-0000-0000-0000-000000000000","code":"x","message":"y"}"#;
    append_to_all(&app, &mut redis, &tasks, 2, "failed", end).await;
    let mut opens = 0;
    for reader in within("all readers get their end", following).await {
        let (reader, times) = reader.expect("a reader");
        assert_eq!(reader.answer.text, "more ");
        opens += times - 1;
    }
    let cost = since(&before, &statements(&app).await);
    let cost: i64 = cost.iter().filter(|(query, _)| !is_periodic(query)).map(|(_, n)| n).sum();
    println!(
        "{READERS} readers dropped at once came back with {opens} requests: {cost} statements"
    );
    assert!(opens >= READERS);
    // What the new API does once, beside.
    assert!(cost <= i64::try_from(opens).expect("small") + 20, "{cost} statements, {opens} opens");
}

async fn all_are_open(app: &App, count: usize) {
    eventually("all readers are there", || async {
        app.metric("rill_readers_open", "").await as usize == count
    })
    .await;
}

/// Follows to the end, and counts the requests that reached an API.
async fn count_opens(mut reader: Reader) -> (Reader, usize) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut opens = 0;
    while reader.end.is_none() {
        assert!(tokio::time::Instant::now() < deadline, "no end: {:?}", reader.events);
        match tokio::time::timeout_at(deadline, reader.connect(Cut::Never)).await {
            Ok(Err(error)) if error.is_connect() => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(Ok(200) | Err(_)) => opens += 1,
            // Too many at once: nothing was asked of PostgreSQL.
            Ok(Ok(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(_) => {}
        }
    }
    (reader, opens)
}
