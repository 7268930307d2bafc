//! Which connections a process has, by Linux's `/proc`.

use std::collections::HashSet;
use std::fs;

/// `ESTABLISHED` in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";

/// How many connections process `pid` has to port `port`.
pub(crate) fn connections(pid: i32, port: u16) -> usize {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let inodes: HashSet<String> = links
        .filter_map(|link| fs::read_link(link.path()).ok())
        .filter_map(|target| {
            let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let remote = format!(":{port:04X}");
    let ours = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        matches!(fields.get(..10), Some([_, _, to, state, .., inode])
            if to.ends_with(&remote) && *state == ESTABLISHED && inodes.contains(*inode))
    };
    table.lines().filter(ours).count()
}
