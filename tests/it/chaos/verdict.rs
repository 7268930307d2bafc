//! What went wrong for users, counted; and the text by which it shows.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How a promise can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Harm {
    /// Tokens or a whole answer are missing.
    Lost,
    /// Tokens or events came twice.
    Doubled,
    /// Tokens or events came in the wrong order.
    Reordered,
    /// Tokens of two calls of the model are in one text.
    Mixed,
    /// An accepted task has no end, or a reader was not given it.
    Stuck,
    /// More than one terminal event.
    SeveralEnds,
    /// PostgreSQL, the stream and the readers don't say the same.
    Disagreement,
    /// The protocol doesn't allow what was observed.
    Protocol,
    /// A process died by itself, or a request was refused that should not be.
    Broken,
}

/// Counted by every part of a run.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) accepted: AtomicUsize,
    pub(super) ended: AtomicUsize,
    pub(super) resumed: AtomicUsize,
    harms: Mutex<Vec<(Harm, String)>>,
}

impl Tally {
    pub(super) fn harm(&self, harm: Harm, what: impl Into<String>) {
        let what = what.into();
        eprintln!("chaos: {harm:?}: {what}");
        self.harms.lock().expect("harms").push((harm, what));
    }

    pub(super) fn count(&self, harm: Harm) -> usize {
        self.harms.lock().expect("harms").iter().filter(|(kind, _)| *kind == harm).count()
    }

    pub(super) fn harms(&self) -> Vec<String> {
        let harms = self.harms.lock().expect("harms");
        harms.iter().map(|(harm, what)| format!("{harm:?}: {what}")).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        write!(
            f,
            "accepted {}, ended {}, resumed {} times",
            load(&self.accepted),
            load(&self.ended),
            load(&self.resumed)
        )
    }
}

/// What each kind of fault did, for the table.
#[derive(Default)]
pub(super) struct Faults(Mutex<BTreeMap<String, usize>>);

impl Faults {
    pub(super) fn note(&self, fault: &super::plan::Fault) {
        let name = format!("{fault:?}");
        let kind = name.split([' ', '{']).next().unwrap_or(&name).to_owned();
        *self.0.lock().expect("faults").entry(kind).or_default() += 1;
    }

    pub(super) fn total(&self) -> usize {
        self.0.lock().expect("faults").values().sum()
    }

    pub(super) fn table(&self) -> Vec<(String, usize)> {
        let faults = self.0.lock().expect("faults");
        faults.iter().map(|(kind, count)| (kind.clone(), *count)).collect()
    }
}

/// A text of `[[numbered]]` tokens, checked as it grows: `2:0 2:1 2:2 `.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Numbered {
    /// Bytes that were checked.
    checked: usize,
    call: Option<u64>,
    next: u64,
}

impl Numbered {
    /// Checks what `text` has more than before; all of it if it is another text.
    pub(super) fn check(&mut self, text: &str, reset: bool) -> Result<(), (Harm, String)> {
        if reset || text.len() < self.checked {
            *self = Self::default();
        }
        for token in text[self.checked..].split_inclusive(' ') {
            let parsed = token.strip_suffix(' ').and_then(|token| token.split_once(':'));
            let parsed = parsed.and_then(|(call, n)| Some((call.parse().ok()?, n.parse().ok()?)));
            let Some((call, n)): Option<(u64, u64)> = parsed else {
                return Err((Harm::Disagreement, format!("{token:?} is no token")));
            };
            if *self.call.get_or_insert(call) != call {
                return Err((Harm::Mixed, format!("{token:?} after call {:?}", self.call)));
            }
            match n.cmp(&self.next) {
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Less if n + 1 == self.next => {
                    return Err((Harm::Doubled, format!("{token:?} twice")));
                }
                std::cmp::Ordering::Less => {
                    return Err((Harm::Reordered, format!("{token:?} after {}", self.next)));
                }
                std::cmp::Ordering::Greater => {
                    return Err((Harm::Lost, format!("{} to {token:?}", self.next)));
                }
            }
            self.next += 1;
            self.checked += token.len();
        }
        Ok(())
    }

    /// Tokens so far.
    pub(super) const fn tokens(&self) -> u64 {
        self.next
    }
}

#[test]
fn the_checker_sees_what_is_lost_doubled_reordered_and_mixed() {
    let check = |texts: &[&str]| {
        let mut numbered = Numbered::default();
        texts.iter().try_for_each(|text| numbered.check(text, false)).map_err(|(harm, _)| harm)
    };
    assert_eq!(check(&["1:0 ", "1:0 1:1 1:2 "]), Ok(()));
    assert_eq!(check(&["1:0 1:1 ", "3:0 "]), Ok(()));
    assert_eq!(check(&["1:0 1:2 "]), Err(Harm::Lost));
    assert_eq!(check(&["1:1 "]), Err(Harm::Lost));
    assert_eq!(check(&["1:0 1:1 ", "1:0 1:1 1:1 "]), Err(Harm::Doubled));
    assert_eq!(check(&["1:0 1:1 1:2 1:0 "]), Err(Harm::Reordered));
    assert_eq!(check(&["1:0 1:1 2:2 "]), Err(Harm::Mixed));
    assert_eq!(check(&["1:0 1"]), Err(Harm::Disagreement));
}
