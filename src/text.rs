//! Text from outside, on its way to a terminal, a log line or a person: control
//! characters, bidi controls and other invisible ones are replaced.

use std::borrow::Cow;
use std::fmt::Write as _;

/// It does something else than being read: moves the cursor, begins a line, turns
/// the direction of text, or hides.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0e}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// One line: white space as blanks, anything hidden as U+FFFD.
pub fn one_line(text: &str) -> Cow<'_, str> {
    let shown = |c| match c {
        '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => ' ',
        c if is_hidden(c) => '\u{fffd}',
        c => c,
    };
    match text.contains(is_hidden) {
        true => Cow::Owned(text.chars().map(shown).collect()),
        false => Cow::Borrowed(text),
    }
}

/// Lines of ours: line breaks stay, anything else that is hidden is U+FFFD.
pub fn lines(text: &str) -> String {
    text.chars().map(|c| if c != '\n' && is_hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// JSON with everything hidden inside its strings escaped; line breaks between
/// its tokens stay.
pub fn json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || !is_hidden(c) {
            out.push(c);
            continue;
        }
        let mut units = [0; 2];
        for unit in c.encode_utf16(&mut units) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_seen_and_what_is_read_stays() {
        let hostile = "a\nb\r\u{1b}[31m\u{7f}\u{9b}\u{202e}\u{200b}\u{2066}\u{e0041}\u{feff}z";
        let line = one_line(hostile);
        assert!(!line.contains(is_hidden), "{line:?}");
        assert!(line.starts_with("a b ") && line.ends_with('z'));
        for plain in ["Grüße, 你好 🙂 «x»", "a\u{301}", ""] {
            assert_eq!(one_line(plain), plain);
        }
        assert_eq!(lines("a\nb\u{1b}"), "a\nb\u{fffd}");
        let escaped = json(&serde_json::to_string_pretty(&[hostile]).expect("JSON"));
        assert!(!escaped.chars().any(|c| c != '\n' && is_hidden(c)), "{escaped}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&escaped).expect("JSON"), [hostile]);
    }
}
