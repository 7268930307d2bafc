//! The lane that all appends of a process share.
//!
//! What tasks append while one round trip is under way goes together in the
//! next: alone, an append leaves at once; under load, many share a write, a
//! wake of Redis, a hint and a wake of this process, so that a token gets
//! cheaper the more of them there are. Nothing waits on a timer.
//!
//! Each task has one append in flight at most, which bounds the lane.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use redis::{Cmd, Pipeline, Value};
use tokio::sync::Notify;

use super::hint::Hints;
use super::link::Link;
use super::{Error, PATIENCE, Result};
use crate::domain::{EventId, TaskId};
use crate::sync::lock;

/// Appends of one round trip, at most.
const BATCH: usize = 512;
/// Bytes of their events, at which no more are added.
const BYTES: usize = 256 * 1024;

/// An append on its way.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) command: Cmd,
    /// Bytes of the command, about.
    pub(super) bytes: usize,
    /// Whose stream it is for, and which event it is.
    pub(super) hint: (TaskId, EventId),
}

/// What came of an append.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Redis' answer, which may be a `Value::ServerError`, or why there is none.
    pub(super) answer: Result<Value>,
    /// The connection that brought it.
    pub(super) generation: u64,
    pub(super) at: Instant,
}

impl Outcome {
    /// The event is in the stream.
    fn is_plain(&self) -> bool {
        matches!(self.answer, Ok(Value::BulkString(_) | Value::SimpleString(_)))
    }
}

/// Where the outcomes of one task's appends arrive, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Receipt {
    state: Mutex<Expected>,
}

#[derive(Debug, Default)]
struct Expected {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
    /// Nobody waits for a plain outcome.
    patient: bool,
    /// The connection that brought the last one.
    generation: u64,
}

impl Receipt {
    /// Says whether anybody waits for the append in flight: if not, its task is
    /// not woken just to hear that all is well. True: there is an outcome, and
    /// somebody waits for it.
    pub(crate) fn set_patient(&self, patient: bool) -> bool {
        let mut state = lock(&self.state);
        state.patient = patient;
        !patient && state.outcome.is_some()
    }

    fn expect(&self) {
        let mut state = lock(&self.state);
        state.outcome = None;
        state.patient = false;
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Outcome> {
        let mut state = lock(&self.state);
        if let Some(outcome) = state.outcome.take() {
            state.generation = outcome.generation;
            return Poll::Ready(outcome);
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn arrived(&self, outcome: Outcome) {
        let mut state = lock(&self.state);
        let news = !outcome.is_plain() || outcome.generation != state.generation;
        state.outcome = Some(outcome);
        let waker = (news || !state.patient).then(|| state.waker.take()).flatten();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Vec<(Append, Arc<Receipt>)>>,
    asked: Notify,
}

/// The lane; see the module.
#[derive(Debug)]
pub(super) struct Lane {
    queue: Arc<Queue>,
}

impl Lane {
    /// A lane, and what sends its appends over `link`, for ever. `channel` gets
    /// the hints.
    pub(super) fn new(link: Link, channel: String) -> (Self, impl Future<Output = ()> + Send) {
        let queue = Arc::new(Queue::default());
        (Self { queue: queue.clone() }, run(queue, link, channel))
    }

    /// Appends, and waits for the outcome at `receipt`, which no other append
    /// uses at the same time.
    pub(super) async fn append(&self, append: Append, receipt: &Arc<Receipt>) -> Outcome {
        receipt.expect();
        lock(&self.queue.waiting).push((append, receipt.clone()));
        self.queue.asked.notify_one();
        poll_fn(|cx| receipt.poll(cx)).await
    }
}

async fn run(queue: Arc<Queue>, link: Link, channel: String) {
    loop {
        let (appends, receipts) = take_batch(&queue);
        if appends.is_empty() {
            queue.asked.notified().await;
            continue;
        }
        let (answers, generation) = send(&link, &channel, appends).await;
        let at = Instant::now();
        let mut answers = answers.map(Vec::into_iter);
        for receipt in receipts {
            let answer = match &mut answers {
                Ok(answers) => answers.next().ok_or(Error::Unexpected("XADD")),
                Err(error) => Err(error.clone()),
            };
            receipt.arrived(Outcome { answer, generation, at });
        }
    }
}

fn take_batch(queue: &Queue) -> (Vec<Append>, Vec<Arc<Receipt>>) {
    let mut waiting = lock(&queue.waiting);
    let mut bytes = 0;
    let fits = waiting.iter().take(BATCH).take_while(|(append, _)| {
        let fits = bytes < BYTES;
        bytes += append.bytes;
        fits
    });
    let fits = fits.count();
    waiting.drain(..fits).unzip()
}

/// All of a batch, and their hints, in one round trip.
async fn send(link: &Link, channel: &str, appends: Vec<Append>) -> (Result<Vec<Value>>, u64) {
    let mut connected = match link.get(PATIENCE).await {
        Ok(connected) => connected,
        Err(error) => return (Err(error), 0),
    };
    let mut hints = Hints::default();
    let count = appends.len() + 1;
    let mut commands = Pipeline::with_capacity(count);
    for append in appends {
        let (task, event) = append.hint;
        hints.push(task, event);
        commands.add_command(append.command);
    }
    // A hint that fails costs a second, no event: only XADD's answers count.
    commands.cmd("PUBLISH").arg(channel).arg(hints.as_str());
    (connected.send_all(&commands, count).await, connected.generation)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn outcome(answer: Result<Value>, generation: u64) -> Outcome {
        Outcome { answer, generation, at: Instant::now() }
    }

    fn added() -> Result<Value> {
        Ok(Value::BulkString(b"1-1".to_vec()))
    }

    /// Waits for an outcome, gets it, and says how often that woke.
    fn woken_by(receipt: &Receipt, patient: bool, outcome: Outcome) -> usize {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let cx = Context::from_waker(&waker);
        receipt.expect();
        assert!(receipt.poll(&cx).is_pending());
        assert!(!receipt.set_patient(patient));
        receipt.arrived(outcome);
        let woken = woken.0.load(Ordering::Relaxed);
        assert!(receipt.poll(&cx).is_ready());
        woken
    }

    #[test]
    fn who_is_patient_is_woken_only_by_what_is_not_plain() {
        let receipt = Receipt::default();
        // The first is from another connection than none.
        assert_eq!(woken_by(&receipt, true, outcome(added(), 1)), 1);
        assert_eq!(woken_by(&receipt, true, outcome(added(), 1)), 0);
        assert_eq!(woken_by(&receipt, false, outcome(added(), 1)), 1);
        for odd in [Ok(Value::Nil), Err(Error::Disconnected)] {
            assert_eq!(woken_by(&receipt, true, outcome(odd, 1)), 1);
        }
        assert_eq!(woken_by(&receipt, true, outcome(added(), 2)), 1);
    }

    #[test]
    fn who_stops_being_patient_hears_of_what_is_there() {
        let receipt = Receipt::default();
        receipt.expect();
        assert!(!receipt.set_patient(true));
        receipt.arrived(outcome(added(), 0));
        assert!(!receipt.set_patient(true));
        assert!(receipt.set_patient(false));
    }

    #[test]
    fn a_batch_is_bounded_and_nothing_is_too_large_for_it() {
        let queue = Queue::default();
        let append = |bytes| {
            let append =
                Append { command: Cmd::new(), bytes, hint: (TaskId::generate(), EventId::START) };
            (append, Arc::default())
        };
        let sizes = [BYTES * 4, 1, BYTES - 1, 1, 1];
        lock(&queue.waiting).extend(sizes.map(append));
        lock(&queue.waiting).extend((0..BATCH).map(|_| append(1)));
        let mut batches = Vec::new();
        loop {
            let (appends, _) = take_batch(&queue);
            if appends.is_empty() {
                break;
            }
            batches.push(appends.len());
        }
        assert_eq!(batches, [1, 2, BATCH, 2]);
    }
}
