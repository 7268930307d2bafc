//! Promise 2: a reader sees one attempt, whole and in order, byte for byte.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::in_both_modes;
use crate::support::{App, Builder, Cut};

/// One answer and how its viewers are cut.
#[derive(Debug, Clone)]
struct Case {
    text: String,
    /// Characters of one piece of the model's.
    chunk: usize,
    /// Pieces a second.
    rate: usize,
    viewers: Vec<Vec<Cut>>,
}

fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-z ]{1,12}",
        Just("\u{1f600}\u{1f468}\u{200d}\u{1f469}".to_owned()),
        Just("\n".to_owned()),
        Just("\r".to_owned()),
        Just("\r\n\r\n".to_owned()),
        Just("data: x\nid: 9-9\n\n".to_owned()),
        Just("\"quotes\" and \\ 'these'".to_owned()),
        Just("\u{2028}\u{feff}\u{7f}\t".to_owned()),
        any::<char>().prop_filter("no U+0000", |c| *c != '\0').prop_map(String::from),
    ];
    proptest::collection::vec(piece, 1..60).prop_map(|pieces| pieces.concat())
}

fn any_cut() -> impl Strategy<Value = Cut> {
    prop_oneof![
        3 => (0usize..1500).prop_map(Cut::AfterBytes),
        1 => (1usize..12).prop_map(Cut::AfterEvents),
    ]
}

fn any_case() -> impl Strategy<Value = Case> {
    let viewers = proptest::collection::vec(proptest::collection::vec(any_cut(), 0..8), 1..=5);
    (any_text(), 1usize..9, prop_oneof![Just(0usize), 100usize..2000], viewers)
        .prop_map(|(text, chunk, rate, viewers)| Case { text, chunk, rate, viewers })
}

async fn check(app: &App, case: &Case) -> Result<(), String> {
    let Case { text, chunk, rate, viewers } = case;
    let posted = app.say(&format!("[[echo]] [[chunk={chunk}]] [[rate={rate}]]{text}")).await;
    let readers = viewers.iter().map(|cuts| {
        let mut reader = app.reader(&posted);
        async move {
            reader.follow(cuts.clone()).await;
            reader
        }
    });
    let readers = futures_util::future::join_all(readers).await;
    let stored = app.stored(&posted).await;
    if stored.text != *text {
        return Err(format!("PostgreSQL has {:?} of {text:?}", stored.text));
    }
    for reader in readers {
        if reader.answer != stored {
            return Err(format!(
                "a reader has {:?} of {text:?}: {:?}",
                reader.answer.text, reader.events
            ));
        }
    }
    Ok(())
}

in_both_modes! {
    /// At least 200 random cut patterns over both modes of reading each, 1 to 5
    /// viewers, cut in the middle of bytes as well as between events.
    async fn a_reader_cut_at_random_places_sees_the_exact_answer(builder: Builder) {
        let app = Arc::new(builder.start().await);
        let mut runner = TestRunner::default();
        let cases: Vec<_> = (0..200)
            .map(|_| any_case().new_tree(&mut runner).expect("a case").current())
            .collect();
        let failures: Vec<_> = stream::iter(cases)
            .map(|case| {
                let app = app.clone();
                async move { check(&app, &case).await.map_err(|why| format!("{why}\n{case:?}")) }
            })
            .buffer_unordered(8)
            .filter_map(|outcome| async move { outcome.err() })
            .collect()
            .await;
        assert!(failures.is_empty(), "{} of 200 failed; the first: {}", failures.len(), failures[0]);
    }

    async fn chunks_of_one_byte_and_of_100_kib_arrive_whole(builder: Builder) {
        let app = builder.start().await;
        let small = app.say("[[echo]] [[chunk=1]] [[rate=0]]short text, piece by piece, one byte each").await;
        let large = "0123456789abcdef\u{e9}\u{1f600}\n\r\"".repeat(100 * 1024 / 25);
        // A body of 256 KiB takes it; the model sends it in two pieces.
        let big = app.say(&format!("[[echo]] [[chunk=90000]] [[rate=20]]{large}")).await;
        for posted in [&small, &big] {
            let mut reader = app.reader(posted);
            reader.follow([Cut::AfterBytes(700), Cut::AfterBytes(60_000), Cut::AfterBytes(1)]).await;
            assert_eq!(reader.answer, app.stored(posted).await);
        }
        assert_eq!(app.stored(&big).await.text, large);
    }
}
