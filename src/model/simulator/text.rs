//! Words without meaning, the same for the same seed on every machine and in
//! every version: a little Markdown, emoji and line breaks, as models write.

use std::borrow::Cow;

const OPENING: [&str; 8] =
    ["I", " am", " a", " simulator;", " these", " words", " mean", " nothing."];

const WORDS: [&str; 64] = [
    "stream", "river", "token", "quiet", "water", "stone", "light", "slow", "bright", "morning",
    "paper", "garden", "window", "the", "a", "and", "with", "under", "over", "between", "small",
    "large", "letter", "answer", "question", "carries", "follows", "finds", "keeps", "turns",
    "opens", "waits", "for", "every", "another", "naïve", "café", "über", "path", "branch", "root",
    "leaf", "signal", "clock", "harbour", "train", "bridge", "mountain", "field", "winter", "it",
    "is", "was", "never", "always", "often", "reads", "writes", "returns", "begins", "near", "far",
    "from", "to",
];

const EMOJI: [&str; 6] = ["🌊", "🚀", "✨", "👩‍🚀", "🇪🇺", "✅"];

/// SplitMix64: small, and ours, so that no update of a library changes texts.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// Depends on both the seed and the prompt.
    pub(super) fn new(seed: u64, prompt: &str) -> Self {
        Self(seed ^ hash(prompt))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from[self.next() as usize % from.len()]
    }
}

/// FNV-1a: stable, and good enough to tell prompts apart.
pub(super) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// The `count` tokens of an answer: words with the space or line break before.
pub(super) fn answer(random: Random, count: usize) -> impl Iterator<Item = Cow<'static, str>> {
    let prose = Prose { random, words: 0, sentences: 0, list: false };
    OPENING.into_iter().map(Cow::Borrowed).chain(prose).take(count)
}

/// The `count` tokens of a train of thought.
pub(super) fn reasoning(
    mut random: Random,
    count: usize,
) -> impl Iterator<Item = Cow<'static, str>> {
    (0..count).map(move |n| match (n, random.pick(&WORDS)) {
        (0, _) => Cow::Borrowed("Hmm,"),
        (_, word) => Cow::Owned(format!(" {word}")),
    })
}

/// Sentences in paragraphs and lists, without end.
struct Prose {
    random: Random,
    /// Words left in this sentence.
    words: u64,
    /// Sentences left in this paragraph, or lines in this list.
    sentences: u64,
    list: bool,
}

impl Iterator for Prose {
    type Item = Cow<'static, str>;

    fn next(&mut self) -> Option<Self::Item> {
        let word = self.random.pick(&WORDS);
        if self.words > 1 {
            self.words -= 1;
            return Some(Cow::Owned(match (self.words, self.random.below(40)) {
                (1, 0..4) => format!(" {word}! {}", self.random.pick(&EMOJI)),
                (1, _) => format!(" {word}."),
                (_, 0..2) => format!(" **{word}**"),
                (_, 2) => format!(" `{word}`"),
                (_, 4..7) => format!(" {word},"),
                _ => format!(" {word}"),
            }));
        }
        // A new sentence.
        self.words = 5 + self.random.below(9);
        let before = if self.sentences > 0 {
            self.sentences -= 1;
            if self.list { "\n- " } else { " " }
        } else {
            self.list = self.random.below(4) == 0;
            self.sentences = 1 + self.random.below(4);
            if self.list { "\n\n- " } else { "\n\n" }
        };
        let mut letters = word.chars();
        let first = letters.next().into_iter().flat_map(char::to_uppercase);
        Some(Cow::Owned(before.chars().chain(first).chain(letters).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seed: u64, prompt: &str, count: usize) -> String {
        answer(Random::new(seed, prompt), count).collect()
    }

    #[test]
    fn the_same_seed_and_prompt_give_the_same_text() {
        assert_eq!(text(1, "a", 500), text(1, "a", 500));
        assert_ne!(text(1, "a", 500), text(2, "a", 500));
        assert_ne!(text(1, "a", 500), text(1, "b", 500));
    }

    #[test]
    fn texts_are_as_long_as_asked_and_have_what_models_write() {
        assert_eq!(answer(Random::new(1, ""), 0).count(), 0);
        assert_eq!(answer(Random::new(1, ""), 777).count(), 777);
        let text = text(1, "", 2000);
        for mark in ["\n\n", "\n- ", "**", "`", ". "] {
            assert!(text.contains(mark), "{mark:?} in {text}");
        }
        assert!(EMOJI.iter().any(|emoji| text.contains(emoji)));
    }
}
