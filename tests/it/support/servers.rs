//! Servers of a test's own, to break: a Redis, and a proxy before a server.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A connection of the test's own, patient enough for a machine that is busy.
pub(crate) async fn connect_to_redis(url: &str) -> redis::aio::MultiplexedConnection {
    let patient = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(super::PATIENCE))
        .set_response_timeout(Some(super::PATIENCE));
    redis::Client::open(url)
        .expect("the URL of Redis")
        .get_multiplexed_async_connection_with_config(&patient)
        .await
        .expect("Redis answers")
}

/// A redis-server that a test may kill, restart or reconfigure.
pub(crate) struct PrivateRedis {
    directory: std::path::PathBuf,
    port: u16,
    child: Option<Child>,
}

impl PrivateRedis {
    pub(crate) async fn start() -> Self {
        let directory = std::env::temp_dir().join(format!("rill-redis-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&directory).expect("a directory for Redis");
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let mut redis = Self { directory, port, child: None };
        redis.launch().await;
        redis
    }

    /// Starts it (again), with what it had written to its log.
    pub(crate) async fn launch(&mut self) {
        let binary = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let child = Command::new(binary)
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
            .arg(&self.directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server starts");
        self.child = Some(child);
        let port = self.port;
        super::eventually("redis-server answers", || async move {
            TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A TCP proxy that can be taken away, and comes back.
pub(crate) struct Proxy {
    address: std::net::SocketAddr,
    down: Arc<AtomicBool>,
    cut: Arc<std::sync::Mutex<CancellationToken>>,
}

impl Proxy {
    /// Before `host:port`.
    pub(crate) async fn before(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let down = Arc::new(AtomicBool::new(false));
        let cut = Arc::new(std::sync::Mutex::new(CancellationToken::new()));
        let (is_down, cut_now) = (down.clone(), cut.clone());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                if is_down.load(Ordering::SeqCst) {
                    continue;
                }
                let cut = cut_now.lock().expect("cut").clone();
                let target = target.clone();
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(&target).await else { return };
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        () = cut.cancelled() => {}
                    }
                    let _ = client.shutdown().await;
                });
            }
        });
        Self { address, down, cut }
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    /// Cuts every connection; further ones are closed at once.
    pub(crate) fn take_away(&self) {
        self.down.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        let mut cut = self.cut.lock().expect("cut");
        cut.cancel();
        *cut = CancellationToken::new();
    }

    pub(crate) fn bring_back(&self) {
        self.down.store(false, Ordering::SeqCst);
    }
}
