//! What processes cost, by Linux's `/proc`. A process counts with its children,
//! those that have ended included: PostgreSQL's backends, and Redis' while it
//! rewrites its log.

use std::collections::HashMap;
use std::fs;

use serde::Serialize;

/// Linux counts CPU time in these.
const TICK_MS: f64 = 10.0;

/// What a process and its children have used and use.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Usage {
    /// CPU time so far, in milliseconds.
    pub(crate) cpu_ms: f64,
    /// Context switches so far, of threads that live.
    pub(crate) switches: u64,
    /// Resident memory, in KiB.
    pub(crate) rss_kib: u64,
    /// The same, shared pages divided among those that share them.
    pub(crate) pss_kib: u64,
}

impl Usage {
    /// Of the process and its children; of a process that is gone, nothing.
    pub(crate) fn of(pid: i32) -> Self {
        let children = children();
        let mut usage = Self::default();
        let mut pending = vec![pid];
        while let Some(pid) = pending.pop() {
            usage.add(pid);
            pending.extend(children.get(&pid).into_iter().flatten());
        }
        usage
    }

    /// Of the process without its children.
    pub(crate) fn alone(pid: i32) -> Self {
        let mut usage = Self::default();
        usage.add(pid);
        usage.cpu_ms = Stat::of(pid).map_or(0.0, |stat| stat.own_ticks as f64 * TICK_MS);
        usage
    }

    /// The sum of two.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            cpu_ms: self.cpu_ms + other.cpu_ms,
            switches: self.switches + other.switches,
            rss_kib: self.rss_kib + other.rss_kib,
            pss_kib: self.pss_kib + other.pss_kib,
        }
    }

    /// What was used since `before`; the memory is as it is now.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            cpu_ms: self.cpu_ms - before.cpu_ms,
            switches: self.switches.saturating_sub(before.switches),
            ..self
        }
    }

    fn add(&mut self, pid: i32) {
        let Some(stat) = Stat::of(pid) else { return };
        self.cpu_ms += stat.ticks as f64 * TICK_MS;
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            self.switches +=
                sum(&status, &["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"]);
        }
        let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        self.rss_kib += sum(&memory, &["Rss:"]);
        self.pss_kib += sum(&memory, &["Pss:"]);
    }
}

/// The sum of the fields with these names.
fn sum(text: &str, names: &[&str]) -> u64 {
    let value = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        if names.contains(&name) { words.next()?.parse::<u64>().ok() } else { None }
    };
    text.lines().filter_map(value).sum()
}

/// What is used of `/proc/<pid>/stat`.
struct Stat {
    parent: i32,
    /// Its own, and those of children that have ended.
    ticks: u64,
    own_ticks: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // A process' name may have spaces and parentheses in it.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |from: &[&str]| from.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            ticks: ticks(fields.get(11..15)?),
            own_ticks: ticks(fields.get(11..13)?),
        })
    }
}

/// All processes by their parents.
fn children() -> HashMap<i32, Vec<i32>> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        if let Some((pid, stat)) = pid.and_then(|pid| Some((pid, Stat::of(pid)?))) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    children
}

/// Lets this process and those that it starts open as many files as they may at
/// all; how many that is. Without `prlimit` (util-linux), it stays as it is.
pub(crate) fn raise_file_limit() -> Option<u64> {
    let limits = || fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let column = |at: usize| {
        let text = limits();
        let line = text.lines().find(|line| line.starts_with("Max open files"))?;
        line.split_whitespace().nth(at).map(str::to_owned)
    };
    let (most, pid) = (column(4)?, std::process::id().to_string());
    let nofile = format!("--nofile={most}:{most}");
    let _ = std::process::Command::new("prlimit").args(["--pid", &pid, &nofile]).status();
    column(3)?.parse().ok()
}

/// The load average of the last minute.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}
