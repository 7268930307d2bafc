//! The tests' own client against the HTML standard's grammar.
//!
//! Every other test believes what its client reads. (`src/api/stream.rs` holds
//! what the server writes against the same grammar.)

#[path = "support/sse_grammar.rs"]
mod sse_grammar;

use proptest::collection::vec;
use proptest::prelude::*;

use self::sse_grammar::{decode, decode_prefix};
use crate::support::SseParser;

fn any_piece() -> impl Strategy<Value = String> {
    let known = ["data", "event", "id", "retry", "dat", "data data"];
    prop_oneof![
        3 => prop::sample::select(vec!["\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n"]).prop_map(str::to_owned),
        3 => prop::sample::select(known.to_vec()).prop_map(str::to_owned),
        2 => prop::sample::select(vec![":", ": ", ":  ", " ", "\0", "7"]).prop_map(str::to_owned),
        1 => "[ -~]{0,6}",
        1 => any::<String>(),
        2 => (prop::sample::select(known.to_vec()), "[a-z0-9 \u{feff}\u{2028}é😀]{0,6}").prop_map(|(name, value)| format!("{name}: {value}\n")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_byte_parser_reads_any_stream_in_any_pieces_as_the_grammar_does(
        pieces in vec(any_piece(), 0..24),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let stream = pieces.concat();
        // The parser leaves decoding, and with it the BOM, to others.
        prop_assume!(!stream.starts_with('\u{feff}'));
        let bytes = stream.as_bytes();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut parser = SseParser::default();
        let parsed: Vec<_> =
            cuts.windows(2).flat_map(|cut| parser.feed(&bytes[cut[0]..cut[1]])).collect();
        let (decoded, rest) = decode_prefix(bytes);
        let parsed: Vec<_> = parsed.into_iter().map(|sse| (sse.id, sse.event, sse.data)).collect();
        let expected: Vec<_> =
            decoded.events.into_iter().map(|sse| (sse.id, sse.event, sse.data)).collect();
        prop_assert_eq!(parsed, expected);
        if rest.is_empty() {
            prop_assert_eq!(parser.comments, decoded.comments);
        }
    }
}

#[test]
fn the_grammar_reads_the_standard_s_own_examples() {
    let read = |stream: &str| -> Vec<_> {
        let decoded = decode(stream.as_bytes()).expect("in the grammar");
        decoded.events.into_iter().map(|sse| (sse.id, sse.event, sse.data)).collect()
    };
    let event =
        |id: &str, event: &str, data: &str| (id.to_owned(), event.to_owned(), data.to_owned());
    let lines = "data: YHOO\ndata: +2\ndata: 10\n\n";
    assert_eq!(read(lines), [event("", "", "YHOO\n+2\n10")]);
    let blocks = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
    let third = [
        event("1", "", "first event"),
        event("", "", "second event"),
        event("", "", " third event"),
    ];
    assert_eq!(read(blocks), third);
    assert_eq!(read("data\n\ndata\ndata\n\n"), [event("", "", ""), event("", "", "\n")]);
    // What is cut is not dispatched.
    assert_eq!(decode(b"data\n\ndata\ndata\n\ndata:"), None);
    assert_eq!(
        read("data:test\n\ndata: test\r\n\r\n"),
        [event("", "", "test"), event("", "", "test")]
    );
    assert_eq!(
        decode("\u{feff}retry: 10\nretry: +5\n\n".as_bytes()).and_then(|d| d.retry),
        Some(10)
    );
}
