//! A real `rill` process, killed by its own pid when the test is over.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex};

use tokio::sync::Notify;

/// A command that dies with the thread that starts it, so that tests which are
/// killed leave nothing behind. Without `setpriv` (util-linux), it lives on.
pub(super) fn mortal(program: &str) -> Command {
    static SETPRIV: LazyLock<bool> = LazyLock::new(|| {
        let version = Command::new("setpriv").args(["--pdeathsig", "KILL", "true"]).status();
        version.is_ok_and(|status| status.success())
    });
    if *SETPRIV {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program]);
        command
    } else {
        Command::new(program)
    }
}

/// A running `rill`.
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
    logged: Arc<Notify>,
    /// Ends with its standard error.
    logging: Option<std::thread::JoinHandle<()>>,
}

impl Process {
    /// Starts `rill` with arguments and environment; its log is kept.
    pub(crate) fn start(arguments: &[&str], environment: &[(String, String)]) -> Self {
        Self::start_program(env!("CARGO_BIN_EXE_rill"), arguments, environment)
    }

    /// Starts another program in the same way.
    pub(crate) fn start_program(
        program: &str,
        arguments: &[&str],
        environment: &[(String, String)],
    ) -> Self {
        let mut command = mortal(program);
        command
            .args(arguments)
            .env_clear()
            .envs(
                std::env::vars()
                    .filter(|(name, _)| !name.starts_with("RILL_") && !name.starts_with("OPENAI_")),
            )
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("rill starts");
        let log = Arc::new(Mutex::new(String::new()));
        let logged = Arc::new(Notify::new());
        let stderr = child.stderr.take().expect("stderr is piped");
        let (log_to, wake) = (log.clone(), logged.clone());
        let logging = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = log_to.lock().expect("log");
                log.push_str(&line);
                log.push('\n');
                drop(log);
                wake.notify_waiters();
            }
        });
        Self { child, log, logged, logging: Some(logging) }
    }

    /// Everything logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("log").clone()
    }

    /// Waits for a line with `text`, and answers with it.
    pub(crate) async fn logged(&self, text: &str) -> String {
        let found = async {
            loop {
                let next = self.logged.notified();
                tokio::pin!(next);
                next.as_mut().enable();
                if let Some(line) = self.log().lines().find(|line| line.contains(text)) {
                    return line.to_owned();
                }
                next.await;
            }
        };
        match tokio::time::timeout(super::PATIENCE, found).await {
            Ok(line) => line,
            Err(_) => panic!("rill never logged {text:?}:\n{}", self.log()),
        }
    }

    /// The address after `http://` in the line with `text`.
    pub(crate) async fn address(&self, text: &str) -> String {
        let line = self.logged(text).await;
        let (_, rest) = line.split_once("http://").expect("the line has an address");
        rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect()
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// It has ended, by itself or not.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// The end of its log.
    pub(crate) fn last_lines(&self, count: usize) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// Sends a signal to this very process.
    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.pid().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success(), "kill -{signal} {}", self.pid());
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for the process to end by itself, and for all of its log; its exit status.
    pub(crate) async fn ended(&mut self) -> std::process::ExitStatus {
        let deadline = tokio::time::Instant::now() + super::PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                if let Some(logging) = self.logging.take() {
                    logging.join().expect("the log is read");
                }
                return status;
            }
            assert!(tokio::time::Instant::now() < deadline, "rill did not end:\n{}", self.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of rill {} ---\n{}", self.child.id(), self.log());
        }
    }
}
