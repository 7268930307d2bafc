//! What operators see and do: `rill queue`, `workers`, `dead`, `task`.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use redis::AsyncCommands;
use serde_json::{Value, json};

use crate::support::{App, Cut, eventually};

/// A command's answer.
pub(crate) struct Answer {
    pub(crate) ok: bool,
    pub(crate) out: String,
    err: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{}{}", self.out, self.err))
    }
}

/// Runs `rill` to its end, with the app's stores unless `environment` names others.
async fn rill_with(app: &App, arguments: &[&str], environment: &[(&str, &str)]) -> Answer {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rill"));
    command
        .args(arguments)
        .env("DATABASE_URL", app.database_url())
        .env("REDIS_URL", &app.redis_url)
        .env("RILL_REDIS_PREFIX", &app.name)
        .env("RILL_LEASE", "3s")
        .envs(environment.iter().copied())
        .stdin(Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.output());
    let Output { status, stdout, stderr } = run.await.expect("a thread").expect("rill runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let answer = Answer { ok: status.success(), out: text(stdout), err: text(stderr) };
    println!("$ rill {}\n{}{}", arguments.join(" "), answer.out, answer.err);
    answer
}

pub(crate) async fn rill(app: &App, arguments: &[&str]) -> Answer {
    rill_with(app, arguments, &[]).await
}

/// The letter that names the task, once it is there.
async fn letter_of(app: &App, task: &str) -> String {
    let dead = format!("{}:{{jobs}}:generate:dead", app.name);
    let found = std::cell::RefCell::new(String::new());
    eventually("the dead letter is there", || async {
        let mut redis = app.redis().await;
        let letters: redis::streams::StreamRangeReply =
            redis.xrange_all(&dead).await.expect("XRANGE");
        let letter = letters.ids.iter().find(|l| l.get::<String>("task").as_deref() == Some(task));
        letter.is_some_and(|letter| {
            letter.id.clone_into(&mut found.borrow_mut());
            true
        })
    })
    .await;
    found.into_inner()
}

async fn app_that_gives_up_soon() -> App {
    App::builder().with("RILL_MAX_FAILURES", "2").with("RILL_RETRY_BASE", "50ms").start().await
}

/// Says something, and partial text, that fails twice and then succeeds.
const FAILS_TWICE: &str = "[[cut=20*2]] [[tokens=60]] [[rate=0]] [[chunk=2]]";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_can_be_asked_again_once() {
    let app = app_that_gives_up_soon().await;
    let posted = app.say(FAILS_TWICE).await;
    let letter = letter_of(&app, &posted.task).await;
    let failed = app.reaches(&posted, "failed").await;
    let listed = rill(&app, &["dead", "list", "--json"]).await.json();
    assert_eq!(listed["dead_letters"][0]["letter"], letter);
    assert_eq!(listed["dead_letters"][0]["task_now"]["status"], "failed");
    let shown = rill(&app, &["dead", "show", &letter]).await;
    assert!(shown.ok && shown.out.contains(&format!("rill dead requeue {letter}")));
    // Two operators at the same time, and then one more.
    let requeue = ["dead", "requeue", &letter, "--json"];
    let (one, two) = tokio::join!(rill(&app, &requeue), rill(&app, &requeue));
    let asked: Vec<_> = [one, two].iter().filter(|a| a.ok).map(|a| a.json()).collect();
    assert!(!asked.is_empty());
    let new = asked[0]["requeued"][0]["task"].as_str().expect("a task").to_owned();
    assert!(asked.iter().all(|answer| answer["requeued"][0]["task"] == new));
    let again = rill(&app, &requeue[..3]).await;
    assert!(!again.ok && again.err.contains("asked again or dropped before"));
    // A letter that was not removed, as a crash leaves it, finds the same task.
    let mut redis = app.redis().await;
    let dead = format!("{}:{{jobs}}:generate:dead", app.name);
    let fields = [("entry", ""), ("why", "again"), ("task", &posted.task)];
    let left: String = redis.xadd(&dead, "*", &fields).await.expect("XADD");
    let repeated = rill(&app, &["dead", "requeue", &left, "--json"]).await;
    assert!(repeated.ok);
    let repeated = repeated.json();
    assert_eq!(repeated["requeued"][0]["task"], new);
    assert_eq!(repeated["requeued"][0]["repeated"], true);
    let mut second = posted.clone();
    second.task = new;
    second.stream_url = repeated["requeued"][0]["stream_url"].as_str().expect("a URL").to_owned();
    let new = second;
    let done = app.reaches(&new, "done").await;
    let reader = app.read(&new).await;
    assert_eq!(reader.end.as_ref().expect("ended").event, "done");
    // The failed task is as it was; the question has two answers.
    assert_eq!(app.task(&posted).await, failed);
    let path = format!("/v1/conversations/{}/messages", posted.conversation);
    let (_, list) = app.get(&path).await;
    let messages = list["items"].as_array().expect("messages");
    assert_eq!(messages.len(), 3, "{list}");
    assert_eq!(messages[1]["parent_id"], messages[2]["parent_id"]);
    let content = messages[2]["content"].as_str().expect("text");
    assert_eq!(content, reader.answer.text);
    // The model was not told of the failed answer, now or later.
    let fresh = app.say(FAILS_TWICE).await;
    let fresh = app.reaches(&fresh, "done").await;
    assert_eq!(done["usage"]["prompt_tokens"], fresh["usage"]["prompt_tokens"]);
    let story = rill(&app, &["task", &posted.task, "--json"]).await.json();
    assert_eq!(story["task"]["asked_again_as"], new.task);
    let letters = rill(&app, &["dead", "list", "--json"]).await.json();
    assert_eq!(letters["dead_letters"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_not_asked_again_where_the_answer_would_come_too_late() {
    let app = app_that_gives_up_soon().await;
    let moved_on = app.say("[[fail=500*9]] moved on").await;
    let deleted = app.say("[[fail=500*9]] deleted").await;
    let fine = app.say(FAILS_TWICE).await;
    let letters = [
        letter_of(&app, &moved_on.task).await,
        letter_of(&app, &deleted.task).await,
        letter_of(&app, &fine.task).await,
    ];
    app.say_in(&moved_on.conversation, json!({ "content": "never mind", "parent_id": null })).await;
    let path = format!("/v1/conversations/{}", deleted.conversation);
    assert!(app.request(reqwest::Method::DELETE, &path, None).await.0 < 300);
    let mut redis = app.redis().await;
    let jobs = format!("{}:{{jobs}}:generate", app.name);
    let _: String = redis.xadd(&jobs, "*", &[("nonsense", "x")]).await.expect("XADD");
    eventually("the malformed job is a dead letter", || async {
        let mut redis = app.redis().await;
        redis.xlen::<_, usize>(format!("{jobs}:dead")).await.expect("XLEN") == 4
    })
    .await;
    for (letter, why) in letters.iter().zip(["went on behind", "was deleted"]) {
        let refused = rill(&app, &["dead", "requeue", letter]).await;
        assert!(!refused.ok && refused.err.contains(why), "{}", refused.err);
        assert!(refused.err.contains(&format!("rill dead drop {letter}")), "{}", refused.err);
    }
    let all = rill(&app, &["dead", "requeue", "--all"]).await;
    assert!(!all.ok && all.out.contains(&letters[2]) && all.out.contains("names no task"));
    assert!(all.err.contains("3 of 4 letters"), "{}", all.err);
    let page = rill(&app, &["dead", "list", "--limit", "2", "--json"]).await.json();
    let before = page["before"].as_str().expect("there are more");
    let rest = rill(&app, &["dead", "list", "--before", before, "--json"]).await.json();
    assert_eq!(rest["dead_letters"].as_array().expect("letters").len(), 1);
    assert!(rill(&app, &["dead", "drop", &letters[0]]).await.ok);
    assert!(!rill(&app, &["dead", "drop", &letters[0]]).await.ok);
    assert!(rill(&app, &["dead", "drop", "--all"]).await.out.contains("dropped 2"));
    assert!(rill(&app, &["dead", "list"]).await.out.contains("no dead letters"));
    assert!(!rill(&app, &["dead", "requeue"]).await.ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rill_task_tells_the_story_of_a_task_that_was_taken_over() {
    let mut app = App::builder().workers(0).start().await;
    let posted = app.say("[[tokens=400]] [[rate=20]]").await;
    let waiting = rill(&app, &["task", &posted.task]).await;
    assert!(waiting.out.contains("none is alive: start `rill worker`"));
    app.start_worker();
    let mut reader = app.reader(&posted);
    reader.connect(Cut::AfterEvents(5)).await.expect("connects");
    let running = rill(&app, &["task", &posted.task]).await;
    assert!(running.ok && running.out.contains("attempt 1; last event 1-"));
    assert!(running.out.contains("renewed by its worker"));
    app.workers[0].kill();
    eventually("the worker is known to be dead", || async {
        rill(&app, &["task", &posted.task]).await.out.contains("no other is alive")
    })
    .await;
    app.start_worker();
    eventually("another worker has written", || async {
        let story = rill(&app, &["task", &posted.task, "--json"]).await.json();
        story["redis"]["stream"]["attempts"].as_array().is_some_and(|attempts| attempts.len() == 2)
    })
    .await;
    let story = rill(&app, &["task", &posted.task, "--json"]).await.json();
    assert_eq!(story["task"]["attempt"], 2);
    assert_eq!(story["task"]["failures"], 0);
    assert_eq!(app.charges(&posted).await, 1);
    assert_eq!(story["redis"]["stream"]["attempts"][0]["attempt"], 1);
    assert_eq!(story["redis"]["stream"]["attempts"][1]["events"]["started"], 1);
    assert_eq!(story["redis"]["jobs"][0]["consumer"], story["task"]["worker_id"]);
    assert!(story["next"].as_str().expect("text").contains("attempt 2; last event 2-"));
    let cancel = format!("/v1/tasks/{}/cancel", posted.task);
    assert!(app.post(&cancel, json!({})).await.0 < 300);
    app.reaches(&posted, "cancelled").await;
    let ended = rill(&app, &["task", &posted.task]).await;
    assert!(ended.out.contains("Next          ended: cancelled"), "{}", ended.out);
    let nobody = rill(&app, &["task", "01a20779-b61c-7273-a2c1-b206e2278843"]).await;
    assert!(!nobody.ok && nobody.err.contains("there is no task") && nobody.out.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rill_queue_tells_what_waits_and_who_works() {
    let mut app = App::builder().workers(0).start().await;
    for _ in 0..3 {
        app.say("[[tokens=400]] [[rate=20]]").await;
    }
    let queue = rill(&app, &["queue", "--json"]).await.json();
    assert_eq!(queue["jobs"]["waiting"], 3);
    assert!(queue["jobs"]["oldest_waiting_ms"].as_u64().is_some());
    assert_eq!(queue["tasks"]["queued_due"], 3);
    assert_eq!(queue["workers"], json!([]));
    assert!(rill(&app, &["queue"]).await.out.contains("Start `rill worker`"));
    app.start_worker();
    eventually("all of it runs", || async {
        let queue = rill(&app, &["queue", "--json"]).await.json();
        queue["jobs"]["waiting"] == 0
            && queue["jobs"]["pending"] == 3
            && queue["tasks"]["running"] == 3
            && queue["workers"][0]["running"] == 3
            && queue["workers"][0]["pending"] == 3
            && queue["workers"][0]["state"] == "alive"
    })
    .await;
    app.workers[0].kill();
    app.say("[[tokens=4]]").await;
    eventually("the worker is known to be dead", || async {
        let workers = rill(&app, &["workers", "--json"]).await.json();
        workers["workers"][0]["state"] == "dead"
    })
    .await;
    let queue = rill(&app, &["queue"]).await;
    assert!(queue.ok && queue.out.contains("3 under dead workers"), "{}", queue.out);
    assert!(queue.out.contains("as soon as a worker has been steady for a lease"));
    assert_eq!(rill(&app, &["queue", "--json"]).await.json()["jobs"]["waiting"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_tell_what_they_know_when_a_store_is_away() {
    let app = App::builder().workers(0).start().await;
    let posted = app.say("hello").await;
    let started = Instant::now();
    let away = [("REDIS_URL", "redis://127.0.0.1:1")];
    let queue = rill_with(&app, &["queue"], &away).await;
    assert!(!queue.ok && queue.out.contains("queued, due") && !queue.out.contains("waiting"));
    assert!(queue.err.contains("what Redis knows is missing") && queue.err.contains("REDIS_URL"));
    let task = rill_with(&app, &["task", &posted.task, "--json"], &away).await;
    assert!(!task.ok);
    assert_eq!(task.json()["task"]["status"], "queued");
    assert_eq!(task.json()["unavailable"][0]["store"], "Redis");
    let away = [("DATABASE_URL", "postgres://x@127.0.0.1:1/x")];
    let task = rill_with(&app, &["task", &posted.task], &away).await;
    assert!(!task.ok && task.out.contains("waiting for") && task.out.contains("not known"));
    assert!(task.err.contains("what PostgreSQL knows is missing"));
    let both = [away[0], ("REDIS_URL", "redis://127.0.0.1:1")];
    for arguments in [&["queue"][..], &["workers"], &["dead", "list"], &["task", &posted.task]] {
        let nothing = rill_with(&app, arguments, &both).await;
        assert!(!nothing.ok && nothing.out.is_empty() && nothing.err.contains("is missing"));
    }
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}
