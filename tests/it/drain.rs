//! Deploys: processes that are told to stop lose nothing and charge nothing.

use crate::in_both_modes;
use crate::support::{App, Builder, Cut};

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
