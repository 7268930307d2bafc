//! JSON that is one line to everybody.
//!
//! JSON escapes the ASCII line breaks, and leaves U+2028, U+2029 and U+0085 as they
//! are. Python's `str.splitlines`, by which clients split event streams, breaks lines
//! at these too: they are escaped as well.

use std::io;

use memchr::memchr2;
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{CompactFormatter, Formatter};

/// Writes `value` in one line.
///
/// # Errors
/// As `serde_json::to_writer`.
pub(super) fn write(
    out: &mut Vec<u8>,
    value: &(impl Serialize + ?Sized),
) -> serde_json::Result<()> {
    value.serialize(&mut Serializer::with_formatter(out, OneLine))
}

/// As [`write`] does, with the plain formatter where that does: each token goes
/// through here, and few have a byte that such a character begins with.
pub(super) fn write_text(out: &mut Vec<u8>, text: &str) -> serde_json::Result<()> {
    match first(text) {
        None => serde_json::to_writer(out, text),
        Some(_) => write(out, text),
    }
}

/// Where a character may begin that is escaped.
fn first(text: &str) -> Option<usize> {
    memchr2(0xe2, 0xc2, text.as_bytes())
}

struct OneLine;

impl Formatter for OneLine {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        let mut from = 0;
        while let Some(at) = memchr2(0xe2, 0xc2, &rest.as_bytes()[from..]) {
            let at = from + at;
            let (length, escape) = match rest.as_bytes()[at..] {
                [0xe2, 0x80, 0xa8, ..] => (3, "\\u2028"),
                [0xe2, 0x80, 0xa9, ..] => (3, "\\u2029"),
                [0xc2, 0x85, ..] => (2, "\\u0085"),
                _ => {
                    from = at + 1;
                    continue;
                }
            };
            CompactFormatter.write_string_fragment(out, &rest[..at])?;
            out.write_all(escape.as_bytes())?;
            rest = &rest[at + length..];
            from = 0;
        }
        CompactFormatter.write_string_fragment(out, rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        write_text(&mut out, text).expect("JSON");
        String::from_utf8(out).expect("UTF-8")
    }

    /// What Python's `str.splitlines` breaks lines at.
    const BREAKS: [char; 10] = [
        '\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}',
        '\u{2029}',
    ];

    proptest! {
        #[test]
        fn any_text_is_one_line_to_everybody_and_reads_back(
            pieces in prop::collection::vec(
                prop_oneof![
                    any::<String>(),
                    prop::sample::select(BREAKS.to_vec()).prop_map(String::from),
                    // Neighbours of those that are escaped.
                    prop::sample::select(vec!["\u{84}", "\u{86}", "\u{2027}", "\u{202a}", "’", "€", "\\u2028"])
                        .prop_map(str::to_owned),
                ],
                0..8,
            )
        ) {
            let text = pieces.concat();
            let json = written(&text);
            prop_assert!(!json.contains(BREAKS), "{json}");
            prop_assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), text);
        }
    }

    #[test]
    fn only_line_breaks_are_written_otherwise() {
        assert_eq!(written("a\u{2028}b\u{2029}\u{85}c"), r#""a\u2028b\u2029\u0085c""#);
        for text in ["", "plain", "\"\\\n\u{7f}", "«é» ’€ \u{2027}\u{202a}\u{84} 你好 🌊"]
        {
            assert_eq!(written(text), serde_json::to_string(text).expect("JSON"));
        }
    }
}
