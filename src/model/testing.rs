//! What the tests of models share.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::simulator::{self, Defaults};

/// As `main` does. Every test may call it: only the first call counts.
pub(super) fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A simulator on a free port, as fast as it can be, until it is dropped.
pub(super) struct TestSimulator {
    pub(super) address: SocketAddr,
    _stop: DropGuard,
}

impl TestSimulator {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let defaults = Defaults { rate: 0.0, ttft: Duration::ZERO, ..Defaults::default() };
        tokio::spawn(simulator::serve(listener, defaults, shutdown.clone()));
        Self { address, _stop: shutdown.drop_guard() }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}
