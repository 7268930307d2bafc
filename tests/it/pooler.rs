//! PgBouncer between rill and PostgreSQL.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::support::{App, Process, eventually};

/// Debian's PgBouncer before the tests' PostgreSQL.
struct PgBouncer {
    child: Child,
    address: SocketAddr,
    configuration: std::path::PathBuf,
}

impl PgBouncer {
    async fn start(pool_mode: &str) -> Self {
        let url = std::env::var("DATABASE_URL").expect("make test");
        let url = reqwest::Url::parse(&url).expect("a URL");
        let (host, port) = (url.host_str().expect("a host"), url.port().expect("a port"));
        let address = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port");
        let configuration =
            std::env::temp_dir().join(format!("rill-pgbouncer-{}.ini", uuid::Uuid::new_v4()));
        let settings = format!(
            "[databases]\n* = host={host} port={port} user={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {}\nauth_type = any\nunix_socket_dir =\npool_mode = {pool_mode}\n\
             default_pool_size = 60\n",
            url.username(),
            address.port(),
        );
        std::fs::write(&configuration, settings).expect("writes");
        let mut command = Command::new("pgbouncer");
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "nobody"]);
        }
        let child = command
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbouncer starts (scripts/install pgbouncer)");
        eventually("pgbouncer answers", || async {
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
        Self { child, address, configuration }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.configuration);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgbouncer_in_session_mode_serves() {
    let pooler = PgBouncer::start("session").await;
    let app = App::builder().database_through(pooler.address).start().await;
    let posted = app.say("[[tokens=20]] [[rate=0]]").await;
    let reader = app.read(&posted).await;
    assert_eq!(reader.end.as_ref().expect("ended").event, "done");
    assert_eq!(reader.answer, app.stored(&posted).await);
    assert!(app.log_is_clean(), "{}", app.api.log());
    assert!(!app.workers[0].log().contains("ERROR"), "{}", app.workers[0].log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgbouncer_that_keeps_no_sessions_is_refused_with_what_to_change() {
    let app = App::builder().workers(0).start().await;
    let pooler = PgBouncer::start("transaction").await;
    let mut url = reqwest::Url::parse(&app.database_url()).expect("a URL");
    url.set_ip_host(pooler.address.ip()).expect("a host");
    url.set_port(Some(pooler.address.port())).expect("a port");
    for role in ["api", "worker"] {
        let environment = [
            ("DATABASE_URL", url.as_str()),
            ("REDIS_URL", &app.redis_url),
            ("RILL_LISTEN", "127.0.0.1:0"),
            ("OPENAI_BASE_URL", "http://127.0.0.1:9/v1"),
            ("RILL_MODELS", "any"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut process = Process::start(&[role], &environment);
        let status = process.ended().await;
        assert!(!status.success(), "{role}: {}", process.log());
        assert!(process.log().contains("pool_mode = session"), "{role}: {}", process.log());
    }
}
