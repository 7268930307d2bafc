//! Stamped tokens, `n@micros `: each once, in order, none missing.

/// A token in a text: its number, and the microsecond (since 1970) at which the
/// model wrote it.
pub(crate) type Token = (u64, u64);

/// The tokens in a text.
pub(crate) fn find(text: &[u8]) -> impl Iterator<Item = Token> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let sign = at + text.get(at..)?.iter().position(|&byte| byte == b'@')?;
            let digits = text[..sign].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
            at = sign + 1;
            let after = text[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits > 0 && after > 0 {
                let token = (number(&text[sign - digits..sign]), number(&text[at..at + after]));
                at += after;
                return Some(token);
            }
        }
    })
}

fn number(digits: &[u8]) -> u64 {
    let value = |sum: u64, digit: &u8| sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
    digits.iter().fold(0, value)
}

/// What a token turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The one that was due, or a later one.
    New,
    /// Seen before.
    Doubled,
    /// Came after a later one.
    Misplaced,
}

/// The order of one stream's tokens.
#[derive(Debug, Default)]
pub(crate) struct Order {
    next: u64,
    /// Those before `next` that never came; normally none.
    missing: Vec<u64>,
}

impl Order {
    /// Of a reader that has seen all before `next`.
    pub(crate) fn from(next: u64) -> Self {
        Self { next, missing: Vec::new() }
    }

    pub(crate) fn see(&mut self, n: u64) -> Kind {
        if n < self.next {
            let Some(at) = self.missing.iter().position(|&missing| missing == n) else {
                return Kind::Doubled;
            };
            self.missing.swap_remove(at);
            return Kind::Misplaced;
        }
        self.missing.extend(self.next..n);
        self.next = n + 1;
        Kind::New
    }

    /// The number of the token that is due.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// How many of `tokens` are missing.
    pub(crate) fn lost(&self, tokens: u64) -> u64 {
        self.missing.len() as u64 + tokens.saturating_sub(self.next)
    }
}
