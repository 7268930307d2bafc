//! An append whose outcome nobody knows: nothing twice, nothing missing, in the
//! stream as it is stored as well as for readers.

use rill::domain::{Answer, Event};

use super::scenes::is_terminal;
use super::stage::{Expected, Fault, Stages, ended_well, entries, play};
use crate::support::{App, Freeze, Posted, PrivateRedis};

/// The stored stream of a task that one attempt has run: every ID once, and its
/// events say what is stored, whether snapshots are applied or passed over.
async fn is_exact(app: &App, posted: &Posted) {
    let stream = entries(app, posted).await;
    let (mut live, mut ends) = (Answer::default(), 0);
    for (seq, (id, name, data)) in stream.iter().enumerate() {
        assert_eq!(id, &format!("1-{seq}"), "{stream:?}");
        let name: rill::domain::EventName = name.parse().expect("a name");
        ends += usize::from(name.is_terminal());
        let event = Event::decode(name, data.as_bytes()).expect("its data fits its name");
        match &event {
            Event::Snapshot(snapshot) => assert_eq!(snapshot, &live, "{id}"),
            event => live.apply(event),
        }
    }
    assert_eq!(stream.first().expect("events").1, "started");
    assert_eq!((ends, stream.last().expect("events").1.as_str()), (1, "done"), "{stream:?}");
    assert_eq!(live, app.stored(posted).await);
}

const ONCE: Expected = Expected { end: "done", attempts: 1, failures: 0, calls: 1..=1, letters: 0 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_cut_in_the_middle_or_before_its_reply_is_there_once() {
    type Is = fn(&str) -> bool;
    let started: Is = |text| text.contains(" 1-0 e started ");
    let delta: Is = |text| text.contains(" 1-3 e ");
    let complete: Is = |text| text.contains(" e complete ");
    // The second half of the pipeline with the delta.
    let hint: Is = |text| text.starts_with("PUBLISH") && text.ends_with(" 1-3");
    let stages = Stages::default();
    let mut cases = Vec::new();
    for (name, is_it) in
        [("started", started), ("delta", delta), ("complete", complete), ("end", is_terminal)]
    {
        for freeze in [Freeze::Midway, Freeze::After] {
            cases.push((format!("{name} cut {freeze:?}"), cut(&stages, freeze, is_it)));
        }
    }
    cases.push(("delta appended, its hint cut".to_owned(), cut(&stages, Freeze::Before, hint)));
    cases.push((
        "delta appended, its hint cut midway".to_owned(),
        cut(&stages, Freeze::Midway, hint),
    ));
    play(cases).await;
}

async fn cut(stages: &Stages, freeze: Freeze, is_it: fn(&str) -> bool) {
    let mut stage = stages.set(&[]).await;
    let posted = stage.app.say("[[tokens=40]] [[rate=200]] [[reasoning=5]]").await;
    let trap = stage.redis.trap(freeze, is_it);
    let mut reader = stage.app.reader(&posted);
    let cutting = async {
        stage.start_under_fault();
        trap.sprung().await;
        stage.strike(Fault::Cut);
    };
    tokio::join!(reader.follow([]), cutting);
    stage.ended_well(&posted, &reader, &ONCE).await;
    is_exact(&stage.app, &posted).await;
    stages.clear(stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_refused_for_want_of_memory_comes_between_its_neighbours() {
    let redis = PrivateRedis::start_with(&[], &[]).await;
    let app = App::builder().redis(redis.url()).start().await;
    let posted = app.say("[[tokens=150]] [[rate=100]]").await;
    let mut reader = app.reader(&posted);
    let starving = async {
        let mut first = app.reader(&posted);
        first.connect(crate::support::Cut::AfterEvents(5)).await.expect("connects");
        memory(&app, "1").await;
        let refused = app.workers[0].logged("an append is not confirmed").await;
        assert!(refused.contains("OOM"), "{refused}");
        memory(&app, "0").await;
    };
    tokio::join!(reader.follow([]), starving);
    ended_well(&app, &posted, &reader, &ONCE).await;
    is_exact(&app, &posted).await;
}

async fn memory(app: &App, limit: &str) {
    let mut command = redis::cmd("CONFIG");
    command.arg("SET").arg("maxmemory").arg(limit);
    let _: () = command.query_async(&mut app.redis().await).await.expect("CONFIG SET");
}
