//! A rolling upgrade, seen from the older version: what a newer worker writes is
//! carried, read and not lost (`docs/compatibility.md`).
//!
//! The newer worker is played by the test: it takes jobs and begins attempts as a
//! worker does, and writes events, fields and jobs that this version doesn't know.

use std::time::Duration;

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use rill::domain::{Answer, ClaimId, EventId, TaskId, TaskStatus, WorkerId};
use rill::store::{Begin, Begun, Ending, Final, Store};

use crate::support::{App, Builder, Posted, Reader, eventually, typed, within};

/// So that a takeover, and what comes after it, doesn't take long.
const LEASE: Duration = Duration::from_secs(2);

fn builder() -> Builder {
    App::builder().workers(0).with("RILL_LEASE", "2s").with("RILL_HEARTBEAT", "500ms")
}

/// A worker of a newer version.
struct Newer {
    id: WorkerId,
    store: Store,
    redis: MultiplexedConnection,
    jobs: String,
    key: String,
    task: TaskId,
    message: rill::domain::MessageId,
    begun: Option<Begun>,
    seq: u64,
}

impl Newer {
    async fn of(app: &App, posted: &Posted) -> Self {
        let mut redis = app.redis().await;
        let jobs = format!("{}:{{jobs}}:generate", app.name);
        let _: redis::RedisResult<String> =
            redis.xgroup_create_mkstream(&jobs, "workers", "0").await;
        Self {
            id: WorkerId(uuid::Uuid::new_v4()),
            store: app.store(),
            redis,
            jobs,
            key: app.stream_key(posted),
            task: posted.task.parse().expect("a task"),
            message: posted.message.parse().expect("a message"),
            begun: None,
            seq: 0,
        }
    }

    async fn beat(&self) {
        let mine: Vec<_> = self.begun.iter().map(|begun| (self.task, begun.fence())).collect();
        self.store.heartbeat(self.id, LEASE, &mine).await.expect("a heartbeat");
    }

    /// Takes the task's job as soon as there is one, and begins an attempt.
    async fn begin(&mut self) {
        let taken = async {
            loop {
                self.beat().await;
                let mut command = redis::cmd("XREADGROUP");
                command.arg("GROUP").arg("workers").arg(self.id.to_string());
                command.arg("COUNT").arg(1).arg("BLOCK").arg(100).arg("STREAMS");
                command.arg(&self.jobs).arg(">");
                let jobs: Option<redis::streams::StreamReadReply> =
                    command.query_async(&mut self.redis).await.expect("XREADGROUP");
                if jobs.is_none_or(|jobs| jobs.keys.is_empty()) {
                    continue;
                }
                let claim = ClaimId(uuid::Uuid::new_v4());
                loop {
                    self.beat().await;
                    let begun =
                        self.store.begin_attempt(self.task, claim, self.id, LEASE, false).await;
                    match begun.expect("an answer") {
                        Begin::Begun(begun) => return *begun,
                        Begin::Later | Begin::Suspect(_) => {}
                        Begin::Duplicate => break,
                    }
                }
            }
        };
        self.begun = Some(within("a job", taken).await);
        self.seq = 0;
    }

    fn attempt(&self) -> u32 {
        self.begun.as_ref().expect("an attempt").attempt
    }

    /// Appends an event, with fields that this version doesn't know.
    async fn append(&mut self, name: &str, fields: &str) -> EventId {
        let id = EventId::new(self.attempt(), self.seq);
        let data = typed(name, fields);
        let fields = [("x", "unknown"), ("e", name), ("d", &data), ("t", "1"), ("zz", "unknown")];
        let _: String = self.redis.xadd(&self.key, id.to_string(), &fields).await.expect("XADD");
        let _: bool = self.redis.expire(&self.key, 600).await.expect("EXPIRE");
        self.seq += 1;
        id
    }

    async fn start(&mut self) {
        let fields = format!(r#"{{"attempt":{},"model":"simulator"}}"#, self.attempt());
        self.append("started", &fields).await;
    }

    /// Commits the answer, and says so.
    async fn finish(&mut self, text: &str) {
        let attempt = self.attempt();
        let id = EventId::new(attempt, self.seq);
        let fields = format!(
            r#"{{"message_id":"{}","finish_reason":"stop","usage":null,"newer":true}}"#,
            self.message
        );
        let last = Final {
            status: TaskStatus::Done,
            id,
            data: typed("done", &fields),
            answer: Answer { text: text.to_owned(), ..Answer::default() },
            finish_reason: Some("stop".to_owned()),
            usage: None,
            error: None,
            failures: None,
        };
        let seen = Ending { attempt, status: TaskStatus::Running, claim: None };
        let ended = self.store.end(self.task, seen, &last).await.expect("an answer");
        assert!(matches!(ended, rill::store::EndOutcome::Committed(_)), "{ended:?}");
        self.append("done", &fields).await;
    }
}

/// The names of the events that a reader was sent.
fn names(reader: &Reader) -> Vec<&str> {
    reader.events.iter().map(|sse| sse.event.as_str()).collect()
}

/// How each attempt ended, oldest first.
async fn outcomes(app: &App, posted: &Posted) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT coalesce(outcome, 'running') FROM attempts WHERE task_id = $1::uuid ORDER BY number",
    )
    .bind(&posted.task)
    .fetch_all(&app.pool)
    .await
    .expect("reads")
}

crate::in_both_modes! {
    async fn events_that_a_reader_does_not_know_keep_their_place_and_leave_it_exact(builder: Builder) {
        let app = builder.workers(0).start().await;
        let posted = app.say("anything").await;
        let mut newer = Newer::of(&app, &posted).await;
        newer.begin().await;
        newer.start().await;
        let mut live = app.reader(&posted);
        let writing = async {
            for n in 0..5 {
                newer.append("delta", &format!(r#"{{"text":"{n} ","logprob":-0.25}}"#)).await;
                newer.append("status", r#"{"doing":"searching"}"#).await;
                newer.append("internal.checkpoint", r#"{"n":1}"#).await;
                newer.append("content.citation", r#"{"url":"https://example.org"}"#).await;
                // Inside an attempt: for readers with a gap alone.
                newer.append("snapshot", &format!(
                    r#"{{"text":"{}","citations":[1]}}"#,
                    (0..=n).map(|n| format!("{n} ")).collect::<String>(),
                )).await;
                newer.beat().await;
            }
        };
        let (connected, ()) = tokio::join!(live.connect(crate::support::Cut::AfterEvents(16)), writing);
        connected.expect("connects");
        // In one attempt, whoever comes late finds no gap either.
        let mut late = app.reader(&posted);
        late.connect(crate::support::Cut::AfterEvents(10)).await.expect("connects");
        newer.finish("0 1 2 3 4 ").await;
        let each = ["delta", "status", "content.citation"];
        let expected = [&["started"][..], &each.repeat(5), &["done"]].concat();
        for reader in [&mut live, &mut late] {
            reader.follow([]).await;
            assert_eq!(names(reader), expected);
            assert_eq!(reader.answer.text, "0 1 2 3 4 ");
        }
        // A cursor of any class is one to come back with.
        let cited = live.events.iter().find(|sse| sse.event == "content.citation").expect("one");
        let mut resumed = app.reader(&posted);
        resumed.cursor = Some(cited.id.clone());
        resumed.follow([]).await;
        assert_eq!(names(&resumed), [&each.repeat(4)[..], &["done"]].concat());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_newer_worker_only_tells_does_not_cost_a_second_call() {
    let mut app = builder().start().await;
    let posted = app.say("anything").await;
    let mut newer = Newer::of(&app, &posted).await;
    newer.begin().await;
    newer.start().await;
    newer.append("delta", r#"{"text":"all "}"#).await;
    newer.append("status", r#"{"doing":"searching"}"#).await;
    newer.append("internal.checkpoint", "{\"n\":1}").await;
    newer.append("delta", r#"{"text":"of it"}"#).await;
    newer.append("complete", r#"{"finish_reason":"stop","usage":null,"cost":0.1}"#).await;
    // It dies here.
    app.start_worker();
    let reader = app.read(&posted).await;
    assert_eq!((reader.answer.text.as_str(), names(&reader).last()), ("all of it", Some(&"done")));
    assert_eq!(app.model_calls().await, 0);
    assert_eq!(outcomes(&app, &posted).await, ["lost", "done"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_only_a_newer_worker_understands_is_left_to_one() {
    let mut app = builder().start().await;
    let posted = app.say("anything").await;
    let mut first = Newer::of(&app, &posted).await;
    first.begin().await;
    first.start().await;
    first.append("delta", r#"{"text":"all "}"#).await;
    first.append("content.citation", r#"{"url":"https://example.org"}"#).await;
    first.append("delta", r#"{"text":"of it"}"#).await;
    first.append("complete", r#"{"finish_reason":"stop","usage":null}"#).await;
    // It dies here; an older worker takes the task over, and leaves it.
    app.start_worker();
    eventually("the older worker has left it", || async {
        outcomes(&app, &posted).await.contains(&"yielded".to_owned())
    })
    .await;
    // It is replaced by a newer one, whose relay finds the task due.
    app.workers[0].signal("TERM");
    assert!(app.workers[0].ended().await.success());
    let mut second = Newer::of(&app, &posted).await;
    sqlx::query("UPDATE tasks SET run_after = NULL WHERE id = $1::uuid AND status = 'queued'")
        .bind(&posted.task)
        .execute(&app.pool)
        .await
        .expect("updates");
    let job = [("task", posted.task.as_str())];
    let _: String = second.redis.xadd(&second.jobs, "*", &job).await.expect("XADD");
    second.begin().await;
    let snapshot = r#"{"text":"all of it","citations":["https://example.org"]}"#;
    second.append("snapshot", snapshot).await;
    second.finish("all of it").await;
    let reader = app.read(&posted).await;
    assert_eq!(reader.answer.text, "all of it");
    assert!(reader.events.iter().any(|sse| sse.data == typed("snapshot", snapshot)), "{reader:?}");
    assert_eq!(app.model_calls().await, 0);
    let task = app.task(&posted).await;
    assert_eq!((&task["status"], &task["failures"]), (&"done".into(), &0.into()), "{task}");
    assert_eq!(app.charges(&posted).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_no_newer_worker_takes_over_begins_again_after_a_lease() {
    let mut app = builder().start().await;
    let posted = app.say("[[tokens=20]] [[rate=0]]").await;
    let mut newer = Newer::of(&app, &posted).await;
    newer.begin().await;
    newer.start().await;
    newer.append("delta", r#"{"text":"half of "}"#).await;
    newer.append("content.citation", r#"{"url":"https://example.org"}"#).await;
    newer.append("complete", r#"{"finish_reason":"stop","usage":null}"#).await;
    let mut reader = app.reader(&posted);
    app.start_worker();
    app.start_worker();
    reader.follow([]).await;
    assert_eq!(reader.answer, app.stored(&posted).await);
    assert!(!reader.answer.text.contains("half"), "{}", reader.answer.text);
    assert_eq!(app.model_calls().await, 1);
    let outcomes = outcomes(&app, &posted).await;
    assert_eq!(outcomes.first().map(String::as_str), Some("lost"));
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "yielded").count(), 8, "{outcomes:?}");
    assert_eq!(outcomes.last().map(String::as_str), Some("done"));
    // Being left is no failure.
    assert_eq!(app.charges(&posted).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_answer_keeps_what_comes_before_a_newer_version_s_content() {
    let mut app = builder().start().await;
    let posted = app.say("anything").await;
    let mut newer = Newer::of(&app, &posted).await;
    newer.begin().await;
    newer.start().await;
    newer.append("delta", r#"{"text":"before"}"#).await;
    newer.append("content.citation", r#"{"url":"https://example.org"}"#).await;
    newer.append("delta", r#"{"text":" and after"}"#).await;
    let (status, _) =
        app.post(&format!("/v1/tasks/{}/cancel", posted.task), serde_json::json!({})).await;
    assert_eq!(status, 202);
    app.start_worker();
    let reader = app.read(&posted).await;
    assert_eq!(reader.end.as_ref().map(|sse| sse.event.as_str()), Some("cancelled"));
    assert_eq!(
        (reader.answer.text.as_str(), app.stored(&posted).await.text.as_str()),
        ("before", "before")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_a_kind_that_a_worker_does_not_know_are_left_alone_and_no_job_is_lost() {
    let app = App::start().await;
    let mut redis = app.redis().await;
    let jobs = format!("{}:{{jobs}}", app.name);
    // Another kind has a queue of its own.
    let other = format!("{jobs}:webhook");
    let _: String = redis.xgroup_create_mkstream(&other, "workers", "0").await.expect("XGROUP");
    for n in 0..3 {
        let _: String = redis.xadd(&other, "*", &[("delivery", n)]).await.expect("XADD");
    }
    // A job with more to it than this version knows, and one that it can't read.
    let posted = app.say("[[tokens=5]] [[rate=0]]").await;
    let fields = [("priority", "9"), ("task", posted.task.as_str())];
    let _: String = redis.xadd(format!("{jobs}:generate"), "*", &fields).await.expect("XADD");
    let fields = [("kind", "odd"), ("what", "this")];
    let _: String = redis.xadd(format!("{jobs}:generate"), "*", &fields).await.expect("XADD");
    assert_eq!(app.read(&posted).await.answer, app.stored(&posted).await);
    eventually("the queue of this version's kind is empty", || {
        let (key, mut redis) = (format!("{jobs}:generate"), redis.clone());
        async move { redis.xlen::<_, usize>(key).await.expect("XLEN") == 0 }
    })
    .await;
    assert_eq!(redis.xlen::<_, usize>(&other).await.expect("XLEN"), 3);
    let pending: redis::streams::StreamPendingReply =
        redis.xpending(&other, "workers").await.expect("XPENDING");
    assert_eq!(pending.count(), 0);
    // What can't be read is kept for people, whole.
    let letters: redis::streams::StreamRangeReply =
        redis.xrange_all(format!("{jobs}:generate:dead")).await.expect("XRANGE");
    let job: String = letters.ids[0].get("job").expect("the fields");
    assert_eq!(job, r#"["kind","odd","what","this"]"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_tell_when_they_were_appended_and_the_api_how_long_they_took() {
    let app = App::start().await;
    let before = now_ms();
    let posted = app.say("[[tokens=40]] [[rate=20]]").await;
    app.read(&posted).await;
    let mut redis = app.redis().await;
    let entries: redis::streams::StreamRangeReply =
        redis.xrange_all(app.stream_key(&posted)).await.expect("XRANGE");
    let times: Vec<u64> = entries.ids.iter().map(|e| e.get("t").expect("a time")).collect();
    assert!(
        times.is_sorted() && times[0] >= before && *times.last().expect("one") <= now_ms(),
        "{times:?}"
    );
    let delivered = app.metric("rill_delivery_duration_seconds_count", "").await;
    assert!(delivered >= 2.0, "{delivered}");
    // What was there before the reader came was not slow to arrive.
    app.read(&posted).await;
    assert!((app.metric("rill_delivery_duration_seconds_count", "").await - delivered).abs() < 0.5);
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since.expect("after 1970").as_millis()).expect("fits")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_stream_says_that_it_lives_and_moves_no_cursor() {
    let app = App::builder().with("RILL_PING_INTERVAL", "100ms").start().await;
    let posted = app.say("[[tokens=3]] [[rate=1]]").await;
    let reader = app.read(&posted).await;
    assert!(reader.pings >= 5, "{} pings", reader.pings);
    assert_eq!(reader.answer, app.stored(&posted).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_says_its_type() {
    let app = App::start().await;
    let posted = app.say("[[tokens=5]] [[rate=0]] [[cut=3*1]]").await;
    let reader = app.read(&posted).await;
    for sse in &reader.events {
        let data: serde_json::Value = serde_json::from_str(&sse.data).expect("JSON");
        assert_eq!(data["type"], *sse.event, "{sse:?}");
    }
    assert!(reader.count("retrying") == 1 && reader.count("done") == 1, "{:?}", names(&reader));
}
