//! Whether Redis' user may do what rill does: each right is probed.
//!
//! The commands are queued in a transaction that is given up: a right that is missing
//! is told when a command is queued, and nothing is executed. What only makes things
//! faster (hints) may be missing; readers wait up to a second then.

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisResult, Value, cmd};

use super::keys::GROUP;
use super::{PATIENCE, Result, Streams};
use crate::config::Finding;
use crate::domain::{JobKind, TaskId};

/// Which processes a process is: each needs other rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uses {
    /// It serves streams.
    pub api: bool,
    /// It runs tasks.
    pub worker: bool,
}

/// A command as it is probed.
struct Right {
    name: &'static str,
    command: Cmd,
    /// Without it, hints don't work.
    hint: bool,
}

impl Right {
    fn new(name: &'static str, arguments: &[&str]) -> Self {
        let mut command = Cmd::new();
        for word in name.split(' ').chain(arguments.iter().copied()) {
            command.arg(word);
        }
        Self { name, command, hint: false }
    }

    fn hint(name: &'static str, arguments: &[&str]) -> Self {
        Self { hint: true, ..Self::new(name, arguments) }
    }

    /// As an ACL's rule names it: `+xgroup|create`.
    fn rule(&self) -> String {
        format!("+{}", self.name.to_ascii_lowercase().replace(' ', "|"))
    }
}

impl Streams {
    /// What Redis' user may not do that this process does.
    ///
    /// # Errors
    /// When Redis is away.
    pub(super) async fn check_rights(&self, uses: Uses) -> Result<Vec<Finding>> {
        let mut connection = self.connect_once(PATIENCE).await?;
        let transactions = [Right::new("MULTI", &[]), Right::new("EXEC", &[])];
        let mut missing = Vec::new();
        for right in transactions {
            if may_not(&told(connection.req_packed_command(&right.command).await)?) {
                missing.push(right);
            }
        }
        // Without transactions, a probe would be executed.
        let rest = if missing.is_empty() {
            self.refused_rights(&mut connection, uses).await?
        } else {
            Vec::new()
        };
        missing.extend(rest);
        Ok(self.judge_rights(&missing))
    }

    /// Rights that are refused when their commands are queued.
    async fn refused_rights(
        &self,
        connection: &mut MultiplexedConnection,
        uses: Uses,
    ) -> Result<Vec<Right>> {
        let rights = self.rights(uses);
        told(connection.req_packed_command(&cmd("MULTI")).await)?;
        let mut commands = Pipeline::with_capacity(rights.len());
        for right in &rights {
            commands.add_command(right.command.clone());
        }
        let answers = connection.req_packed_commands(&commands, 0, rights.len()).await?;
        // Nothing is executed, whether this is allowed or not: the connection ends.
        let _ = connection.req_packed_command(&cmd("DISCARD")).await;
        let mut refused: Vec<_> = rights
            .into_iter()
            .zip(answers)
            .filter_map(|(right, answer)| may_not(&answer).then_some(right))
            .collect();
        // Can't be queued.
        let channels = [(uses.api, self.keys().wake()), (uses.worker, self.keys().cancel())];
        for (_, channel) in channels.into_iter().filter(|(used, _)| *used) {
            let right = Right::hint("SUBSCRIBE", &[&channel]);
            if may_not(&told(connection.req_packed_command(&right.command).await)?) {
                refused.push(right);
            }
        }
        Ok(refused)
    }

    fn rights(&self, uses: Uses) -> Vec<Right> {
        let keys = self.keys();
        let (deployment, wake, cancel) = (keys.deployment(), keys.wake(), keys.cancel());
        let task = keys.task(TaskId::generate());
        let (jobs, dead) = (keys.jobs(JobKind::Generate), keys.dead(JobKind::Generate));
        let (jobs, dead) = (jobs.as_str(), dead.as_str());
        let mut rights = vec![
            Right::new("SET", &[&deployment, "", "NX"]),
            Right::new("GET", &[&deployment]),
            Right::new("XADD", &[&task, "*", "e", ""]),
            Right::new("XADD", &[jobs, "*", "task", ""]),
            Right::new("PEXPIRE", &[&task, "1"]),
            Right::new("XRANGE", &[&task, "-", "+"]),
            Right::new("XINFO STREAM", &[&task]),
            Right::hint("PUBLISH", &[&wake, ""]),
        ];
        if uses.api {
            let bell = keys.bell(uuid::Uuid::nil(), 0);
            rights.extend([
                Right::new("XREAD", &["COUNT", "1", "STREAMS", &task, "0"]),
                Right::new("XADD", &[&bell, "*", "b", "1"]),
                Right::new("EXPIRE", &[&bell, "1"]),
                Right::hint("PUBLISH", &[&cancel, ""]),
            ]);
        }
        if uses.worker {
            rights.extend([
                Right::new("XGROUP CREATE", &[jobs, GROUP, "0", "MKSTREAM"]),
                Right::new("XGROUP DELCONSUMER", &[jobs, GROUP, "nobody"]),
                Right::new("XREADGROUP", &["GROUP", GROUP, "nobody", "STREAMS", jobs, ">"]),
                Right::new("XAUTOCLAIM", &[jobs, GROUP, "nobody", "1", "0"]),
                Right::new("XPENDING", &[jobs, GROUP]),
                Right::new("XCLAIM", &[jobs, GROUP, "nobody", "0", "0-1"]),
                Right::new("XACK", &[jobs, GROUP, "0-1"]),
                Right::new("XDEL", &[jobs, "0-1"]),
                Right::new("XINFO GROUPS", &[jobs]),
                Right::new("XINFO CONSUMERS", &[jobs, GROUP]),
                Right::new("XREVRANGE", &[dead, "+", "-"]),
                Right::new("XADD", &[dead, "*", "why", ""]),
                Right::new("EVALSHA", &["0000000000000000000000000000000000000000", "1", jobs]),
                Right::new("SCRIPT LOAD", &["return 1"]),
                Right::new("TIME", &[]),
            ]);
        }
        rights
    }

    fn judge_rights(&self, missing: &[Right]) -> Vec<Finding> {
        let info = self.inner.client.get_connection_info().redis_settings();
        let user = info.username().unwrap_or("default").to_owned();
        let (hints, needed): (Vec<&Right>, Vec<&Right>) =
            missing.iter().partition(|right| right.hint);
        let mut findings = Vec::new();
        for (rights, breaks) in [(needed, true), (hints, false)] {
            if rights.is_empty() {
                continue;
            }
            let mut names: Vec<_> = rights.iter().map(|right| right.name).collect();
            let mut rules: Vec<_> = rights.iter().map(|right| right.rule()).collect();
            names.dedup();
            rules.dedup();
            let prefix = &self.keys().prefix();
            let todo = format!(
                "ACL SETUSER {user} ~{prefix}:* &{prefix}:* {} (docs/operating-stores.md has all of them)",
                rules.join(" ")
            );
            let names = names.join(", ");
            findings.push(if breaks {
                Finding::breaking(format!(
                    "Redis' user {user} may not use {names} on rill's keys, so that no answer would ever \
                     come: {todo}"
                ))
            } else {
                Finding::weak(format!(
                    "Redis' user {user} may not use {names} on rill's channels: readers are up to a second \
                     late, and a cancel a heartbeat: {todo}"
                ))
            });
        }
        findings
    }
}

/// The answer, an error of the server's too, which redis-rs tells in either way.
fn told(outcome: RedisResult<Value>) -> Result<Value> {
    match outcome {
        Err(error) if is_refusal(error.code(), error.detail()) => Ok(Value::Boolean(false)),
        outcome => Ok(outcome?),
    }
}

fn may_not(answer: &Value) -> bool {
    match answer {
        Value::Boolean(allowed) => !allowed,
        Value::ServerError(error) => is_refusal(Some(error.code()), error.details()),
        _ => false,
    }
}

/// `EXEC` that is refused says so as a transaction that was given up.
fn is_refusal(code: Option<&str>, detail: Option<&str>) -> bool {
    match code {
        Some("NOPERM") => true,
        Some("EXECABORT") => detail.is_some_and(|detail| detail.contains("NOPERM")),
        _ => false,
    }
}
