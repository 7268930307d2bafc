//! Coming late: whenever a reader comes, it gets all of the answer.

use redis::AsyncCommands;

use crate::in_both_modes;
use crate::support::{App, Builder, Cut, Reader, eventually};

fn cursor(reader: &mut Reader, id: &str) {
    reader.cursor = Some(id.to_owned());
}

in_both_modes! {
    async fn a_reader_before_the_first_token_sees_everything(builder: Builder) {
        let app = builder.start().await;
        let posted = app.say("[[echo]] [[ttft=700ms]] [[chunk=3]] [[rate=100]]before the first token").await;
        let reader = app.read(&posted).await;
        assert_eq!(reader.answer.text, "before the first token");
        assert_eq!(reader.answer, app.stored(&posted).await);
        assert_eq!(reader.count("started"), 1);
    }

    async fn a_reader_that_comes_mid_way_sees_everything(builder: Builder) {
        let app = builder.start().await;
        let posted = app.say("[[tokens=60]] [[rate=60]]").await;
        let mut first = app.reader(&posted);
        first.connect(Cut::AfterEvents(20)).await.expect("connects");
        let late = app.read(&posted).await;
        first.follow([]).await;
        let stored = app.stored(&posted).await;
        assert_eq!(late.answer, stored);
        assert_eq!(first.answer, stored);
    }

    async fn a_reader_after_done_sees_everything_and_at_the_end_nothing(builder: Builder) {
        let app = builder.start().await;
        let posted = app.say("[[tokens=30]] [[rate=0]]").await;
        app.reaches(&posted, "done").await;
        let mut reader = app.read(&posted).await;
        assert_eq!(reader.answer, app.stored(&posted).await);
        // Its cursor is the terminal ID now.
        assert_eq!(reader.connect(Cut::Never).await.expect("connects"), 204);
        cursor(&mut reader, "99-0");
        assert_eq!(reader.connect(Cut::Never).await.expect("connects"), 204);
    }

    async fn a_reader_after_the_stream_expired_gets_it_from_postgresql(builder: Builder) {
        let app = builder
            .with("RILL_STREAM_TTL", "3s")
            .with("RILL_LEASE", "600ms")
            .with("RILL_HEARTBEAT", "200ms")
            .with("RILL_MODEL_IDLE_TIMEOUT", "1s")
            .with("RILL_RETRY_MAX", "1s")
            .start()
            .await;
        let posted = app.say("[[tokens=30]] [[rate=0]]").await;
        let mut early = app.reader(&posted);
        early.connect(Cut::AfterEvents(3)).await.expect("connects");
        app.reaches(&posted, "done").await;
        let (key, mut redis) = (app.stream_key(&posted), app.redis().await);
        eventually("the stream expires", || {
            let (key, mut redis) = (key.clone(), redis.clone());
            async move { !redis.exists::<_, bool>(key).await.expect("EXISTS") }
        })
        .await;
        let keys: Vec<String> = redis.keys(format!("{}*", app.name)).await.expect("KEYS");
        let left: Vec<_> = keys.iter().filter(|key| key.contains(":task:")).collect();
        assert!(left.is_empty(), "{left:?}");
        let stored = app.stored(&posted).await;
        let late = app.read(&posted).await;
        assert_eq!(late.answer, stored);
        assert_eq!(late.count("snapshot"), 1);
        early.follow([]).await;
        assert_eq!(early.answer, stored);
        assert_eq!(late.end, early.end);
    }

    /// `MAXLEN ~` trims whole nodes of 100 entries, so there have to be many, even
    /// where a busy machine merges some.
    async fn a_cursor_that_was_trimmed_away_gets_a_snapshot(builder: Builder) {
        let app = builder.with("RILL_STREAM_MAXLEN", "100").start().await;
        let posted = app.say("[[tokens=1200]] [[rate=200]]").await;
        let mut early = app.reader(&posted);
        early.connect(Cut::AfterEvents(5)).await.expect("connects");
        let key = app.stream_key(&posted);
        let redis = app.redis().await;
        eventually("the first events are trimmed", || {
            let (key, mut redis) = (key.clone(), redis.clone());
            async move {
                let first: Vec<redis::Value> = redis.xrange_count(key, "-", "(1-100", 1).await.expect("XRANGE");
                first.is_empty()
            }
        })
        .await;
        // Live, in the middle of it.
        let mut live = app.reader(&posted);
        live.follow([Cut::AfterEvents(40)]).await;
        early.follow([Cut::AfterEvents(40)]).await;
        let from_the_end = app.read(&posted).await;
        let stored = app.stored(&posted).await;
        for reader in [&early, &live, &from_the_end] {
            assert!(reader.answer == stored, "a reader's text differs from PostgreSQL's");
            assert!(reader.count("snapshot") >= 1, "{:?}", reader.events.first());
        }
    }

    async fn a_cursor_ahead_of_the_stream_waits_for_its_end(builder: Builder) {
        let app = builder.start().await;
        let posted = app.say("[[tokens=20]] [[rate=40]]").await;
        let mut reader = app.reader(&posted);
        cursor(&mut reader, "7-3");
        // Never an error; and once the task has ended, there is nothing after.
        assert_eq!(reader.connect(Cut::AfterBytes(10)).await.expect("connects"), 200);
        app.reaches(&posted, "done").await;
        assert_eq!(reader.connect(Cut::Never).await.expect("connects"), 204);
        let other = app.read(&posted).await;
        assert_eq!(other.answer, app.stored(&posted).await);
    }
}

/// Found by `make chaos`: PostgreSQL's snapshot takes the ID below the end's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_misses_the_end_alone_is_sent_the_end_alone() {
    let app = App::start().await;
    let posted = app.say("[[fail=500*1]] [[cut=8]] [[tokens=20]] [[rate=0]]").await;
    let whole = app.read(&posted).await;
    let before = whole.events.iter().rev().nth(1).expect("an event before the end");
    let mut redis = app.redis().await;
    let _: () = redis.del(app.stream_key(&posted)).await.expect("DEL");
    let mut reader = app.reader(&posted);
    (reader.cursor, reader.answer) = (Some(before.id.clone()), whole.answer.clone());
    reader.follow([]).await;
    assert_eq!(reader.events.len(), 1, "{:?}", reader.events);
    assert_eq!(reader.end, whole.end);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_header_wins_over_the_query() {
    let app = App::start().await;
    let posted = app.say("[[tokens=10]] [[rate=60]]").await;
    app.reaches(&posted, "done").await;
    let url = format!("{}{}?last_event_id=1-2", app.url, posted.stream_url);
    let body = app.client.get(&url).send().await.expect("answers").text().await.expect("text");
    assert!(body.contains("id: 1-3\n") && !body.contains("id: 1-2\n"), "{body}");
    let request = app.client.get(&url).header("Last-Event-ID", "1-4");
    let body = request.send().await.expect("answers").text().await.expect("text");
    assert!(body.contains("id: 1-5\n") && !body.contains("id: 1-3\n"), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_says_how_to_come_back_and_is_never_cached() {
    let app = App::start().await;
    let posted = app.say("[[tokens=3]] [[rate=0]]").await;
    let request = app.client.get(format!("{}{}", app.url, posted.stream_url));
    let response = request.send().await.expect("answers");
    let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
    assert!(header("content-type").starts_with("text/event-stream"));
    assert_eq!(header("cache-control"), "no-store, no-transform");
    assert_eq!(header("x-accel-buffering"), "no");
    let body = response.text().await.expect("text");
    let mut parser = crate::support::SseParser::default();
    let events = parser.feed(body.as_bytes());
    assert_eq!(events.first().map(|e| e.event.as_str()), Some("started"));
    assert_eq!(events.last().map(|e| e.event.as_str()), Some("done"));
    assert!(parser.retry.is_some_and(|ms| (500..=10_000).contains(&ms)) && parser.comments >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_expires_but_the_queue_which_is_emptied() {
    let app = App::builder().with("RILL_HINTS", "off").start().await;
    for content in ["[[tokens=3]] [[rate=0]]", "[[fail=400*9]]", "[[cut=3*99]] [[tokens=9]]"] {
        app.read(&app.say(content).await).await;
    }
    let mut redis = app.redis().await;
    let jobs = format!("{}:{{jobs}}:generate", app.name);
    eventually("the queue is empty", || {
        let (jobs, mut redis) = (jobs.clone(), redis.clone());
        async move { redis.xlen::<_, usize>(jobs).await.expect("XLEN") == 0 }
    })
    .await;
    let keys: Vec<String> = redis.keys(format!("{}*", app.name)).await.expect("KEYS");
    assert!(keys.iter().filter(|key| key.contains(":task:")).count() == 3, "{keys:?}");
    for key in keys {
        let expires = redis.ttl::<_, i64>(&key).await.expect("TTL") > 0;
        let stays = [jobs.clone(), format!("{jobs}:dead"), format!("{}:deployment", app.name)];
        assert!(expires || stays.contains(&key), "{key} never expires");
    }
}
