//! A real nginx, with a configuration of a test's own.

use std::path::PathBuf;
use std::process::{Child, Stdio};

use tokio::net::TcpStream;

/// A running nginx; each of its servers has a port of its own.
pub(crate) struct Nginx {
    directory: PathBuf,
    ports: Vec<u16>,
    child: Child,
}

impl Nginx {
    /// One server for each of `servers`: what stands in its block, beside `listen`.
    pub(crate) async fn start(servers: &[String]) -> Self {
        let directory = std::env::temp_dir().join(format!("rill-nginx-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&directory).expect("a directory for nginx");
        let ports: Vec<_> = servers.iter().map(|_| free_port()).collect();
        let mut http = String::new();
        for (server, port) in servers.iter().zip(&ports) {
            http += &format!("server {{ listen 127.0.0.1:{port}; {server} }}\n");
        }
        let at = directory.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {at}/{kind};\n"))
            .concat();
        let configuration = format!(
            "daemon off; worker_processes 1; pid {at}/pid; error_log {at}/log;\nevents {{}}\n\
             http {{ access_log off; {temporary} {http} }}\n"
        );
        let file = directory.join("nginx.conf");
        std::fs::write(&file, configuration).expect("a configuration");
        let child = super::process::mortal(&program())
            .arg("-c")
            .arg(&file)
            .args(["-e", &format!("{at}/log")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx starts: scripts/install nginx");
        let nginx = Self { directory, ports, child };
        for port in nginx.ports.clone() {
            super::eventually("nginx answers", || async move {
                TcpStream::connect(("127.0.0.1", port)).await.is_ok()
            })
            .await;
        }
        nginx
    }

    /// Where each server is.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect()
    }
}

/// Debian keeps it where only root's `PATH` leads.
fn program() -> String {
    let debian = "/usr/sbin/nginx";
    if std::path::Path::new(debian).exists() { debian } else { "nginx" }.to_owned()
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0");
    listener.and_then(|listener| listener.local_addr()).expect("a free port").port()
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM: its worker ends with it.
        let pid = self.child.id().to_string();
        let _ = std::process::Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
