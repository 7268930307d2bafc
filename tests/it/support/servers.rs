//! Servers of a test's own, to break.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use tokio::net::TcpStream;

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
    options: Vec<String>,
    environment: Vec<(String, String)>,
}

impl PrivateRedis {
    pub(crate) async fn start() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"], &[]).await
    }

    /// With options of `redis-server`, and an environment of its own.
    pub(crate) async fn start_with(options: &[&str], environment: &[(&str, &str)]) -> Self {
        let directory = std::env::temp_dir().join(format!("rill-redis-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&directory).expect("a directory for Redis");
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let owned = |text: &&str| (*text).to_owned();
        let mut redis = Self {
            directory,
            port,
            child: None,
            options: options.iter().map(owned).collect(),
            environment: environment.iter().map(|(n, v)| (owned(n), owned(v))).collect(),
        };
        redis.launch().await;
        redis
    }

    /// Starts it (again), with what it had written to its log.
    pub(crate) async fn launch(&mut self) {
        let binary = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let child = super::process::mortal(&binary)
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", ""])
            .args(["--maxmemory-policy", "noeviction", "--dir"])
            .arg(&self.directory)
            .args(&self.options)
            .envs(self.environment.iter().cloned())
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

    /// Where it keeps its data: `appendonlydir/`.
    pub(crate) fn directory(&self) -> &std::path::Path {
        &self.directory
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

/// A PostgreSQL that a test may crash, made by `scripts/with-services`.
pub(crate) struct PrivatePostgres {
    url: String,
    /// Ends when its input is closed, and the server with it.
    script: Child,
}

impl PrivatePostgres {
    pub(crate) fn start() -> Self {
        Self::start_with("off")
    }

    /// With `fsync` on, it waits for the disk as it does in production.
    pub(crate) fn start_with(fsync: &str) -> Self {
        Self::started(&[("FSYNC", fsync)])
    }

    /// A standby of the server at `url`, which streams from it.
    pub(crate) fn standby_of(url: &str) -> Self {
        Self::started(&[("STANDBY_OF", url)])
    }

    fn started(environment: &[(&str, &str)]) -> Self {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut script = std::process::Command::new(root.join("scripts/with-services"))
            .args(["sh", "-c", "echo $DATABASE_URL; exec cat"])
            .env_remove("DATABASE_URL")
            .env("REDIS_URL", "redis://127.0.0.1:1")
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("scripts/with-services starts");
        let mut lines = BufReader::new(script.stdout.take().expect("stdout is piped")).lines();
        let url = lines
            .find_map(|line| line.ok().filter(|line| line.starts_with("postgres:")))
            .expect("scripts/with-services starts a postgres; run it by hand to see why not");
        Self { url, script }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Runs statements as a superuser, each by itself.
    pub(crate) async fn execute(&self, statements: &[&'static str]) {
        use sqlx::{Connection, Executor};
        let mut admin = sqlx::PgConnection::connect(&self.url).await.expect("PostgreSQL answers");
        for statement in statements {
            admin.execute(*statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
        }
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}
