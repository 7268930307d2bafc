//! How often each prompt was asked, so that failures can befall the first
//! calls only, and tests can tell how often the model was called.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::text::hash;

/// Prompts remembered; beyond that the oldest are forgotten.
const REMEMBERED: usize = 10_000;

/// Characters of a prompt that `/stats` shows.
const SHOWN: usize = 200;

/// Counters of one simulator, since it started.
#[derive(Debug, Default)]
pub(super) struct Calls {
    total: AtomicU64,
    prompts: Mutex<Prompts>,
}

#[derive(Debug, Default)]
struct Prompts {
    by_hash: HashMap<u64, Asked>,
    oldest_first: VecDeque<u64>,
}

/// One prompt, and how often it was asked.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Asked {
    /// The prompt's beginning.
    prompt: String,
    /// Calls, failed ones included.
    calls: u64,
}

impl Calls {
    /// Counts a call; the answer is which of its prompt's calls it is, from 1.
    pub(super) fn count(&self, prompt: &str) -> u64 {
        self.total.fetch_add(1, Ordering::Relaxed);
        let hash = hash(prompt);
        let mut guard = self.lock();
        let prompts = &mut *guard;
        if let Some(asked) = prompts.by_hash.get_mut(&hash) {
            asked.calls += 1;
            return asked.calls;
        }
        if prompts.oldest_first.len() >= REMEMBERED
            && let Some(oldest) = prompts.oldest_first.pop_front()
        {
            prompts.by_hash.remove(&oldest);
        }
        prompts.oldest_first.push_back(hash);
        let asked = Asked { prompt: prompt.chars().take(SHOWN).collect(), calls: 1 };
        prompts.by_hash.insert(hash, asked);
        1
    }

    /// All calls so far.
    pub(super) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Prompts that contain `part` (in what is shown of them), oldest first.
    pub(super) fn prompts(&self, part: &str) -> Vec<Asked> {
        let prompts = self.lock();
        let all = prompts.oldest_first.iter().filter_map(|hash| prompts.by_hash.get(hash));
        all.filter(|asked| asked.prompt.contains(part)).cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Prompts> {
        // Counters stay usable, whatever panicked while holding them.
        crate::sync::lock(&self.prompts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_prompt_has_its_own_count() {
        let calls = Calls::default();
        assert_eq!((calls.count("a"), calls.count("b"), calls.count("a")), (1, 1, 2));
        assert_eq!(calls.total(), 3);
        let shown: Vec<_> = calls.prompts("").into_iter().map(|p| (p.prompt, p.calls)).collect();
        assert_eq!(shown, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    }

    #[test]
    fn old_prompts_are_forgotten() {
        let calls = Calls::default();
        for n in 0..=REMEMBERED {
            calls.count(&n.to_string());
        }
        assert_eq!(calls.prompts("").len(), REMEMBERED);
        assert_eq!(calls.count("0"), 1);
        assert_eq!(calls.count(&REMEMBERED.to_string()), 2);
    }
}
