//! PostgreSQL away, silent, or losing its replies, at each point of a task's
//! life: nothing accepted is lost, doubled or taken from its worker.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::complaints;
use crate::support::{App, Cut, Posted, Proxy, Weather, eventually, within};

const WEATHERS: [Weather; 3] = [Weather::Away, Weather::BlackHole, Weather::LosesReplies];
const LEASE: Duration = Duration::from_millis(1500);

async fn before_postgresql() -> Proxy {
    Proxy::before(&std::env::var("DATABASE_URL").expect("make test")).await
}

/// In every weather at the same time.
async fn whatever_the_weather<F: Future<Output = ()>>(holds: impl Fn(Weather) -> F) {
    futures_util::future::join_all(WEATHERS.map(holds)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_refused_without_postgresql_is_accepted_once_when_repeated() {
    let app = App::builder().workers(0).start().await;
    whatever_the_weather(|weather| refused_then_accepted(&app, weather)).await;
}

async fn refused_then_accepted(app: &App, weather: Weather) {
    let proxy = before_postgresql().await;
    let (api, url) =
        app.start_api_with(&[("DATABASE_URL", &app.database_url_through(&proxy))]).await;
    let conversation = app.conversation().await;
    let post = || async {
        let request = app
            .client
            .post(format!("{url}/v1/conversations/{conversation}/messages"))
            .header("Idempotency-Key", format!("{weather:?}"))
            .json(&json!({ "content": "hello" }));
        let response = within("an answer", request.send()).await.expect("answers");
        let retry_after = response.headers().contains_key("retry-after");
        let status = response.status().as_u16();
        (status, retry_after, response.json::<Value>().await.expect("JSON"))
    };
    eventually("ready", || async {
        app.client.get(format!("{url}/readyz")).send().await.expect("answers").status() == 200
    })
    .await;
    proxy.weather(weather);
    let started = Instant::now();
    let (status, retry_after, problem) = post().await;
    println!("{weather:?}: {status} after {:?}", started.elapsed());
    assert_eq!((status, retry_after), (503, true), "{weather:?}: {problem}");
    proxy.weather(Weather::Clear);
    eventually("it is accepted", || async { post().await.0 == 202 }).await;
    let (_, _, accepted) = post().await;
    let tasks: Vec<String> =
        sqlx::query_scalar("SELECT id::text FROM tasks WHERE conversation_id = $1::uuid")
            .bind(&conversation)
            .fetch_all(&app.pool)
            .await
            .expect("reads");
    assert_eq!(accepted["task_id"], json!(tasks[0]), "{weather:?}");
    assert_eq!(tasks.len(), 1, "{weather:?}: {tasks:?}");
    assert!(!api.log().contains("ERROR"), "{}", api.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_waits_for_postgresql_unacknowledged_and_begins_once() {
    whatever_the_weather(waits_to_begin).await;
}

async fn waits_to_begin(weather: Weather) {
    let proxy = before_postgresql().await;
    let mut app = App::builder()
        .workers(0)
        .with("RILL_LEASE", "1500ms")
        .with("RILL_HEARTBEAT", "400ms")
        .start()
        .await;
    app.start_worker_through(None, Some(&proxy));
    // It waits for jobs.
    app.workers[0].logged("answers come from").await;
    let group = format!("{}:{{jobs}}:generate", app.name);
    let connection = app.redis().await;
    eventually("the worker asks for jobs", || {
        let mut connection = connection.clone();
        let mut command = redis::cmd("XINFO");
        command.arg("CONSUMERS").arg(&group).arg("workers");
        async move {
            let consumers: Result<Vec<redis::Value>, _> =
                command.query_async(&mut connection).await;
            consumers.is_ok_and(|consumers| !consumers.is_empty())
        }
    })
    .await;
    proxy.weather(weather);
    let posted = app.say("[[tokens=30]] [[rate=0]]").await;
    eventually("its job is delivered", || async { pending(&app).await == 1 }).await;
    tokio::time::sleep(LEASE * 2).await;
    assert_eq!(pending(&app).await, 1, "{weather:?}: acknowledged without an attempt");
    assert_eq!(app.model_calls().await, 0, "{weather:?}: the model was called");
    proxy.weather(Weather::Clear);
    ends_in_one_attempt(&app, &posted, weather).await;
    eventually("its job is acknowledged", || async { pending(&app).await == 0 }).await;
}

/// Jobs that were delivered and not acknowledged.
async fn pending(app: &App) -> u64 {
    let mut connection = app.redis().await;
    let mut command = redis::cmd("XPENDING");
    command.arg(format!("{}:{{jobs}}:generate", app.name)).arg("workers");
    let (count, ..): (u64, redis::Value, redis::Value, redis::Value) =
        command.query_async(&mut connection).await.expect("XPENDING");
    count
}

async fn ends_in_one_attempt(app: &App, posted: &Posted, weather: Weather) {
    let reader = app.read(posted).await;
    assert_eq!(reader.end.as_ref().expect("ended").event, "done", "{weather:?}");
    assert_eq!(reader.answer, app.stored(posted).await, "{weather:?}");
    let task = app.task(posted).await;
    let tries = (&task["attempts"], &task["failures"]);
    assert_eq!(tries, (&1.into(), &0.into()), "{weather:?}: {task}");
    complaints::assert_few(app);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_stream_without_postgresql_and_the_end_follows() {
    whatever_the_weather(streams_on).await;
}

async fn streams_on(weather: Weather) {
    let proxy = before_postgresql().await;
    let app = App::builder()
        .workers(2)
        .database_through(proxy.address())
        .with("RILL_LEASE", "1500ms")
        .with("RILL_HEARTBEAT", "400ms")
        .start()
        .await;
    let posted = app.say("[[tokens=80]] [[rate=40]]").await;
    let mut reader = app.reader(&posted);
    let mut absent = app.reader(&posted);
    absent.connect(Cut::AfterEvents(5)).await.expect("connects");
    // It streams to its last token, and waits with its end.
    let outage = async {
        eventually("it is followed", || async {
            app.metric("rill_streams_opened_total", "").await >= 2.0
        })
        .await;
        proxy.weather(weather);
        let key = app.stream_key(&posted);
        let connection = app.redis().await;
        eventually("the model has said everything", || {
            let (key, mut connection) = (key.clone(), connection.clone());
            async move {
                let mut command = redis::cmd("XREVRANGE");
                command.arg(key).arg("+").arg("-").arg("COUNT").arg(1);
                let last: Vec<(String, Vec<String>)> =
                    command.query_async(&mut connection).await.expect("XREVRANGE");
                last.first().is_some_and(|(_, fields)| fields.contains(&"complete".to_owned()))
            }
        })
        .await;
        tokio::time::sleep(LEASE * 2).await;
        proxy.weather(Weather::Clear);
    };
    let ((), reader) = tokio::join!(outage, async {
        reader.follow([]).await;
        reader
    });
    absent.follow([]).await;
    let stored = app.stored(&posted).await;
    assert!(reader.answer == stored && absent.answer == stored, "{weather:?}: a text differs");
    assert_eq!(reader.count("started"), 1);
    ends_in_one_attempt(&app, &posted, weather).await;
}
