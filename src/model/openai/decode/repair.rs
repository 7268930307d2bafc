//! Text that isn't Unicode, or not yet: half a surrogate pair, part of a UTF-8
//! sequence.
//!
//! Servers cut an answer's text at tokens, and a token may end within a
//! character: `"\ud83d"`, then `"\ude00"`. [`repair`] makes JSON of such a chunk,
//! in which a mark stands for each half, and a [`Joiner`] puts the halves of two
//! chunks together. What stays alone becomes U+FFFD.

use std::fmt::Write;

/// Marks begin with one of these noncharacters, which no text interchanges. (One
/// that does occur in a chunk that is repaired is marked byte by byte.)
const SURROGATE: char = '\u{fdd0}';
const BYTE: char = '\u{fdd1}';

/// What follows it says which, as a private character.
const FIRST: u32 = 0xe000;

/// JSON from bytes that may be none: U+FFFD's work is left to [`Joiner`]. Bare
/// `NaN`, `Infinity` and `-Infinity` become `null`; control characters in strings
/// are escaped. What was JSON stays as it was, but for halves of surrogate pairs.
pub(super) struct Repaired {
    pub(super) json: String,
    /// There are marks in it.
    pub(super) marked: bool,
}

pub(super) fn repair(bytes: &[u8]) -> Repaired {
    let mut out = Repaired { json: String::with_capacity(bytes.len()), marked: false };
    let mut rest = bytes;
    let mut in_string = false;
    while let Some(&byte) = rest.first() {
        let taken = match byte {
            b'"' => {
                in_string = !in_string;
                out.json.push('"');
                1
            }
            b'\\' if in_string => out.escape(rest),
            0..0x20 if in_string => {
                let _ = write!(out.json, "\\u{byte:04x}");
                1
            }
            0..0x80 if in_string => out.plain(rest),
            0..0x80 => out.bare(rest),
            _ => out.beyond_ascii(rest, in_string),
        };
        rest = &rest[taken..];
    }
    out
}

impl Repaired {
    /// Everything up to what may need a repair.
    fn plain(&mut self, rest: &[u8]) -> usize {
        let special = |byte: &u8| !matches!(byte, 0x20..0x80) || matches!(byte, b'"' | b'\\');
        let length = rest.iter().position(special).unwrap_or(rest.len()).max(1);
        self.json.extend(rest[..length].iter().map(|&byte| char::from(byte)));
        length
    }

    fn bare(&mut self, rest: &[u8]) -> usize {
        for name in ["NaN", "Infinity", "-Infinity"] {
            if rest.starts_with(name.as_bytes()) {
                self.json.push_str("null");
                return name.len();
            }
        }
        self.json.push(char::from(rest[0]));
        1
    }

    /// An escape within a string.
    fn escape(&mut self, rest: &[u8]) -> usize {
        let Some(unit) = hex(rest) else {
            let length = rest.len().min(2);
            for &byte in &rest[..length] {
                match byte {
                    0x20..0x80 => self.json.push(char::from(byte)),
                    // A backslash before what is no ASCII: left to what comes next.
                    _ => return 1,
                }
            }
            return length;
        };
        match unit {
            0xd800..0xdc00
                if hex(&rest[6..]).is_some_and(|low| (0xdc00..0xe000).contains(&low)) =>
            {
                self.json.extend(rest[..12].iter().map(|&byte| char::from(byte)));
                12
            }
            0xd800..0xe000 => {
                self.mark(SURROGATE, unit - 0xd800);
                6
            }
            0xfdd0 | 0xfdd1 => {
                let own = char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER);
                self.mark_bytes(own.encode_utf8(&mut [0; 4]).as_bytes());
                6
            }
            _ => {
                self.json.extend(rest[..6].iter().map(|&byte| char::from(byte)));
                6
            }
        }
    }

    fn beyond_ascii(&mut self, rest: &[u8], in_string: bool) -> usize {
        // A character has four bytes at most.
        let text = &rest[..rest.len().min(4)];
        let valid = match std::str::from_utf8(text) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&text[..error.valid_up_to()]).unwrap_or_default(),
        };
        match valid.chars().next() {
            Some(own @ (SURROGATE | BYTE)) if in_string => {
                self.mark_bytes(own.encode_utf8(&mut [0; 4]).as_bytes());
                own.len_utf8()
            }
            Some(char) => {
                self.json.push(char);
                char.len_utf8()
            }
            None if in_string => {
                self.mark_bytes(&rest[..1]);
                1
            }
            None => {
                self.json.push(char::REPLACEMENT_CHARACTER);
                1
            }
        }
    }

    fn mark_bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.mark(BYTE, byte.into());
        }
    }

    fn mark(&mut self, kind: char, which: u32) {
        self.marked = true;
        self.json.push(kind);
        self.json.extend(char::from_u32(FIRST + which));
    }
}

/// The code unit of a `\uXXXX` that `text` begins with.
fn hex(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Puts text together whose pieces end within characters.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    /// The bytes of a character that isn't complete; a half of a surrogate pair has
    /// the three that UTF-8 would give it.
    tail: Vec<u8>,
}

impl Joiner {
    /// The text, as far as its characters are complete. `marked`: it may have
    /// marks of [`repair`].
    pub(super) fn push(&mut self, text: String, marked: bool) -> String {
        if self.tail.is_empty() && !marked {
            return text;
        }
        let mut bytes = std::mem::take(&mut self.tail);
        unmark(&text, &mut bytes);
        let (text, tail) = decode(&bytes);
        self.tail = tail.to_vec();
        text
    }

    /// U+FFFD, if the text ends within a character.
    pub(super) fn finish(&mut self) -> Option<String> {
        let tail = std::mem::take(&mut self.tail);
        (!tail.is_empty()).then(|| char::REPLACEMENT_CHARACTER.into())
    }
}

/// Text of [`repair`] that nothing is joined to.
pub(super) fn alone(text: String, marked: bool) -> String {
    let mut joiner = Joiner::default();
    let mut text = joiner.push(text, marked);
    text.extend(joiner.finish());
    text
}

fn unmark(text: &str, bytes: &mut Vec<u8>) {
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        let mut ahead = chars.clone();
        let which = ahead.next().and_then(|next| u32::from(next).checked_sub(FIRST));
        match (char, which) {
            (SURROGATE, Some(half @ 0..0x800)) => {
                let unit = 0xd800 + half;
                let six = |shift: u32| 0x80 | (unit >> shift & 0x3f) as u8;
                bytes.extend([0xed, six(6), six(0)]);
                chars = ahead;
            }
            (BYTE, Some(byte @ 0..0x100)) => {
                bytes.push(byte as u8);
                chars = ahead;
            }
            _ => bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// The text, and the bytes at its end that may become a character.
fn decode(bytes: &[u8]) -> (String, &[u8]) {
    let mut text = String::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        let error = match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                return (text, &[]);
            }
            Err(error) => error,
        };
        let (valid, odd) = rest.split_at(error.valid_up_to());
        text.push_str(std::str::from_utf8(valid).unwrap_or_default());
        rest = match *odd {
            [0xed, 0xa0..0xb0, _] => return (text, odd),
            [0xed, high @ 0xa0..0xb0, h, 0xed, low @ 0xb0..0xc0, l, ..] => {
                let half =
                    |first: u8, second: u8| u32::from(first & 0x0f) << 6 | u32::from(second & 0x3f);
                let char = 0x1_0000 + (half(high, h) << 10) + half(low, l);
                text.extend(char::from_u32(char));
                &odd[6..]
            }
            [0xed, 0xa0..0xc0, _, ..] => {
                text.push(char::REPLACEMENT_CHARACTER);
                &odd[3..]
            }
            _ => match error.error_len() {
                None => return (text, odd),
                Some(length) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    &odd[length..]
                }
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(json: &str) -> String {
        serde_json::from_str(json).expect("a string")
    }

    /// The strings' text, put together.
    fn joined(strings: &[&[u8]]) -> String {
        let mut joiner = Joiner::default();
        let mut all = String::new();
        for bytes in strings {
            let Repaired { json, marked } = repair(bytes);
            all.push_str(&joiner.push(text(&json), marked));
        }
        all.extend(joiner.finish());
        all
    }

    #[test]
    fn halves_become_characters_and_what_stays_alone_is_replaced() {
        for (strings, expected) in [
            (&[&br#""\ud83d""#[..], br#""\ude00""#][..], "😀"),
            (&[br#""a\uD83D""#, br#""\uDE00b""#], "a😀b"),
            (&[br#""\ud83d\ude00""#], "😀"),
            (&[br#""\ud83d""#, br#""x""#], "\u{fffd}x"),
            (&[br#""\ude00""#, br#""\ud83d""#], "\u{fffd}\u{fffd}"),
            (&[br#""\ud83d""#, br#""""#, br#""\ude00""#], "😀"),
            (&[b"\"\xe6\xad\"", b"\"\x8c\""], "歌"),
            (&[b"\"\xf0\"", b"\"\x9f\"", b"\"\x98\"", b"\"\x80\""], "😀"),
            (&[b"\"x\xe6\xadz\""], "x\u{fffd}z"),
            (&[b"\"\xe6\xad\""], "\u{fffd}"),
            (&[b"\"\xff\xfe\""], "\u{fffd}\u{fffd}"),
            (&[b"\"a\tb\x01\""], "a\tb\u{1}"),
            (&["\"\u{fdd0}\u{e001}\"".as_bytes()], "\u{fdd0}\u{e001}"),
            (&["\"\\ufdd1\u{e041}\"".as_bytes()], "\u{fdd1}\u{e041}"),
        ] {
            assert_eq!(joined(strings), expected, "{strings:?}");
        }
    }

    #[test]
    fn bare_words_that_no_json_has_are_null() {
        let repaired = repair(br#"{"a":-Infinity,"b":[NaN,Infinity],"c":"NaN \" Infinity"}"#);
        assert_eq!(repaired.json, r#"{"a":null,"b":[null,null],"c":"NaN \" Infinity"}"#);
    }

    proptest! {
        #[test]
        fn what_was_json_stays_as_it_was(texts in prop::collection::vec(any::<String>(), 0..4)) {
            prop_assume!(!texts.concat().contains([SURROGATE, BYTE]));
            let json = serde_json::to_string(&texts).expect("JSON");
            let repaired = repair(json.as_bytes());
            prop_assert_eq!((repaired.json, repaired.marked), (json, false));
        }

        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let repaired = repair(&bytes);
            alone(repaired.json, repaired.marked);
        }

        #[test]
        fn text_that_is_cut_within_characters_is_put_together(
            text in any::<String>(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        ) {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.sort_unstable();
            let mut strings = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                let mut string = vec![b'"'];
                for &byte in &text.as_bytes()[from..cut] {
                    if matches!(byte, b'"' | b'\\') {
                        string.push(b'\\');
                    }
                    string.push(byte);
                }
                string.push(b'"');
                strings.push(string);
                from = cut;
            }
            let strings: Vec<&[u8]> = strings.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(joined(&strings), text);
        }
    }
}
