//! Deploys: processes that are told to stop lose nothing and charge nothing.

use std::time::Duration;

use crate::in_both_modes;
use crate::support::{App, Builder, Cut, Process};

in_both_modes! {
    async fn a_drained_worker_hands_its_tasks_over_uncharged(builder: Builder) {
        let mut app = builder.with("RILL_DRAIN_GRACE", "200ms").start().await;
        let posted = app.say("[[tokens=120]] [[rate=40]]").await;
        let mut reader = app.reader(&posted);
        reader.connect(Cut::AfterEvents(10)).await.expect("connects");
        app.start_worker();
        app.workers[1].logged("answers come from").await;
        app.workers[0].signal("TERM");
        assert!(app.workers[0].ended().await.success());
        reader.follow([]).await;
        let stored = app.stored(&posted).await;
        assert_eq!(reader.answer, stored);
        let task = app.task(&posted).await;
        assert_eq!((&task["failures"], &task["attempts"]), (&0.into(), &2.into()), "{task}");
        let workers: i64 =
            sqlx::query_scalar("SELECT count(*) FROM workers").fetch_one(&app.pool).await.expect("counts");
        assert_eq!(workers, 1);
    }

    async fn a_worker_finishes_what_fits_into_the_grace_period(builder: Builder) {
        let mut app = builder.with("RILL_DRAIN_GRACE", "20s").start().await;
        let posted = app.say("[[tokens=60]] [[rate=40]]").await;
        let mut reader = app.reader(&posted);
        reader.connect(Cut::AfterEvents(5)).await.expect("connects");
        app.workers[0].signal("TERM");
        assert!(app.workers[0].ended().await.success());
        reader.follow([]).await;
        assert_eq!(reader.end.as_ref().expect("ended").event, "done");
        assert_eq!(app.task(&posted).await["attempts"], 1);
        assert_eq!(reader.answer, app.stored(&posted).await);
    }

    async fn a_stopped_api_ends_streams_with_their_cursor_intact(builder: Builder) {
        let mut app = builder.start().await;
        let posted = app.say("[[tokens=150]] [[rate=50]]").await;
        let mut reader = app.reader(&posted);
        reader.connect(Cut::AfterEvents(5)).await.expect("connects");
        let stopping = async {
            app.api.signal("TERM");
            app.api.ended().await
        };
        // The body ends; it is not cut off in the middle of an event.
        let (status, end) = tokio::join!(reader.connect(Cut::Never), stopping);
        assert!(matches!(status, Ok(200) | Err(_)), "{status:?}");
        assert!(end.success());
        assert!(reader.end.is_none());
        let seen = reader.events.len();
        app.restart_api().await;
        let mut back = app.reader(&posted);
        back.cursor.clone_from(&reader.cursor);
        back.answer.clone_from(&reader.answer);
        back.follow([]).await;
        assert!(seen >= 5 && !back.events.iter().any(|event| event.event == "snapshot"));
        assert_eq!(back.answer, app.stored(&posted).await);
    }

    async fn a_killed_api_loses_no_reader_anything(builder: Builder) {
        let mut app = builder.start().await;
        let posted = app.say("[[tokens=100]] [[rate=50]]").await;
        let mut reader = app.reader(&posted);
        reader.connect(Cut::AfterEvents(5)).await.expect("connects");
        app.restart_api().await;
        let mut back = app.reader(&posted);
        back.cursor.clone_from(&reader.cursor);
        back.answer.clone_from(&reader.answer);
        back.follow([]).await;
        assert_eq!(back.answer, app.stored(&posted).await);
    }
}

/// Signals that come within a second are one.
async fn signal_again(process: &Process) {
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    process.signal("INT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_drain_is_told_for_what_and_how_long_and_a_second_signal_ends_it() {
    let mut app = App::builder().with("RILL_DRAIN_GRACE", "5m").start().await;
    let short = app.say("[[tokens=200]] [[rate=40]]").await;
    let long = app.say("[[tokens=100000]] [[rate=40]]").await;
    let mut reader = app.reader(&long);
    for posted in [&short, &long] {
        app.reader(posted).connect(Cut::AfterEvents(5)).await.expect("connects");
    }
    reader.connect(Cut::AfterEvents(5)).await.expect("connects");
    let worker = &app.workers[0];
    worker.signal("INT");
    worker.logged("a second signal (Ctrl-C) stops at once").await;
    let said = worker.logged("draining: waiting for 2 answers, 5m at most").await;
    assert!(said.contains("ends this at once") && said.contains("after a lease (3s)"), "{said}");
    assert_eq!(app.read(&short).await.end.expect("an end").event, "done");
    worker.logged("draining: 1 answer left, ").await;
    signal_again(worker).await;
    assert_eq!(app.workers[0].ended().await.code(), Some(130));
    // The next worker begins the answer again, and nothing of the first is left in it.
    app.start_worker();
    app.reaches(&long, "running").await;
    crate::support::eventually("another attempt", || async {
        app.task(&long).await["attempts"] == 2
    })
    .await;
    app.post(&format!("/v1/tasks/{}/cancel", long.task), serde_json::json!({})).await;
    reader.follow([]).await;
    assert_eq!(reader.answer, app.stored(&long).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_that_is_told_to_stop_says_what_becomes_of_its_readers() {
    let mut app = App::builder().workers(0).start().await;
    app.api.signal("INT");
    app.api.logged("the API accepts nobody more").await;
    assert!(app.api.ended().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_store_at_start_ends_at_the_first_signal() {
    // Accepts connections, and never says a word.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("postgres://rill@{}/rill", silent.local_addr().expect("an address"));
    for role in ["migrate", "up"] {
        let environment = [("DATABASE_URL", url.as_str()), ("RILL_LISTEN", "127.0.0.1:0")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut process = Process::start(&[role], &environment);
        let _socket = silent.accept().await.expect("a connection");
        process.signal("INT");
        assert!(!process.ended().await.success());
        assert!(process.log().contains("told to stop while"), "{role}: {}", process.log());
    }
}
