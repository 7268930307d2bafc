//! What is wrong with a body, place by place: a bounded number of places, in
//! bounded words. Both may be the caller's own text, and long.

use poem_openapi::Object;

/// Errors of one body that are named; the others are counted.
const MAX_ERRORS: usize = 20;
/// Bytes of a pointer, about.
const POINTER: usize = 400;
/// Bytes of one of its steps, about.
const STEP: usize = 100;
/// Bytes of a detail, about.
const DETAIL: usize = 1_000;

/// One thing that is wrong with a body.
#[derive(Debug, Clone, PartialEq, Eq, Object)]
pub(super) struct FieldError {
    /// Where: a JSON Pointer (RFC 6901) into the body. A long one is shortened, with
    /// `…(<n> bytes left out)…` in the place of what is missing.
    pub(super) pointer: String,
    /// What is wrong there, and what would be right.
    pub(super) detail: String,
}

impl FieldError {
    pub(super) fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: shorten(pointer.into(), POINTER), detail: shorten(detail.into(), DETAIL) }
    }
}

/// The first errors of a body, and how many more there are.
#[derive(Debug, Default)]
pub(super) struct FieldErrors {
    first: Vec<FieldError>,
    more: usize,
}

impl FieldErrors {
    /// Adds an error, which is only made if it is one of the first.
    pub(super) fn add(&mut self, error: impl FnOnce() -> FieldError) {
        if self.first.len() < MAX_ERRORS {
            self.first.push(error());
        } else {
            self.more += 1;
        }
    }

    /// Adds an error whose words are short.
    pub(super) fn push(&mut self, error: FieldError) {
        self.add(|| error);
    }

    pub(super) fn append(&mut self, others: Self) {
        others.first.into_iter().for_each(|error| self.push(error));
        self.more += others.more;
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// The first errors, and the number of the others.
    pub(super) fn into_parts(self) -> (Vec<FieldError>, usize) {
        (self.first, self.more)
    }

    /// The first errors.
    pub(super) fn first(&self) -> &[FieldError] {
        &self.first
    }

    /// The number of the others.
    pub(super) const fn more(&self) -> usize {
        self.more
    }
}

impl From<FieldError> for FieldErrors {
    fn from(error: FieldError) -> Self {
        Self { first: vec![error], more: 0 }
    }
}

/// A JSON Pointer in the making.
#[derive(Debug, Default)]
pub(super) struct Pointer(String);

impl Pointer {
    /// Adds a reference token.
    pub(super) fn push(&mut self, token: &str) {
        self.0.push('/');
        if token.len() > STEP {
            self.0.push_str(&escape(&shorten(token.to_owned(), STEP)));
        } else {
            self.0.push_str(&escape(token));
        }
    }
}

fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

impl From<Pointer> for String {
    fn from(pointer: Pointer) -> Self {
        pointer.0
    }
}

/// The beginning and the end of a text that has more than `bytes`, and how much is
/// missing between them.
pub(super) fn shorten(text: String, bytes: usize) -> String {
    if text.len() <= bytes {
        return text;
    }
    let boundary = |at: &usize| text.is_char_boundary(*at);
    let start = (0..=bytes / 4 * 3).rev().find(boundary).unwrap_or(0);
    let end = (text.len() - bytes / 4..).find(boundary).unwrap_or(text.len());
    format!("{}…({} bytes left out)…{}", &text[..start], end - start, &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_shortened_and_says_so() {
        assert_eq!(shorten("a".repeat(8), 8), "aaaaaaaa");
        assert_eq!(shorten("abcdefghijkl".to_owned(), 8), "abcdef…(4 bytes left out)…kl");
        let text = shorten("é".repeat(100_000), 1_000);
        assert!(text.len() < 1_100 && text.contains("bytes left out"), "{text}");
        let mut pointer = Pointer::default();
        for _ in 0..127 {
            pointer.push(&"/".repeat(10_000));
        }
        pointer.push("17");
        let error = FieldError::new(pointer, "x".repeat(10_000));
        assert!(error.pointer.len() < POINTER + 60, "{}", error.pointer);
        assert!(error.pointer.ends_with("/17"), "{}", error.pointer);
        assert!(error.detail.len() < DETAIL + 60);
    }

    #[test]
    fn errors_beyond_the_first_are_not_even_made() {
        let mut errors = FieldErrors::default();
        let mut made = 0;
        for _ in 0..50 {
            errors.add(|| {
                made += 1;
                FieldError::new("", "x")
            });
        }
        assert_eq!((made, errors.first().len(), errors.more()), (20, 20, 30));
        let mut others = FieldErrors::from(FieldError::new("/a", "y"));
        others.append(errors);
        assert_eq!((others.first().len(), others.more()), (20, 31));
    }
}
