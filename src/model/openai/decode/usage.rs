//! Tokens counted, as servers tell it: once, with each chunk, or in parts.

use crate::domain::Usage;

/// The counts of one chunk.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) prompt: Option<u64>,
    pub(super) completion: Option<u64>,
    pub(super) total: Option<u64>,
}

impl Counts {
    /// What is larger counts: counts only grow, and an empty usage behind a real
    /// one, or one that has only the other half, takes nothing away.
    fn and(self, more: Self) -> Self {
        Self {
            prompt: self.prompt.max(more.prompt),
            completion: self.completion.max(more.completion),
            total: self.total.max(more.total),
        }
    }

    fn usage(self) -> Option<Usage> {
        let prompt_tokens = self.prompt.unwrap_or_default();
        let completion_tokens = self.completion.unwrap_or_default();
        let both = prompt_tokens.saturating_add(completion_tokens);
        let total_tokens = self.total.unwrap_or_default().max(both);
        // No answer costs nothing: the server doesn't say.
        (total_tokens > 0).then_some(Usage { prompt_tokens, completion_tokens, total_tokens })
    }
}

/// The counts of an answer so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: Counts,
}

impl Tally {
    /// The usage, if `counts` change it.
    pub(super) fn add(&mut self, counts: Counts) -> Option<Usage> {
        let before = self.counts;
        self.counts = before.and(counts);
        if self.counts == before { None } else { self.counts.usage() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_put_together_and_none_takes_another_away() {
        let mut tally = Tally::default();
        let counts = |prompt, completion, total| Counts { prompt, completion, total };
        let mut add = |counts| {
            tally.add(counts).map(|u| (u.prompt_tokens, u.completion_tokens, u.total_tokens))
        };
        assert_eq!(add(counts(None, None, None)), None);
        assert_eq!(add(counts(Some(12), None, None)), Some((12, 0, 12)));
        assert_eq!(add(counts(None, Some(2), None)), Some((12, 2, 14)));
        assert_eq!(add(counts(None, None, None)), None);
        assert_eq!(add(counts(Some(0), Some(0), Some(0))), Some((12, 2, 14)));
        assert_eq!(add(counts(Some(12), Some(3), Some(20))), Some((12, 3, 20)));
    }
}
