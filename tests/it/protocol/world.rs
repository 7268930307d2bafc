//! The model's state: one task, PostgreSQL, Redis, two workers, a caller and a
//! reader.

use rill::domain::{Class, EventId, EventName};

use super::joint::Joint;
use super::log::Log;
use super::row::{Row, Status};
use super::text::{Content, Span};

/// What the model says in an attempt, in chunks.
pub(crate) const CHUNKS: u8 = 2;
/// Failures after which a task is given up.
pub(crate) const MAX_FAILURES: u32 = 2;
/// Workers lost, after which it is (6 in the code).
pub(crate) const MAX_LOSSES: u8 = 2;
/// How often an older worker leaves a task to a newer one (8 in the code).
pub(crate) const YIELDS: u32 = 1;
/// Events after which a snapshot is due (N/2 in the code).
pub(crate) const SNAPSHOT_DUE: u8 = 2;

/// One state of everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) row: Row,
    /// `messages.answer`.
    pub(crate) answer: Option<Span>,
    /// Attempts whose outcome is `lost`, of those that a takeover replaced.
    pub(crate) losses: u8,
    /// `run_after` has passed.
    pub(crate) elapsed: bool,
    /// Workers with a heartbeat within a lease, by identity, as bits.
    pub(crate) fresh: u8,
    /// Workers that have been so for a lease.
    pub(crate) steady: u8,
    /// Workers that don't get their heartbeats through: asleep or cut off.
    pub(crate) absent: u8,
    /// The next identity of a worker.
    pub(crate) identity: u32,
    /// The task's stream; nothing if there is no key.
    pub(crate) stream: Option<Vec<(EventId, Content<Span>)>>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) workers: [Worker; 2],
    pub(crate) ender: Ender,
    pub(crate) reader: Option<Reader>,
    /// A request that is still on its way to Redis from a connection that its
    /// sender has given up.
    pub(crate) late: Option<Request>,
    /// Faults that may still happen.
    pub(crate) faults: u8,
    /// The caller may still cancel.
    pub(crate) may_cancel: bool,
    /// Everything that was seen, as a trace sees it, judged by its rules.
    pub(crate) log: Log<Span>,
    pub(crate) joint: Joint,
    pub(crate) broken: Option<&'static str>,
    /// Workers of even identity are of a newer version, and each of their attempts
    /// writes an event of this class that the others don't know.
    pub(crate) newer: Option<Class>,
    /// Attempts that have written content which only a newer worker understands,
    /// as bits.
    pub(crate) newer_content: u16,
}

/// An entry of the job stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Job {
    pub(crate) entry: u32,
    /// To whom it was delivered.
    pub(crate) holder: Option<u32>,
}

/// What is sent to the task's stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Request {
    pub(crate) events: Vec<(EventId, Content<Span>)>,
    /// Without `NOMKSTREAM`.
    pub(crate) create: bool,
}

/// A worker process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Worker {
    Down,
    Up { id: u32, run: Run },
}

/// What a worker is doing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Run {
    Idle,
    /// A job was delivered. `claim`: the attempt that an unheard try began.
    Begin {
        job: u32,
        claim: Option<u32>,
    },
    /// An attempt has begun, nothing was read or written.
    Prepare {
        job: u32,
        attempt: u32,
    },
    Stream(Streaming),
    /// An end is to be committed, and then appended.
    End {
        job: u32,
        end: End,
    },
    /// A committed end is to be appended.
    Close {
        job: u32,
        end: End,
    },
    /// A duplicate: if its task has ended, the stream must say so.
    Settle {
        job: u32,
    },
    /// The job is to be acknowledged; `ended`: since its task was ended here.
    Acknowledge {
        job: u32,
        ended: bool,
    },
    /// Drained: the task is to be queued again.
    /// `later`: for a newer worker.
    Release {
        job: u32,
        attempt: u32,
        later: bool,
    },
    HandBack {
        job: u32,
    },
}

/// An attempt whose model is talking; `worker/streaming.rs` and `streams/log.rs`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Streaming {
    pub(crate) job: u32,
    pub(crate) attempt: u32,
    pub(crate) seq: u64,
    /// Sent, and its outcome is not known.
    pub(crate) unknown: Option<Content<Span>>,
    /// The next append may make the stream.
    pub(crate) create: bool,
    /// The stream is gone; PostgreSQL is to be asked.
    pub(crate) gone: bool,
    pub(crate) heal: bool,
    /// Something was confirmed, and since then the connection was made again.
    pub(crate) confirmed: bool,
    pub(crate) reconnected: bool,
    pub(crate) since_reset: u8,
    pub(crate) said: u8,
    pub(crate) written: u8,
    /// The class of an event that others don't know, and whether it was written.
    pub(crate) newer: Option<Class>,
    pub(crate) newer_written: bool,
    pub(crate) plan: Plan,
}

/// What an attempt is to do when everything was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Plan {
    /// Go on.
    Talk,
    /// Append `event`, then stop. `waiting`: it still has to be appended.
    Flush { event: Option<EventName>, waiting: bool, then: Then },
    /// Commit that another attempt follows.
    Retry,
}

/// What follows a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Then {
    End(Status),
    Acknowledge,
}

/// How a task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct End {
    pub(crate) id: EventId,
    pub(crate) status: Status,
    pub(crate) text: Span,
    /// It has the content that only a newer worker understands, if there is any.
    pub(crate) more: bool,
}

/// Somebody who ends the task without owning its attempt: the caller's API, or
/// the upkeep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ender {
    Nobody,
    /// What was seen of the row, and what the stream held.
    Seen {
        seen: (u32, Status),
        end: End,
    },
    Close(End),
}

/// A client and the API that serves it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Reader {
    /// The last event that the client got.
    pub(crate) cursor: EventId,
    pub(crate) text: Span,
    pub(crate) place: ReaderPlace,
    /// Connections that may still be cut.
    pub(crate) cuts: u8,
}

/// Where a reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ReaderPlace {
    Closed,
    Open {
        position: EventId,
        gap: bool,
    },
    /// It got a terminal event of this kind.
    Ended(Option<Status>),
}

impl Status {
    /// The terminal event that says so.
    pub(crate) fn event(self) -> EventName {
        match self {
            Self::Failed => EventName::Failed,
            Self::Cancelled => EventName::Cancelled,
            _ => EventName::Done,
        }
    }
}

impl Streaming {
    pub(crate) fn new(job: u32, attempt: u32, newer: Option<Class>) -> Self {
        Self {
            job,
            attempt,
            seq: 0,
            unknown: None,
            create: true,
            gone: false,
            heal: false,
            confirmed: false,
            reconnected: false,
            since_reset: 0,
            said: 0,
            written: 0,
            newer,
            newer_written: false,
            plan: Plan::Talk,
        }
    }
}

impl End {
    /// What the stream has to end with.
    pub(crate) fn request(&self) -> Request {
        let mut events = Vec::new();
        if self.id.seq == 1 {
            events.push((self.id.before(), Content::new(EventName::Snapshot, self.text)));
        }
        events.push((self.id, Content::new(self.status.event(), Span::default())));
        Request { events, create: true }
    }
}

impl Worker {
    pub(crate) const fn id(&self) -> Option<u32> {
        match self {
            Self::Down => None,
            Self::Up { id, .. } => Some(*id),
        }
    }

    /// The job that it holds.
    pub(crate) const fn job(&self) -> Option<u32> {
        match self {
            Self::Down => None,
            Self::Up { run, .. } => run.job(),
        }
    }
}

impl Run {
    /// The attempt that it has begun, and knows of.
    pub(crate) const fn attempt(&self) -> Option<u32> {
        match self {
            Self::Prepare { attempt, .. } | Self::Release { attempt, .. } => Some(*attempt),
            Self::Stream(streaming) => Some(streaming.attempt),
            Self::End { end, .. } | Self::Close { end, .. } => Some(end.id.attempt),
            _ => None,
        }
    }

    /// The job that it holds.
    pub(crate) const fn job(&self) -> Option<u32> {
        match self {
            Self::Idle => None,
            Self::Stream(streaming) => Some(streaming.job),
            Self::Begin { job, .. }
            | Self::Prepare { job, .. }
            | Self::End { job, .. }
            | Self::Close { job, .. }
            | Self::Settle { job }
            | Self::Acknowledge { job, .. }
            | Self::Release { job, .. }
            | Self::HandBack { job } => Some(*job),
        }
    }
}
