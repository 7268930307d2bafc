//! `make run`: how its stores are asked beside it.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio::net::TcpListener;

use crate::support::{App, Process};

/// A clone with the scripts alone, whose `cargo` has built already.
struct Clone(PathBuf);

impl Clone {
    fn new() -> Self {
        let root = std::env::temp_dir().join(format!("rill clone {}", uuid::Uuid::new_v4()));
        let (scripts, built) = (root.join("scripts"), root.join("target/debug"));
        for folder in [&scripts, &built, &root.join("bin")] {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
        for entry in std::fs::read_dir(sources).expect("scripts") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), scripts.join(entry.file_name())).expect("copied");
        }
        symlink(env!("CARGO_BIN_EXE_rill"), built.join("rill")).expect("a link");
        let cargo = root.join("bin/cargo");
        let answer = format!(r#"{{"target_directory":"{}"}}"#, root.join("target").display());
        std::fs::write(&cargo, format!("#!/bin/sh\n[ $1 = build ] || echo '{answer}'\n"))
            .expect("written");
        std::fs::set_permissions(&cargo, PermissionsExt::from_mode(0o755)).expect("a program");
        Self(root)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("text").to_owned()
    }
}

impl Drop for Clone {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn make_run_says_how_its_stores_are_asked_and_that_works() {
    let app = App::builder().workers(0).start().await;
    let clone = Clone::new();
    let free = TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr());
    let port = free.expect("a free port").port().to_string();
    let path = std::env::var("PATH").expect("PATH");
    let environment = [
        ("PATH", format!("{}:{path}", clone.path("bin"))),
        ("DATABASE_URL", app.database_url()),
        // What a shell would read otherwise.
        ("REDIS_URL", format!("{}/?a=$b&c='d'", app.redis_url.trim_end_matches('/'))),
        ("RILL_REDIS_PREFIX", app.name.clone()),
        ("PORT", port),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    let mut run = Process::start_program(&clone.path("scripts/run"), &[], &environment);
    run.logged("rill is at").await;
    let line = run.logged("&& rill queue").await;
    let file = clone.path(".rill/env");
    let mode = std::fs::metadata(&file).expect("the file").permissions().mode();
    assert_eq!(mode & 0o077, 0, "a password may be in it");
    let asked = Command::new("bash").args(["-c", &line]).env_clear().env("PATH", &path).output();
    let asked = asked.expect("bash");
    let (out, err) =
        (String::from_utf8_lossy(&asked.stdout), String::from_utf8_lossy(&asked.stderr));
    assert!(asked.status.success() && out.contains("alive"), "{line}\n{out}{err}");
    run.signal("TERM");
    run.ended().await;
    assert!(!Path::new(&file).exists(), "it outlived what it is about");
}
