//! The benches' client is only worth something if it notices what goes wrong,
//! and nothing else.

#[allow(dead_code)]
#[path = "../../benches/load/events.rs"]
mod events;
#[allow(dead_code)]
#[path = "../../benches/load/response.rs"]
mod response;
#[allow(dead_code)]
#[path = "../../benches/load/tokens.rs"]
mod tokens;

use events::{Line, Lines, Name};
use response::{Part, Response};
use tokens::{Kind, Order};

/// What of a body arrives, in pieces of `size` bytes; whether its end did.
fn body(response: &[u8], size: usize) -> (Vec<u8>, bool) {
    let (mut reading, mut body) = (Response::new(), Vec::new());
    for mut piece in response.chunks(size) {
        loop {
            match reading.next(&mut piece).expect("HTTP") {
                Part::Head(status) => assert_eq!(status, 200),
                Part::Data(data) => body.extend_from_slice(data),
                Part::More => break,
                Part::End => return (body, true),
            }
        }
    }
    (body, false)
}

#[test]
fn a_response_reads_the_same_wherever_it_is_cut() {
    let response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                     5\r\nid: 1\r\n19;x=y\r\n\ndata: {\"text\":\"0@1 1@2 \"\r\n3\r\n}\n\n\r\n0\r\n\r\n";
    let whole = b"id: 1\ndata: {\"text\":\"0@1 1@2 \"}\n\n".to_vec();
    for size in 1..=response.len() {
        assert_eq!(body(response, size), (whole.clone(), true), "{size}");
    }
    assert!(!body(&response[..response.len() - 7], 9).1);
}

#[test]
fn a_response_that_is_none_is_refused() {
    for odd in ["hello\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"] {
        assert!(Response::new().next(&mut odd.as_bytes()).is_err(), "{odd}");
    }
    let chunk = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxy\r\n";
    let (mut reading, mut rest) = (Response::new(), &chunk[..]);
    assert_eq!(reading.next(&mut rest).expect("a head"), Part::Head(200));
    assert!(reading.next(&mut rest).is_err());
}

#[test]
fn lines_are_whole_wherever_they_are_cut() {
    let text = b"id: 1-7\nevent: delta\ndata: a\n\n:\n\nevent: done\r\ndata: b\n\n";
    for size in 1..=text.len() {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        for piece in text.chunks(size) {
            lines.feed(piece, |line| {
                seen.push(match Line::read(line) {
                    Line::Id(id) => format!("id {}", String::from_utf8_lossy(id)),
                    Line::Data(data) => format!("data {}", String::from_utf8_lossy(data)),
                    Line::Name(Name::Text) => "text".to_owned(),
                    Line::Name(Name::Done) => "done".to_owned(),
                    other => format!("{other:?}"),
                });
                true
            });
        }
        let expected = ["id 1-7", "text", "data a", "End", "Other", "End", "done", "data b", "End"];
        assert_eq!(seen, expected, "{size}");
    }
}

#[test]
fn tokens_are_found_in_any_text() {
    let find = |text: &str| tokens::find(text.as_bytes()).collect::<Vec<_>>();
    assert_eq!(
        find(r#"{"text":"7@1789000000000000 8@17 "}"#),
        [(7, 1_789_000_000_000_000), (8, 17)]
    );
    assert_eq!(find("a@b @1 2@ x3@4"), [(3, 4)]);
    assert_eq!(find(""), []);
}

#[test]
fn what_is_lost_doubled_or_misplaced_is_noticed() {
    let see = |from: u64, seen: &[u64]| {
        let mut order = Order::from(from);
        let kinds: Vec<_> = seen.iter().map(|&n| order.see(n)).collect();
        let count = |kind| kinds.iter().filter(|&&seen| seen == kind).count();
        (count(Kind::Doubled), count(Kind::Misplaced), order.lost(5))
    };
    assert_eq!(see(0, &[0, 1, 2, 3, 4]), (0, 0, 0));
    assert_eq!(see(2, &[2, 3, 4]), (0, 0, 0));
    assert_eq!(see(0, &[0, 1, 1, 2, 3, 4]), (1, 0, 0));
    assert_eq!(see(2, &[1, 2, 3, 4]), (1, 0, 0));
    assert_eq!(see(0, &[0, 2, 1, 3, 4]), (0, 1, 0));
    assert_eq!(see(0, &[0, 2, 3]), (0, 0, 2));
    assert_eq!(see(0, &[]), (0, 0, 5));
}
