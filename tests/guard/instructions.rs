//! Instructions a token, counted by callgrind while it runs the tests that
//! count allocations: the same loops, from outside.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::allocations::TOKENS;
use crate::bounds::{Figures, compiler, not_measured};
use crate::steps::{DECODE, SERVE, STORE};

#[test]
#[ignore = "counts: make guard"]
fn of_the_hot_loops() {
    const WHAT: &str = "instructions a token";
    if !cfg!(target_arch = "x86_64") {
        return not_measured(WHAT, "the committed figures are x86-64's");
    }
    let version = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        return not_measured(WHAT, "valgrind is not installed: scripts/install valgrind");
    }
    println!("guard: instructions of {}'s test build", compiler());
    let mut figures = Figures::default();
    for (test, function, name) in [
        ("allocations::decode", DECODE, "socket to delta"),
        ("allocations::store", STORE, "delta to stored event"),
        ("allocations::serve", SERVE, "Redis' reply to frame"),
    ] {
        let instructions = instructions(test, function);
        figures.add(&format!("{WHAT}: {name}"), instructions as f64 / TOKENS as f64);
    }
    figures.hold();
}

/// What `function` takes in one of this binary's tests.
///
/// # Panics
/// When callgrind counts nothing: the function isn't there under that name.
fn instructions(test: &str, function: &str) -> u64 {
    let counts = std::env::temp_dir().join(format!("rill-callgrind-{}", uuid::Uuid::new_v4()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", &format!("--toggle-collect=*{function}*")])
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(std::env::current_exe().expect("this test"))
        .args(["--ignored", "--exact", test])
        .output()
        .expect("valgrind runs");
    let total = total(&counts);
    let _ = std::fs::remove_file(&counts);
    match total {
        // (The test's own bound is another test's business.)
        Some(total) if total > 0 => total,
        _ => panic!(
            "callgrind counted nothing in {function}:\n{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

fn total(counts: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(counts).ok()?;
    let line = text.lines().find_map(|line| {
        line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: "))
    })?;
    line.trim().parse().ok()
}
