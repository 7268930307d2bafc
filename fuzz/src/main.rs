//! libFuzzer's way into `rill::fuzz`: one program for all targets. See
//! `scripts/fuzz`, which names one in `RILL_FUZZ_TARGET`.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use rill::fuzz::{TARGETS, Target};

static TARGET: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("RILL_FUZZ_TARGET").unwrap_or_default();
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let names = || TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ");
    target.unwrap_or_else(|| panic!("RILL_FUZZ_TARGET is one of: {}", names())).1
}

fuzz_target!(|input: &[u8]| TARGET.get_or_init(chosen)(input));
