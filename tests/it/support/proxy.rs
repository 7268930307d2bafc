//! A TCP proxy before a real Redis or PostgreSQL that does what networks do:
//! goes away, cuts, delays, throttles, swallows replies, answers nothing.
//!
//! It understands just enough of the two protocols to set traps: a [`Trap`]
//! freezes a connection exactly before or after one request, so a test can kill
//! a process between any two of its steps, or lose exactly one reply.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::wire::Requests;

/// How the network is, between rill and a server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Weather {
    Clear,
    /// Connections are closed, further ones too.
    Away,
    /// Connections stay open, and nothing comes through.
    BlackHole,
    /// Requests come through, replies don't: a connection that has lost one brings none
    /// any more, as TCP has no holes, and is cut when the weather changes.
    LosesReplies,
    /// Each piece takes so much longer, both ways.
    Delay(Duration),
    /// So many bytes a second, both ways.
    Throttle(usize),
}

/// On which side of a request a connection freezes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freeze {
    /// The server never sees the request.
    Before,
    /// The server has got only the first half of its bytes.
    Midway,
    /// The server has answered it; the reply is lost.
    After,
}

/// Waits for a request.
pub(crate) struct Trap(oneshot::Receiver<String>);

impl Trap {
    /// The request that was caught. Its connection stays frozen until it is cut.
    pub(crate) async fn sprung(self) -> String {
        super::within("the trap is sprung", self.0).await.expect("the proxy lives")
    }
}

struct Armed {
    freeze: Freeze,
    matches: Box<dyn Fn(&str) -> bool + Send>,
    sprung: oneshot::Sender<String>,
}

struct Shared {
    /// Where new connections lead.
    target: Mutex<String>,
    postgres: bool,
    weather: watch::Sender<Weather>,
    cut: Mutex<CancellationToken>,
    thaw: Notify,
    traps: Mutex<Vec<Armed>>,
}

/// A proxy before one server.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Before the server of a `redis:` or `postgres:` URL.
    pub(crate) async fn before(url: &str) -> Self {
        let shared = Arc::new(Shared {
            target: Mutex::new(target(url)),
            postgres: url.starts_with("postgres"),
            weather: watch::Sender::new(Weather::Clear),
            cut: Mutex::default(),
            thaw: Notify::new(),
            traps: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let proxied = shared.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(proxied.clone(), client));
            }
        });
        Self { address, shared }
    }

    /// As a switch does behind one address: new connections lead to another server,
    /// those that there are stay.
    pub(crate) fn lead_to(&self, url: &str) {
        *self.shared.target.lock().expect("a target") = target(url);
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn weather(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
        if weather == Weather::Away {
            self.cut();
        }
    }

    /// Cuts every connection; further ones are closed at once.
    pub(crate) fn take_away(&self) {
        self.weather(Weather::Away);
    }

    pub(crate) fn bring_back(&self) {
        self.weather(Weather::Clear);
    }

    /// Cuts every connection, frozen ones too.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.shared.cut.lock().expect("cut")).cancel();
    }

    /// Requests that were frozen before the server saw them arrive now, late.
    pub(crate) fn thaw(&self) {
        self.shared.thaw.notify_waiters();
    }

    /// Freezes the connection with the next request that matches. Its text is
    /// the SQL, or the command's arguments, of a transaction all together.
    pub(crate) fn trap(
        &self,
        freeze: Freeze,
        matches: impl Fn(&str) -> bool + Send + 'static,
    ) -> Trap {
        let (sprung, hit) = oneshot::channel();
        let armed = Armed { freeze, matches: Box::new(matches), sprung };
        self.shared.traps.lock().expect("traps").push(armed);
        Trap(hit)
    }
}

fn target(url: &str) -> String {
    let url = reqwest::Url::parse(url).expect("a URL");
    format!("{}:{}", url.host_str().expect("a host"), url.port().expect("a port"))
}

/// One connection.
struct Carried {
    shared: Arc<Shared>,
    /// Replies are swallowed; the first one says that the request was served.
    frozen: AtomicBool,
    served: Mutex<Option<(oneshot::Sender<String>, String)>>,
}

async fn carry(shared: Arc<Shared>, client: TcpStream) {
    if *shared.weather.borrow() == Weather::Away {
        return;
    }
    let cut = shared.cut.lock().expect("cut").clone();
    let target = shared.target.lock().expect("a target").clone();
    let Ok(server) = TcpStream::connect(&target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let carried = Carried { shared, frozen: AtomicBool::new(false), served: Mutex::default() };
    tokio::select! {
        () = carried.requests(from_client, to_server) => {}
        () = carried.replies(from_server, to_client) => {}
        () = cut.cancelled() => {}
    }
}

impl Carried {
    async fn requests(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut requests = Requests::new(self.shared.postgres);
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            self.weathered(count).await;
            requests.feed(&buffer[..count]);
            while let Some((bytes, text)) = requests.next() {
                // Thawed, it may run into the next trap.
                while let Some((armed, text)) =
                    text.as_ref().and_then(|text| Some((self.caught(text)?, text.clone())))
                {
                    let thawed = self.shared.thaw.notified();
                    tokio::pin!(thawed);
                    thawed.as_mut().enable();
                    match armed.freeze {
                        Freeze::Before => {
                            let _ = armed.sprung.send(text);
                            thawed.await;
                        }
                        Freeze::Midway => {
                            let _ = to.write_all(&bytes[..bytes.len() / 2]).await;
                            let _ = armed.sprung.send(text);
                            return std::future::pending().await;
                        }
                        Freeze::After => {
                            *self.served.lock().expect("served") = Some((armed.sprung, text));
                            self.frozen.store(true, Ordering::SeqCst);
                            break;
                        }
                    }
                }
                if to.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        }
        if self.frozen.load(Ordering::SeqCst) {
            // The client was killed: what it sent is served all the same.
            std::future::pending().await
        }
    }

    async fn replies(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            self.weathered(count).await;
            if self.frozen.load(Ordering::SeqCst) {
                if let Some((sprung, text)) = self.served.lock().expect("served").take() {
                    let _ = sprung.send(text);
                }
            } else if *self.shared.weather.borrow() == Weather::LosesReplies {
                let mut weather = self.shared.weather.subscribe();
                let drained = async { while let Ok(1..) = from.read(&mut buffer).await {} };
                tokio::select! {
                    _ = weather.wait_for(|now| *now != Weather::LosesReplies) => return,
                    () = drained => return,
                }
            } else if to.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    }

    fn caught(&self, text: &str) -> Option<Armed> {
        let mut traps = self.shared.traps.lock().expect("traps");
        let hit = traps.iter().position(|armed| (armed.matches)(text))?;
        Some(traps.remove(hit))
    }

    /// Takes as long as the weather wants it to.
    async fn weathered(&self, bytes: usize) {
        let mut weather = self.shared.weather.subscribe();
        let now = *weather.borrow_and_update();
        match now {
            Weather::Clear | Weather::Away | Weather::LosesReplies => {}
            Weather::Delay(delay) => tokio::time::sleep(delay).await,
            Weather::Throttle(rate) => {
                tokio::time::sleep(Duration::from_secs(1).mul_f64(bytes as f64 / rate as f64))
                    .await;
            }
            Weather::BlackHole => {
                let _ = weather.wait_for(|now| *now != Weather::BlackHole).await;
            }
        }
    }
}
