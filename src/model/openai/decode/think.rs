//! Reasoning between `<think>` and `</think>` in the text, for models whose server
//! leaves it there.
//!
//! Off unless a profile says otherwise: an answer may be about those tags. Only
//! tags at an answer's beginning count, and white space around them is no text.

use std::str::FromStr;

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// White space that is held back, at most: some models write it for ever.
const MOST_HELD: usize = 4096;

/// Whether tags in the text mean reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ThinkTags {
    /// They are text.
    #[default]
    Off,
    /// An answer that begins with `<think>` begins with reasoning.
    On,
    /// Every answer begins with reasoning: the model's template has opened the tag.
    Implied,
}

impl FromStr for ThinkTags {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "on" => Ok(Self::On),
            "implied" => Ok(Self::Implied),
            _ => Err("off, on or implied"),
        }
    }
}

/// Tells reasoning from text, however the tags are cut.
#[derive(Debug)]
pub(super) struct ThinkSplitter {
    place: Place,
    /// What may be the beginning of a tag, or white space beside one.
    held: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing but white space came.
    Beginning,
    /// The tag was just opened.
    Opened,
    Inside,
    /// The tag was just closed.
    Closed,
    Outside,
}

/// Text, by what it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Reasoning(String),
    Text(String),
}

impl ThinkSplitter {
    pub(super) fn new(tags: ThinkTags) -> Self {
        let place = match tags {
            ThinkTags::Off => Place::Outside,
            ThinkTags::On => Place::Beginning,
            ThinkTags::Implied => Place::Opened,
        };
        Self { place, held: String::new() }
    }

    pub(super) fn push(&mut self, text: String, mut out: impl FnMut(Part)) {
        if self.place == Place::Outside {
            return out(Part::Text(text));
        }
        self.held.push_str(&text);
        loop {
            let before = self.place;
            self.step(&mut out);
            if self.place == before {
                return;
            }
        }
    }

    /// What was held back.
    pub(super) fn finish(&mut self) -> Option<Part> {
        let held = std::mem::take(&mut self.held);
        match self.place {
            Place::Opened | Place::Closed if held.trim().is_empty() => None,
            _ if held.is_empty() => None,
            Place::Opened => Some(Part::Reasoning(held.trim_start().to_owned())),
            Place::Inside => Some(Part::Reasoning(held)),
            Place::Beginning | Place::Closed | Place::Outside => Some(Part::Text(held)),
        }
    }

    fn step(&mut self, out: &mut impl FnMut(Part)) {
        let trimmed = self.held.trim_start();
        match self.place {
            Place::Beginning => {
                if let Some(rest) = trimmed.strip_prefix(OPEN) {
                    self.go(Place::Opened, rest.to_owned());
                } else if !OPEN.starts_with(trimmed) || self.held.len() > MOST_HELD {
                    let text = self.go(Place::Outside, String::new());
                    out(Part::Text(text));
                }
            }
            // A template that opens the tag, and a model that does so again.
            Place::Opened if trimmed.starts_with(OPEN) => {
                let rest = trimmed[OPEN.len()..].to_owned();
                self.go(Place::Inside, rest);
            }
            Place::Opened if trimmed.is_empty() => self.held.clear(),
            Place::Opened if OPEN.starts_with(trimmed) => {}
            Place::Opened => {
                let rest = trimmed.to_owned();
                self.go(Place::Inside, rest);
            }
            Place::Inside => match self.held.split_once(CLOSE) {
                Some((reasoning, rest)) => {
                    let (reasoning, rest) = (reasoning.trim_end().to_owned(), rest.to_owned());
                    self.go(Place::Closed, rest);
                    if !reasoning.is_empty() {
                        out(Part::Reasoning(reasoning));
                    }
                }
                None => {
                    // White space before the end is none of it.
                    let kept = self.held.len() - beginning_of_tag(&self.held);
                    let text = self.held[..kept].trim_end().len();
                    let kept = if kept - text > MOST_HELD { kept } else { text };
                    let held = self.held.split_off(kept);
                    let reasoning = std::mem::replace(&mut self.held, held);
                    if !reasoning.is_empty() {
                        out(Part::Reasoning(reasoning));
                    }
                }
            },
            Place::Closed if trimmed.is_empty() => self.held.clear(),
            Place::Closed => {
                let text = trimmed.to_owned();
                self.go(Place::Outside, String::new());
                out(Part::Text(text));
            }
            Place::Outside => {}
        }
    }

    /// What was held before.
    fn go(&mut self, place: Place, held: String) -> String {
        self.place = place;
        std::mem::replace(&mut self.held, held)
    }
}

/// Bytes at the end of `text` that may become the closing tag.
fn beginning_of_tag(text: &str) -> usize {
    let longest = CLOSE.len().min(text.len());
    (1..=longest).rev().find(|&length| text.ends_with(&CLOSE[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reasoning and text.
    fn split(tags: ThinkTags, pieces: &[&str]) -> (String, String) {
        let mut splitter = ThinkSplitter::new(tags);
        let (mut reasoning, mut text) = (String::new(), String::new());
        let mut take = |part| match part {
            Part::Reasoning(more) => reasoning.push_str(&more),
            Part::Text(more) => text.push_str(&more),
        };
        for piece in pieces {
            splitter.push((*piece).to_owned(), &mut take);
        }
        splitter.finish().into_iter().for_each(take);
        (reasoning, text)
    }

    #[test]
    fn tags_at_the_beginning_mean_reasoning_where_the_profile_says_so() {
        use ThinkTags::{Implied, Off, On};
        for (tags, input, reasoning, text) in [
            (On, "<think>Hmm</think>Hello", "Hmm", "Hello"),
            (On, "\n<think>\nHmm, so\n</think>\n\nHello\n", "Hmm, so", "Hello\n"),
            (On, "Hello <think>x</think>", "", "Hello <think>x</think>"),
            (On, "<think></think>Hello", "", "Hello"),
            (On, "<think>never closed", "never closed", ""),
            (On, "<think>a</thin", "a</thin", ""),
            (On, "<thin", "", "<thin"),
            (On, " \n", "", " \n"),
            (On, "<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
            (Implied, "Hmm</think>Hello", "Hmm", "Hello"),
            (Implied, "<think>Hmm</think>Hello", "Hmm", "Hello"),
            (Off, "<think>Hmm</think>Hello", "", "<think>Hmm</think>Hello"),
        ] {
            let expected = (reasoning.to_owned(), text.to_owned());
            assert_eq!(split(tags, &[input]), expected, "{input:?}");
            let mut buffer = [0; 4];
            let chars: Vec<String> =
                input.chars().map(|char| char.encode_utf8(&mut buffer).to_owned()).collect();
            let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
            assert_eq!(split(tags, &chars), expected, "{input:?}, a character each");
        }
    }

    proptest! {
        #[test]
        fn wherever_the_text_is_cut_it_is_split_alike(
            pieces in prop::collection::vec(
                prop::sample::select(vec!["<think>", "</think>", "<", "/think>", "thi", " ", "\n", "é"]), 0..12),
        ) {
            for tags in [ThinkTags::On, ThinkTags::Implied] {
                prop_assert_eq!(split(tags, &pieces), split(tags, &[&pieces.concat()]));
            }
        }
    }
}
