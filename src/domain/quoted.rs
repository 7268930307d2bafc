//! Other people's text in our own messages.

/// Bytes of it that are repeated.
const LONGEST: usize = 100;

/// A text as it is quoted in a message: its control characters escaped, and no more
/// than its beginning.
pub fn quoted(text: &str) -> String {
    if text.len() <= LONGEST {
        return format!("{text:?}");
    }
    let end = (0..=LONGEST).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{:?}… ({} bytes)", &text[..end], text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_and_a_control_character_escaped() {
        assert_eq!(quoted("a\u{1b}\n"), r#""a\u{1b}\n""#);
        let long = quoted(&"é".repeat(1_000));
        assert!(long.ends_with("é\"… (2000 bytes)") && long.len() < 150, "{long}");
    }
}
