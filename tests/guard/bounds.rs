//! The table: what each figure was when it was last looked at.
//!
//! A change that makes one smaller should commit the smaller figure; one that
//! makes one larger has to, and so is seen. `make guard` prints all of them.

use std::process::Command;

/// What may come on top before a figure fails.
const SLACK: f64 = 1.10;

/// How long a figure's name is, at most; for the columns.
const NAME: usize = 52;

/// Measured by `make guard`: each the middle one of five runs where it varies
/// at all, and where `highest` is said, the highest.
const COMMITTED: &[(&str, f64)] = &[
    // 100 tokens at 20/s, with a hundredth of what their task costs. XADD,
    // PUBLISH and XREAD; XADD and PUBLISH. A busy machine merges tokens, so it
    // has fewer.
    ("Redis: commands a token, one stream", 3.11),
    // As many as ever, should no two appends share a hint.
    ("Redis: writes a token, 20 streams", 2.07),
    // MULTI, EXEC, XACK, XDEL.
    ("Redis: other commands a task", 8.0),
    // Its conversation made, four of its own, and its stream opened: all but the
    // first are shared by tasks that come together.
    ("PostgreSQL: statements a task alone", 6.0),
    // One stream of 200 tokens at 40/s, from its POST to its end.
    ("API: reads and writes a token", 4.4),
    ("API: system calls a token (highest)", 7.1),
    ("worker: reads and writes a token", 3.1),
    ("worker: system calls a token (highest)", 5.1),
    // In one process, a token at a time.
    ("allocations a token: socket to delta", 2.03),
    ("allocations a token: delta to stored event", 1.01),
    ("allocations a token: Redis' reply to frame", 9.0),
    // Anonymous memory of the API.
    ("KiB an idle stream", 18.63),
    // The same steps as the allocations, under callgrind; a test build (rill
    // itself unoptimized, its dependencies a little), with the counting
    // allocator: good for comparing with itself. By rustc 1.95.0 on x86-64:
    // another compiler's figure may differ by more than a change to the code.
    ("instructions a token: socket to delta", 39_719.0),
    ("instructions a token: delta to stored event", 4_743.0),
    ("instructions a token: Redis' reply to frame", 38_157.0),
];

/// The figures of one test.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    exceeded: Vec<String>,
}

impl Figures {
    /// Prints a figure beside its bound.
    pub(crate) fn add(&mut self, name: &str, measured: f64) {
        let committed = COMMITTED.iter().find(|(known, _)| *known == name);
        let (_, committed) = committed.unwrap_or_else(|| panic!("{name}: not in the table"));
        let verdict = match verdict(*committed, measured) {
            Verdict::Held => "",
            Verdict::Lower => "  lower: commit it",
            Verdict::Exceeded => "  EXCEEDED",
        };
        let bound = committed * SLACK;
        let line = format!(
            "{name:<NAME$} {measured:>10.2}   committed {committed:>10.2}   fails above {bound:>10.2}{verdict}"
        );
        println!("guard: {line}");
        if verdict.contains("EXCEEDED") {
            self.exceeded.push(line);
        }
    }

    /// # Panics
    /// When a figure is above its bound.
    pub(crate) fn hold(self) {
        assert!(
            self.exceeded.is_empty(),
            "more than {:.0} % above what tests/guard/bounds.rs has ({}):\n{}",
            (SLACK - 1.0) * 100.0,
            compiler(),
            self.exceeded.join("\n")
        );
    }
}

/// Says that something is not bounded here, and why.
pub(crate) fn not_measured(what: &str, why: impl std::fmt::Display) {
    println!("guard: NOT MEASURED: {what}: {why}");
}

/// As `rustc` calls itself.
pub(crate) fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|_| "an unknown rustc".to_owned())
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Held,
    Lower,
    Exceeded,
}

fn verdict(committed: f64, measured: f64) -> Verdict {
    if measured > committed * SLACK {
        Verdict::Exceeded
    } else if measured * SLACK < committed {
        Verdict::Lower
    } else {
        Verdict::Held
    }
}

#[test]
fn a_figure_fails_when_it_is_more_than_a_tenth_above() {
    assert_eq!(verdict(10.0, 10.9), Verdict::Held);
    assert_eq!(verdict(10.0, 11.1), Verdict::Exceeded);
    assert_eq!(verdict(10.0, 8.0), Verdict::Lower);
    // Nothing is allowed where there was nothing.
    assert_eq!(verdict(0.0, 0.0), Verdict::Held);
    assert_eq!(verdict(0.0, 0.1), Verdict::Exceeded);
}
