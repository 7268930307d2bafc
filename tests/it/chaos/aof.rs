//! What happened in Redis, from its append-only file: every append in order,
//! whoever made it, and what Redis forgot.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::protocol::trace::{JobSeen, LogSeen};

/// What happened to one task.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) log: Vec<LogSeen>,
    pub(super) jobs: Vec<JobSeen>,
}

/// One write, and where it stands in the file.
struct Write {
    at: usize,
    task: String,
    what: What,
}

enum What {
    Log(LogSeen),
    Job(JobSeen),
}

/// Reads a Redis' append-only file piece by piece.
pub(super) struct AofWatcher {
    directory: PathBuf,
    /// Bytes that were read.
    read: usize,
    /// Where the seconds begin (`aof-timestamp-enabled`).
    seconds: Vec<usize>,
    writes: Vec<Write>,
    /// Which task an entry of the job stream names, and whether it is there.
    jobs: HashMap<String, (String, bool)>,
    /// Tasks whose streams there are.
    streams: HashSet<String>,
    /// What is certain by now.
    settled: BTreeMap<String, Seen>,
}

impl AofWatcher {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.join("appendonlydir"),
            read: 0,
            seconds: Vec::new(),
            writes: Vec::new(),
            jobs: HashMap::new(),
            streams: HashSet::new(),
            settled: BTreeMap::new(),
        }
    }

    fn file(&self) -> PathBuf {
        let files = std::fs::read_dir(&self.directory).expect("Redis' directory");
        let mut files = files.map(|file| file.expect("a file").path());
        files.find(|path| path.to_string_lossy().ends_with(".incr.aof")).expect("an incr file")
    }

    /// Reads on to the end. Redis must not be writing.
    pub(super) fn read(&mut self) {
        let bytes = std::fs::read(self.file()).expect("the file is there");
        let mut at = self.read;
        while let Some((length, arguments)) = command(&bytes[at..]) {
            match arguments {
                None => self.seconds.push(at),
                Some(arguments) => self.write(at, &arguments),
            }
            at += length;
        }
        self.read = at;
    }

    /// Cuts the file off at the beginning of the second before the last, as a
    /// crash of the machine under `appendfsync everysec` does.
    pub(super) fn forget_the_last_second(&mut self) {
        let Some(&cut) = self.seconds.iter().rev().nth(1) else { return };
        let kept = self.writes.partition_point(|write| write.at < cut);
        if self.writes[kept..].iter().any(|w| matches!(w.what, What::Log(LogSeen::Gone))) {
            // Streams that come back from the dead: not told apart here.
            return;
        }
        let file = std::fs::OpenOptions::new().write(true).open(self.file()).expect("opens");
        file.set_len(cut as u64).expect("is cut off");
        // A later cut never reaches behind this one.
        (self.read, self.seconds) = (cut, vec![cut]);
        // First all of it happened, then it had not.
        let (mut lost, mut undone_jobs) = (BTreeMap::new(), Vec::new());
        for write in self.writes.split_off(kept) {
            let task = write.task.clone();
            let undone = match &write.what {
                What::Log(LogSeen::Append { id, .. }) => {
                    lost.entry(task.clone()).or_insert_with(|| id.clone());
                    None
                }
                What::Job(JobSeen::Added { entry }) => {
                    self.jobs.insert(entry.clone(), (task.clone(), false));
                    Some(JobSeen::Lost { entry: entry.clone() })
                }
                What::Job(JobSeen::Deleted { entry }) => {
                    self.jobs.insert(entry.clone(), (task.clone(), true));
                    Some(JobSeen::Added { entry: entry.clone() })
                }
                _ => None,
            };
            self.writes.push(write);
            undone_jobs.extend(undone.map(|job| Write { at: cut, task, what: What::Job(job) }));
        }
        self.writes.append(&mut undone_jobs);
        let lost = lost.into_iter().map(|(task, from)| (task, What::Log(LogSeen::Lost { from })));
        self.writes.extend(lost.map(|(task, what)| Write { at: cut, task, what }));
        self.settle();
    }

    fn settle(&mut self) {
        for Write { task, what, .. } in self.writes.drain(..) {
            let seen = self.settled.entry(task).or_default();
            match what {
                What::Log(log) => seen.log.push(log),
                What::Job(job) => seen.jobs.push(job),
            }
        }
    }

    /// Everything, by task.
    pub(super) fn take(&mut self) -> BTreeMap<String, Seen> {
        self.read();
        self.settle();
        std::mem::take(&mut self.settled)
    }

    fn write(&mut self, at: usize, arguments: &[Vec<u8>]) {
        let text = |n: usize| {
            String::from_utf8_lossy(arguments.get(n).map_or(&[][..], Vec::as_slice)).into_owned()
        };
        let key = text(1);
        let name = text(0).to_ascii_uppercase();
        let mut push = |task: &str, what| {
            self.writes.push(Write { at, task: task.to_owned(), what });
        };
        if let Some((_, task)) = key.split_once(":task:") {
            match name.as_str() {
                "XADD" => {
                    let (id, fields) = added(arguments);
                    let (event, data) = (field(&fields, "e"), field(&fields, "d"));
                    push(task, What::Log(LogSeen::Append { id, event, data }));
                    self.streams.insert(task.to_owned());
                }
                "DEL" | "UNLINK" => {
                    push(task, What::Log(LogSeen::Gone));
                    self.streams.remove(task);
                }
                _ => {}
            }
        } else if key.ends_with("{jobs}:generate") {
            match name.as_str() {
                "XADD" => {
                    let (entry, fields) = added(arguments);
                    let task = field(&fields, "task");
                    push(&task, What::Job(JobSeen::Added { entry: entry.clone() }));
                    self.jobs.insert(entry, (task, true));
                }
                "XCLAIM" => {
                    let (consumer, entry) = (text(3), text(5));
                    if let Some((task, _)) = self.jobs.get(&entry) {
                        push(task, What::Job(JobSeen::Delivered { entry, consumer }));
                    }
                }
                "XDEL" => {
                    for entry in (2..arguments.len()).map(text) {
                        if let Some((task, there)) = self.jobs.get_mut(&entry) {
                            *there = false;
                            push(task, What::Job(JobSeen::Deleted { entry }));
                        }
                    }
                }
                _ => {}
            }
        } else if matches!(name.as_str(), "FLUSHALL" | "FLUSHDB") {
            for task in self.streams.drain() {
                let what = What::Log(LogSeen::Gone);
                self.writes.push(Write { at, task, what });
            }
            for (entry, (task, _)) in self.jobs.drain().filter(|(_, (_, there))| *there) {
                let what = What::Job(JobSeen::Lost { entry });
                self.writes.push(Write { at, task, what });
            }
        }
    }
}

/// The ID and the fields of an `XADD` (its options stand between key and ID).
fn added(arguments: &[Vec<u8>]) -> (String, Vec<String>) {
    let mut rest = arguments.iter().skip(2).map(|a| String::from_utf8_lossy(a).into_owned());
    let is_id =
        |text: &String| text.split_once('-').is_some_and(|(ms, _)| ms.parse::<u64>().is_ok());
    let id = rest.find(is_id).unwrap_or_default();
    (id, rest.collect())
}

fn field(fields: &[String], name: &str) -> String {
    fields
        .chunks(2)
        .find(|pair| pair[0] == name)
        .and_then(|pair| pair.get(1))
        .cloned()
        .unwrap_or_default()
}

/// The first command of `bytes`: its length, and its arguments; none for an
/// annotation such as `#TS:1700000000`.
fn command(bytes: &[u8]) -> Option<(usize, Option<Vec<Vec<u8>>>)> {
    let line = |at: usize| {
        let end = bytes.get(at..)?.windows(2).position(|pair| pair == b"\r\n")?;
        Some((&bytes[at..at + end], at + end + 2))
    };
    let (head, mut at) = line(0)?;
    if head.first() == Some(&b'#') {
        return Some((at, None));
    }
    let number = |line: &[u8]| std::str::from_utf8(line.get(1..)?).ok()?.parse::<usize>().ok();
    let mut arguments = Vec::new();
    for _ in 0..number(head)? {
        let (head, start) = line(at)?;
        let end = start + number(head)?;
        arguments.push(bytes.get(start..end)?.to_vec());
        at = end + 2;
    }
    (bytes.len() >= at).then_some((at, Some(arguments)))
}

#[test]
fn a_lost_tail_is_seen_as_lost() {
    let directory = std::env::temp_dir().join(format!("rill-aof-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(directory.join("appendonlydir")).expect("a directory");
    let file = directory.join("appendonlydir/appendonly.aof.1.incr.aof");
    let write = |id: &str| {
        let arguments = [
            "XADD",
            "x:{1}:task:t",
            "NOMKSTREAM",
            "MAXLEN",
            "=",
            "100",
            id,
            "e",
            "delta",
            "d",
            "{}",
        ];
        let bulk = arguments.map(|a| format!("${}\r\n{a}\r\n", a.len()));
        format!("*{}\r\n{}", arguments.len(), bulk.concat())
    };
    let lines =
        ["#TS:1\r\n", &write("1-1"), "#TS:2\r\n", &write("1-2"), "#TS:3\r\n", &write("1-3")];
    std::fs::write(&file, lines.concat()).expect("writes");
    let mut watcher = AofWatcher::new(&directory);
    watcher.read();
    watcher.forget_the_last_second();
    assert_eq!(std::fs::read_to_string(&file).expect("reads"), lines[..2].concat());
    let seen: Vec<_> = watcher.take()["t"]
        .log
        .iter()
        .map(|log| match log {
            LogSeen::Append { id, .. } => id.clone(),
            LogSeen::Lost { from } => format!("lost from {from}"),
            LogSeen::Gone => "gone".to_owned(),
        })
        .collect();
    assert_eq!(seen, ["1-1", "1-2", "1-3", "lost from 1-2"]);
    let _ = std::fs::remove_dir_all(directory);
}
