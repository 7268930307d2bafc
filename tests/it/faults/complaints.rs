//! What a process complained about, from its log: «at most one line a second
//! for each cause» is judged by the lines' own timestamps.

use std::collections::BTreeMap;

use crate::support::App;

/// When each cause was complained about: its message without its fields, and
/// seconds on an arbitrary day.
fn complaints(log: &str) -> BTreeMap<String, Vec<f64>> {
    let mut causes: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for line in log.lines() {
        let mut words = line.split_whitespace();
        let (Some(time), Some("WARN" | "ERROR")) = (words.next(), words.next()) else { continue };
        causes.entry(cause(line)).or_default().push(seconds(time));
    }
    causes
}

/// `… rill::a::b: the message field=value` → `rill::a::b: the message`.
fn cause(line: &str) -> String {
    let is_target = |word: &&str| word.contains("::") && word.ends_with(':') && !word.contains('=');
    let said = line.split(' ').skip_while(|word| !is_target(word));
    said.take_while(|word| !word.contains('=')).collect::<Vec<_>>().join(" ")
}

/// Of `2026-11-23T08:02:30.123456Z`, from midnight.
fn seconds(time: &str) -> f64 {
    let clock = time.trim_end_matches('Z').split_once('T').map_or("", |(_, clock)| clock);
    clock
        .split(':')
        .map(|part| part.parse::<f64>().expect("a time"))
        .fold(0.0, |total, part| total * 60.0 + part)
}

/// The most lines within any second.
fn most_in_a_second(mut times: Vec<f64>) -> usize {
    times.sort_unstable_by(f64::total_cmp);
    let from = |first: f64| times.iter().filter(|t| (first..first + 1.0).contains(*t)).count();
    times.iter().map(|first| from(*first)).max().unwrap_or(0)
}

/// No process of the app complained more than once a second for one cause.
/// (Two lines may fall into one second where the first was written late.)
pub(super) fn assert_few(app: &App) {
    for process in app.workers.iter().chain([&app.api]) {
        for (cause, times) in complaints(&process.log()) {
            let most = most_in_a_second(times.clone());
            assert!(most <= 2, "{most} lines in a second: {cause}: {times:?}");
            let lasted = times.iter().copied().fold(f64::MIN, f64::max)
                - times.iter().copied().fold(f64::MAX, f64::min);
            assert!(
                times.len() as f64 <= lasted + 2.0,
                "{} lines: {cause}: {times:?}",
                times.len()
            );
        }
    }
}

#[test]
fn lines_of_one_cause_are_counted_by_the_second() {
    let log = "2026-11-23T08:02:30.100000Z  WARN rill::streams::link: Redis is away; trying error=x y skipped=0\n\
               2026-11-23T08:02:30.900000Z  WARN attempt{task=1 attempt=1}: rill::streams::link: Redis is away; trying error=z\n\
               2026-11-23T08:02:31.200000Z  WARN rill::streams::link: Redis is away; trying error=z\n\
               2026-11-23T08:02:30.150000Z  INFO rill::streams::link: not a complaint\n\
               2026-11-23T08:02:30.150000Z ERROR rill::worker: another cause task=1\n";
    let causes = complaints(log);
    assert_eq!(
        causes.keys().collect::<Vec<_>>(),
        ["rill::streams::link: Redis is away; trying", "rill::worker: another cause"]
    );
    assert_eq!(most_in_a_second(causes["rill::streams::link: Redis is away; trying"].clone()), 2);
}
