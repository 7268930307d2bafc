//! Every target on its corpus and on inputs made from it, in a second or so.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::{TARGETS, Target};

/// Inputs of each target.
const INPUTS: usize = 2000;
/// Bytes of an input, about, at most.
const LONGEST: usize = 1024;
/// What parsers stumble over.
const TOKENS: &[&[u8]] = &[
    b"\0",
    b"\n",
    b"\r\n\r\n",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\\u0000",
    b"\\ud800",
    b"\"",
    b"{",
    b"[",
    b"[[",
    b"]]",
    b"null",
    b"-",
    b"-1",
    b"0",
    b"00",
    b"18446744073709551615",
    b"18446744073709551616",
    b"4294967296",
    b"1e999",
    b"1e-320",
    b"NaN",
    b"inf",
    b":",
    b",",
    b"=",
    b"data: ",
    b"data:{}\n\n",
    b"*",
    "\u{2028}".as_bytes(),
];

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("readable")).collect()
}

/// An input of the corpus, changed in a few places.
fn changed(corpus: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut input = corpus.choose(random).cloned().unwrap_or_default();
    for _ in 0..random.random_range(1..5) {
        let at = random.random_range(0..=input.len());
        let end = random.random_range(at..=input.len().min(at + 16));
        match random.random_range(0..5) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..end)),
            2 => {
                let token = TOKENS.choose(random).copied().unwrap_or_default();
                input.splice(at..end, token.iter().copied());
            }
            3 => {
                let other = corpus.choose(random).map(|other| &other[at.min(other.len())..]);
                input.splice(at.., other.unwrap_or_default().iter().copied());
            }
            _ => input.splice(at..end, std::iter::once(random.random())).for_each(drop),
        }
    }
    input.truncate(LONGEST);
    input
}

fn run(target: Target, name: &str, input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        eprintln!("{name} fails on b\"{}\"; keep it in fuzz/corpus/{name}", input.escape_ascii());
        std::panic::resume_unwind(panic);
    }
}

fn briefly(name: &str) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let corpus = corpus(name);
    for input in &corpus {
        run(*target, name, input);
    }
    // Always the same, so that a change that fails is the one that is to blame;
    // `make fuzz` looks elsewhere.
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..INPUTS {
        run(*target, name, &changed(&corpus, &mut random));
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                briefly(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_tested() {
            let known: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(known, [$(stringify!($name)),*]);
        }
    };
}
targets! {
    event_id event entries history cursor message frames chunks answers odd_values retry_after
    directives catalog
}
