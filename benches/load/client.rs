//! A client that keeps thousands of streams open and costs little: one thread,
//! one `epoll`, one buffer that all connections read into.
//!
//! It lives until [`Client::finish`], or until the process ends.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mio::event::Event;
use mio::{Events, Interest, Poll, Token, Waker};

use super::request::Request;
use super::stream::{Stream, Then};
use super::tally::{Progress, Tally};

/// Woken up for a command.
const WAKE: Token = Token(usize::MAX);

/// What the service asks those to wait that it refuses (`Retry-After: 1`).
const REFUSED: Duration = Duration::from_secs(1);

/// The most that one read takes.
const READ: usize = 256 * 1024;

enum Command {
    Open(Box<Request>),
    /// Answers with what was seen since the last time.
    Take(Sender<Tally>),
    /// Leaves all streams, and ends.
    Finish,
}

/// The thread, from outside.
pub(crate) struct Client {
    commands: Sender<Command>,
    waker: Waker,
    thread: JoinHandle<Result<Tally>>,
    /// What it has seen so far.
    pub(crate) progress: Arc<Progress>,
}

impl Client {
    pub(crate) fn start() -> Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let (commands, inbox) = channel();
        let progress = Arc::new(Progress::default());
        let shared = progress.clone();
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(move || {
            let streams = Streams {
                poll,
                all: Vec::new(),
                free: Vec::new(),
                refused: VecDeque::new(),
                tally: Tally::default(),
                progress: shared,
            };
            streams.run(&inbox)
        })?;
        Ok(Self { commands, waker, thread, progress })
    }

    /// Opens a stream; its end is counted, whatever it is.
    pub(crate) fn open(&self, request: Request) -> Result<()> {
        self.say(Command::Open(Box::new(request)))
    }

    /// What was seen since the last time; streams stay open.
    pub(crate) fn take(&self) -> Result<Tally> {
        let (answer, tally) = channel();
        self.say(Command::Take(answer))?;
        tally.recv_timeout(Duration::from_secs(10)).context("the client doesn't answer")
    }

    /// Leaves all streams that are open.
    pub(crate) fn finish(self) -> Result<Tally> {
        self.say(Command::Finish)?;
        self.thread.join().map_err(|_| anyhow::anyhow!("the client panicked"))?
    }

    /// Waits until `count` says so, and calls `each` about once a second.
    pub(crate) async fn until(
        &self,
        limit: Duration,
        mut done: impl FnMut(&Progress) -> bool,
        mut each: impl FnMut(&Progress),
    ) -> Result<()> {
        let (began, mut told) = (Instant::now(), Instant::now());
        while !done(&self.progress) {
            ensure!(began.elapsed() < limit, "not done after {limit:?}");
            ensure!(!self.thread.is_finished(), "the client has ended");
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                each(&self.progress);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn say(&self, command: Command) -> Result<()> {
        self.commands.send(command).ok().context("the client has ended")?;
        Ok(self.waker.wake()?)
    }
}

/// The thread's own.
struct Streams {
    poll: Poll,
    all: Vec<Option<Box<Stream>>>,
    free: Vec<usize>,
    /// Who comes back, and when; the earliest first.
    refused: VecDeque<(Instant, Request)>,
    tally: Tally,
    progress: Arc<Progress>,
}

impl Streams {
    fn run(mut self, inbox: &Receiver<Command>) -> Result<Tally> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; READ];
        loop {
            let wait = self.come_back();
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                if event.token() == WAKE {
                    while let Ok(command) = inbox.try_recv() {
                        match command {
                            Command::Open(request) => self.open(*request),
                            Command::Take(answer) => {
                                let _ = answer.send(std::mem::take(&mut self.tally));
                            }
                            Command::Finish => return Ok(self.finish()),
                        }
                    }
                } else {
                    self.serve(event, &mut buffer);
                }
            }
        }
    }

    /// Lets those come back whose time has come; how long until the next one's.
    fn come_back(&mut self) -> Option<Duration> {
        while let Some((due, _)) = self.refused.front() {
            let wait = due.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                return Some(wait);
            }
            let (_, request) = self.refused.pop_front()?;
            self.open(request);
        }
        None
    }

    fn open(&mut self, request: Request) {
        let at = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() - 1
        });
        match Stream::connect(request, |socket| self.register(at, socket)) {
            Ok(stream) => self.all[at] = Some(Box::new(stream)),
            Err(error) => {
                self.tally.broke(format!("connect: {error}"));
                self.forget(at);
            }
        }
    }

    fn register(&self, at: usize, socket: &mut mio::net::TcpStream) -> std::io::Result<()> {
        self.poll.registry().register(socket, Token(at), Interest::READABLE | Interest::WRITABLE)
    }

    /// Does what can be done on one connection.
    fn serve(&mut self, event: &Event, buffer: &mut [u8]) {
        let at = event.token().0;
        let Some(mut stream) = self.all.get_mut(at).and_then(Option::take) else { return };
        let seen = self.tally.tokens;
        let then = match stream.write() {
            Ok(()) if event.is_readable() || event.is_read_closed() => {
                self.read(&mut stream, event, buffer)
            }
            Ok(()) => Ok(Then::Stay),
            Err(error) => Err(error),
        };
        let seen = self.tally.tokens.saturating_sub(seen);
        self.progress.tokens.fetch_add(seen, Ordering::Relaxed);
        match then {
            Ok(Then::Stay) => self.all[at] = Some(stream),
            Ok(Then::ComeBack) => {
                let request = stream.come_back();
                drop(stream);
                self.tally.reconnects += 1;
                self.free.push(at);
                self.open(request);
            }
            Ok(Then::Refused) => {
                self.refused.push_back((Instant::now() + REFUSED, stream.again()));
                self.tally.refused += 1;
                self.free.push(at);
            }
            Ok(Then::Leave) => {
                stream.settle(&mut self.tally);
                self.forget(at);
            }
            Err(error) => {
                stream.settle(&mut self.tally);
                self.tally.broke(format!("{error:#}"));
                self.forget(at);
            }
        }
    }

    fn read(&mut self, stream: &mut Stream, event: &Event, buffer: &mut [u8]) -> Result<Then> {
        loop {
            let count = match stream.socket.read(buffer) {
                Ok(0) => return Err(anyhow::anyhow!("cut off before the end")),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Then::Stay),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let then = stream.receive(&buffer[..count], &mut self.tally, &self.progress)?;
            if !matches!(then, Then::Stay) {
                return Ok(then);
            }
            // A short read emptied the socket: `epoll` says when there is more.
            if count < buffer.len() && !event.is_read_closed() {
                return Ok(Then::Stay);
            }
        }
    }

    /// Whatever is open, isn't over.
    fn finish(mut self) -> Tally {
        for _ in &self.refused {
            self.tally.broke("refused, and not back when the client left".to_owned());
        }
        for stream in self.all.iter().flatten() {
            stream.settle(&mut self.tally);
            self.tally.broke("not over when the client left".to_owned());
        }
        self.tally
    }

    fn forget(&mut self, at: usize) {
        self.free.push(at);
        self.tally.last_end = Some(Instant::now());
        self.progress.ended.fetch_add(1, Ordering::Relaxed);
    }
}
