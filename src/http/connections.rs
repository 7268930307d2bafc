//! The connection table: who is connected, who has a request in progress, and
//! who has to go.
//!
//! A connection has a *slot* ([`Bounds::slots`]) or is a *guest*: it came when
//! all slots were taken, and has one request, for which it gets a slot if one
//! has become free, or if a connection has been idle and can give its own. A
//! guest without a slot is refused, but for probes. Guests and connections that
//! are leaving share [`SPARE`] places beyond the slots. When these are taken as
//! well, the oldest of them is cut off for the next one: nobody keeps a probe
//! out by connecting and saying nothing.
//!
//! No I/O and no timer is here: the table is told what happens and when, and
//! tells connections what to do ([`Connection::told`]). What is ordered by time
//! are sets, and only connections without a request are in them, so that an
//! open stream costs an entry and no more.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use slab::Slab;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;

use crate::log_limit::LogLimit;
use crate::metrics::{self, Closed};
use crate::sync::lock;

/// Connections beyond the slots: guests, and those that are leaving.
pub const SPARE: usize = 64;

/// A connection may be taken a slot from when it has been idle for so long:
/// before, its next request may be on its way.
const EVICTABLE: Duration = Duration::from_secs(1);

/// What a guest has for its request when others wait: the bytes of a request
/// that is sent at once are there by then.
const GUEST_TIME: Duration = Duration::from_millis(50);

static OVERLOADED: LogLimit = LogLimit::new();

/// What the table keeps to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Connections with a slot.
    pub slots: usize,
    /// Requests in progress, over all connections.
    pub requests: usize,
    /// Time for the first request's head.
    pub first_request: Duration,
    /// How long a connection may be idle.
    pub keep_alive: Duration,
    /// Time for a connection that was asked to end.
    pub leave: Duration,
}

/// Which bound a request is beyond. A refused request carries it as an
/// extension: the endpoint answers, in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overload {
    /// All connections are taken; this one ends with the answer.
    Connections,
    /// As many requests and streams as may be are in progress.
    Requests,
}

impl Overload {
    fn report(self, bounds: &Bounds) {
        let (limit, count) = match self {
            Self::Connections => ("connections", bounds.slots),
            Self::Requests => ("requests", bounds.requests),
        };
        metrics::overloaded(limit);
        if let Some(skipped) = OVERLOADED.pass() {
            tracing::warn!(count, skipped, "all {limit} are taken: a request was refused");
        }
    }
}

/// What a connection is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// End with the requests in progress.
    Leave,
    /// End now.
    Cut,
}

type Id = usize;
/// Connections, the longest there first.
type Queue = BTreeSet<(Instant, Id)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Has a slot, and has sent no request.
    Silent,
    /// Has a slot, had requests, and has none.
    Idle,
    /// Has a slot and requests.
    Busy,
    /// Has no slot, and at most one request.
    Guest,
    /// Has no slot, and was told to end.
    Leaving,
    /// Was told to end at once.
    Cut,
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// In this state.
    since: Instant,
    busy: u32,
    /// Ends when nothing is in progress.
    ending: bool,
    told: Option<Told>,
    bell: Arc<Notify>,
}

#[derive(Debug)]
struct Inner {
    entries: Slab<Entry>,
    free_slots: usize,
    requests: usize,
    silent: Queue,
    idle: Queue,
    guests: Queue,
    leaving: Queue,
    draining: bool,
}

/// The table of one server.
#[derive(Debug)]
pub(super) struct Connections {
    bounds: Bounds,
    inner: Mutex<Inner>,
}

impl Inner {
    fn queue(&mut self, state: State) -> Option<&mut Queue> {
        match state {
            State::Silent => Some(&mut self.silent),
            State::Idle => Some(&mut self.idle),
            State::Guest => Some(&mut self.guests),
            State::Leaving => Some(&mut self.leaving),
            State::Busy | State::Cut => None,
        }
    }

    const fn has_slot(state: State) -> bool {
        matches!(state, State::Silent | State::Idle | State::Busy)
    }

    fn enter(&mut self, id: Id, state: State, now: Instant) {
        let entry = &mut self.entries[id];
        let (before, since) = (entry.state, entry.since);
        (entry.state, entry.since) = (state, now);
        if let Some(queue) = self.queue(before) {
            queue.remove(&(since, id));
        }
        if let Some(queue) = self.queue(state) {
            queue.insert((now, id));
        }
        match (Self::has_slot(before), Self::has_slot(state)) {
            (true, false) => self.free_slots += 1,
            (false, true) => self.free_slots -= 1,
            _ => {}
        }
    }

    fn tell(&mut self, id: Id, told: Told) {
        let entry = &mut self.entries[id];
        entry.told = Some(told);
        entry.bell.notify_one();
    }

    fn dismiss(&mut self, id: Id, now: Instant) {
        self.entries[id].ending = true;
        self.enter(id, State::Leaving, now);
        self.tell(id, Told::Leave);
    }

    fn cut(&mut self, id: Id, now: Instant) {
        self.enter(id, State::Cut, now);
        self.tell(id, Told::Cut);
    }

    /// Makes a slot free, if there is none: of who has been idle for longest.
    fn find_slot(&mut self, now: Instant) -> bool {
        if self.free_slots > 0 {
            return true;
        }
        let longest = [self.silent.first(), self.idle.first()].into_iter().flatten().min();
        match longest.copied() {
            Some((since, id)) if since + EVICTABLE <= now => {
                metrics::connection_closed(Closed::Evicted);
                self.dismiss(id, now);
                true
            }
            _ => false,
        }
    }
}

/// The first of `queue`, if it has been there for `limit`.
fn due(queue: &Queue, limit: Duration, now: Instant) -> Option<Id> {
    queue.first().filter(|(since, _)| *since + limit <= now).map(|(_, id)| *id)
}

impl Connections {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            inner: Mutex::new(Inner {
                entries: Slab::new(),
                free_slots: bounds.slots,
                requests: 0,
                silent: Queue::new(),
                idle: Queue::new(),
                guests: Queue::new(),
                leaving: Queue::new(),
                draining: false,
            }),
        })
    }

    /// Enters a connection, which holds `place` until it and its last request
    /// are gone.
    pub(super) fn open(self: &Arc<Self>, place: OwnedSemaphorePermit, now: Instant) -> Connection {
        let bell = Arc::new(Notify::new());
        let mut inner = lock(&self.inner);
        let id = inner.entries.insert(Entry {
            state: State::Cut,
            since: now,
            busy: 0,
            ending: false,
            told: None,
            bell: bell.clone(),
        });
        let state = if inner.free_slots > 0 { State::Silent } else { State::Guest };
        inner.enter(id, state, now);
        drop(inner);
        Connection { table: self.clone(), id, bell, _place: place }
    }

    /// Ends whoever has had its time.
    pub(super) fn sweep(&self, now: Instant) {
        let Bounds { first_request, keep_alive, leave, .. } = self.bounds;
        let mut inner = lock(&self.inner);
        while let Some(id) = due(&inner.silent, first_request, now)
            .or_else(|| due(&inner.guests, first_request, now))
        {
            metrics::connection_closed(Closed::Silent);
            inner.cut(id, now);
        }
        while let Some(id) = due(&inner.idle, keep_alive, now) {
            metrics::connection_closed(Closed::Idle);
            inner.dismiss(id, now);
        }
        while let Some(id) = due(&inner.leaving, leave, now) {
            inner.cut(id, now);
        }
    }

    /// Cuts one off for who waits to be accepted, if one has had its time.
    pub(super) fn make_room(&self, now: Instant) {
        let mut inner = lock(&self.inner);
        let oldest = [inner.leaving.first(), inner.guests.first()].into_iter().flatten().min();
        if let Some((since, id)) = oldest.copied()
            && since + GUEST_TIME <= now
        {
            metrics::connection_closed(Closed::Crowded);
            inner.cut(id, now);
        }
    }

    /// Asks all to end with the requests in progress.
    pub(super) fn drain(&self, now: Instant) {
        let mut inner = lock(&self.inner);
        inner.draining = true;
        let ids: Vec<_> = inner.entries.iter().map(|(id, _)| id).collect();
        for id in ids {
            match inner.entries[id].state {
                State::Cut | State::Leaving => {}
                State::Busy => {
                    inner.entries[id].ending = true;
                    inner.tell(id, Told::Leave);
                }
                State::Silent | State::Idle | State::Guest => inner.dismiss(id, now),
            }
        }
    }

    /// Ends all that are left, and says how many of them had requests.
    pub(super) fn cut_all(&self, now: Instant) -> usize {
        let mut inner = lock(&self.inner);
        let busy = inner.entries.iter().filter(|(_, entry)| entry.busy > 0).count();
        let ids: Vec<_> = inner.entries.iter().map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| inner.cut(id, now));
        busy
    }

    fn begin(&self, id: Id, exempt: bool, now: Instant) -> Admission {
        let mut inner = lock(&self.inner);
        let state = inner.entries[id].state;
        let mut admission = Admission { counted: false, last: false, refused: None };
        let has_slot =
            Inner::has_slot(state) || (!exempt && state != State::Cut && inner.find_slot(now));
        if has_slot {
            inner.enter(id, State::Busy, now);
        } else {
            inner.entries[id].ending = true;
            admission.last = true;
        }
        if exempt {
        } else if !has_slot {
            admission.refused = Some(Overload::Connections);
        } else if inner.requests >= self.bounds.requests {
            admission.refused = Some(Overload::Requests);
        } else {
            admission.counted = true;
            inner.requests += 1;
        }
        inner.entries[id].busy += 1;
        admission
    }

    fn end(&self, id: Id, counted: bool, now: Instant) {
        let mut inner = lock(&self.inner);
        inner.requests -= usize::from(counted);
        let entry = &mut inner.entries[id];
        entry.busy -= 1;
        if entry.busy > 0 {
            return;
        }
        match (entry.state, entry.ending || inner.draining) {
            (State::Busy, false) => inner.enter(id, State::Idle, now),
            (State::Busy | State::Guest, _) => inner.dismiss(id, now),
            _ => {}
        }
    }
}

/// How a request is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Admission {
    /// It counts as one in progress.
    counted: bool,
    /// The connection ends with it.
    last: bool,
    refused: Option<Overload>,
}

/// A connection's place in the table, until it and its requests are gone.
#[derive(Debug)]
pub(super) struct Connection {
    table: Arc<Connections>,
    id: Id,
    bell: Arc<Notify>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// What to do, once there is something.
    pub(super) async fn told(&self) -> Told {
        loop {
            self.bell.notified().await;
            if let Some(told) = lock(&self.table.inner).entries[self.id].told.take() {
                return told;
            }
        }
    }

    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>, exempt: bool) -> InProgress {
        let admission = self.table.begin(self.id, exempt, Instant::now());
        if let Some(overload) = admission.refused {
            overload.report(&self.table.bounds);
        }
        InProgress { connection: self.clone(), admission }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut inner = lock(&self.table.inner);
        inner.enter(self.id, State::Cut, Instant::now());
        inner.entries.remove(self.id);
    }
}

/// A request, until its answer's last byte was handed over.
#[derive(Debug)]
pub(super) struct InProgress {
    connection: Arc<Connection>,
    admission: Admission,
}

impl InProgress {
    /// What it is beyond, if it is to be refused.
    pub(super) const fn refused(&self) -> Option<Overload> {
        self.admission.refused
    }

    /// The connection ends with it.
    pub(super) const fn is_last(&self) -> bool {
        self.admission.last
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.connection.table.end(self.connection.id, self.admission.counted, Instant::now());
    }
}
