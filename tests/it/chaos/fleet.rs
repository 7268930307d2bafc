//! The processes, the servers and the networks between them; and what each
//! fault does to them.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};

use super::aof::AofWatcher;
use super::client::World;
use super::plan::{APIS, Fault, Server, WORKERS};
use super::verdict::Harm;
use crate::support::{PrivateRedis, Process, Proxy, Weather, connect_to_redis};

/// A process, with networks of its own to both servers.
struct Member {
    name: String,
    role: &'static str,
    process: Option<Process>,
    paused: bool,
    redis: Proxy,
    database: Proxy,
}

/// What ends a fault.
#[derive(Debug, Clone, Copy)]
pub(super) enum Repair {
    Start(usize),
    Resume(usize),
    Clear(usize, Server),
    Redis,
    RedisRoom,
    RedisPromoted,
    Postgres,
    PostgresWritable,
}

/// Everything that can break.
pub(super) struct Fleet {
    world: Arc<World>,
    members: Vec<Member>,
    redis: PrivateRedis,
    redis_is_up: bool,
    pub(super) aof: AofWatcher,
    pub(super) database_url: String,
    environment: Vec<(String, String)>,
    /// The released binary, which every other process is, if there is one.
    released: Option<String>,
    /// Processes that were started.
    starts: usize,
    simulator: Process,
}

pub(super) const PREFIX: &str = "chaos";

/// The released binary, if it is to run beside this one.
pub(super) fn released() -> Option<String> {
    std::env::var("RILL_RELEASED_BIN").ok().filter(|path| !path.is_empty())
}

impl Fleet {
    pub(super) async fn start(world: Arc<World>, database_url: &str) -> Self {
        // Its log is what is judged, so each command has to be in it before it is
        // answered. With `everysec` Redis puts a write off for up to 2 s while an fsync
        // is slow: killed then, it has lost what it had confirmed, and nobody saw it.
        // `RedisForgets` is for that.
        let redis = PrivateRedis::start_with(
            &[
                "--appendonly",
                "yes",
                "--appendfsync",
                "no",
                "--aof-timestamp-enabled",
                "yes",
                "--auto-aof-rewrite-percentage",
                "0",
            ],
            &[],
        )
        .await;
        let simulator = Process::start(&["simulate", "--listen", "127.0.0.1:0"], &[]);
        let model = simulator.address("a simulator is at").await;
        let environment = [
            ("RILL_REDIS_PREFIX", PREFIX),
            ("RILL_LISTEN", "127.0.0.1:0"),
            ("OPENAI_BASE_URL", &format!("http://{model}/v1")),
            ("RILL_MODELS", "simulator"),
            ("RILL_LEASE", "1500ms"),
            ("RILL_HEARTBEAT", "500ms"),
            ("RILL_RETRY_BASE", "100ms"),
            ("RILL_RETRY_MAX", "1s"),
            ("RILL_MODEL_IDLE_TIMEOUT", "3s"),
            ("RILL_DRAIN_GRACE", "1s"),
            ("RILL_STREAM_TTL", "30s"),
            // Faults are charged to tasks; here they have more than their share.
            ("RILL_MAX_FAILURES", "12"),
            ("RILL_MAX_LOSSES", "24"),
            ("RILL_STREAM_MAXLEN", "100"),
        ];
        let environment =
            environment.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        let mut members = Vec::new();
        for n in 0..APIS + WORKERS {
            let role = if n < APIS { "api" } else { "worker" };
            members.push(Member {
                name: format!("{role} {}", if n < APIS { n } else { n - APIS }),
                role,
                process: None,
                paused: false,
                redis: Proxy::before(&redis.url()).await,
                database: Proxy::before(database_url).await,
            });
        }
        let aof = AofWatcher::new(redis.directory());
        let database_url = database_url.to_owned();
        let mut fleet = Self {
            world,
            members,
            redis,
            redis_is_up: true,
            aof,
            database_url,
            environment,
            released: released(),
            starts: 0,
            simulator,
        };
        for n in 0..fleet.members.len() {
            fleet.begin_process(n).await;
        }
        fleet
    }

    /// How many processes were started, and what they were.
    pub(super) fn versions(&self) -> String {
        match &self.released {
            Some(released) => format!("{} processes, every other one {released}", self.starts),
            None => format!("{} processes of one version", self.starts),
        }
    }

    pub(super) fn redis_url(&self) -> String {
        self.redis.url()
    }

    async fn begin_process(&mut self, n: usize) {
        let member = &mut self.members[n];
        let mut environment = self.environment.clone();
        let through = |url: &str, proxy: &Proxy| {
            let mut url = reqwest::Url::parse(url).expect("a URL");
            url.set_port(Some(proxy.address().port())).expect("a port");
            url.to_string()
        };
        let database = through(&self.database_url, &member.database);
        environment.push(("DATABASE_URL".to_owned(), database));
        environment.push(("REDIS_URL".to_owned(), through(&self.redis.url(), &member.redis)));
        self.starts += 1;
        // Each member has its turn of either version, beside members of the other.
        let program = match &self.released {
            Some(released) if self.starts.is_multiple_of(2) => released,
            _ => env!("CARGO_BIN_EXE_rill"),
        };
        let process = Process::start_program(program, &[member.role], &environment);
        if n < APIS {
            let url = format!("http://{}", process.address("rill is at").await);
            self.world.apis.lock().expect("apis")[n] = Some(url);
        }
        member.process = Some(process);
        member.paused = false;
    }

    fn gone(&self, n: usize) {
        if n < APIS {
            self.world.apis.lock().expect("apis")[n] = None;
        }
    }

    /// Makes it go wrong; how, and when, it is to be repaired. Nothing when what
    /// it would befall is broken already.
    pub(super) async fn begin(&mut self, fault: Fault) -> Option<Vec<(Duration, Repair)>> {
        match fault {
            Fault::Killed { member, back_after } => {
                let mut process = self.members[member].process.take()?;
                self.gone(member);
                process.kill();
                return Some(vec![(back_after, Repair::Start(member))]);
            }
            Fault::Stopped { member } => {
                if self.members[member].paused {
                    return None;
                }
                let mut process = self.members[member].process.take()?;
                self.gone(member);
                process.signal("TERM");
                // It drains beside its successor, as in a rolling restart.
                tokio::spawn(async move { process.ended().await });
                self.begin_process(member).await;
            }
            Fault::Paused { member, lasts } => {
                let paused = &mut self.members[member];
                paused.process.as_ref().filter(|_| !paused.paused)?.signal("STOP");
                paused.paused = true;
                return Some(vec![(lasts, Repair::Resume(member))]);
            }
            Fault::Network { member, server, weather, lasts } => {
                self.network(member, server).weather(weather);
                return Some(vec![(lasts, Repair::Clear(member, server))]);
            }
            Fault::Cut { member, server } => self.network(member, server).cut(),
            Fault::RedisKilled { lasts } | Fault::RedisForgets { lasts } => {
                if !std::mem::take(&mut self.redis_is_up) {
                    return None;
                }
                self.redis.kill();
                self.aof.read();
                if matches!(fault, Fault::RedisForgets { .. }) {
                    self.aof.forget_the_last_second();
                }
                return Some(vec![(lasts, Repair::Redis)]);
            }
            Fault::RedisFull { lasts } => {
                self.redis_command(&["CONFIG", "SET", "maxmemory", "1"]).await?;
                return Some(vec![(lasts, Repair::RedisRoom)]);
            }
            Fault::RedisDemoted { lasts } => {
                // Of a primary that nobody reaches: it keeps what it has.
                self.redis_command(&["REPLICAOF", "127.0.0.1", "1"]).await?;
                return Some(vec![(lasts, Repair::RedisPromoted)]);
            }
            Fault::PostgresReadOnly { lasts } => {
                self.set_read_only("ALTER SYSTEM SET default_transaction_read_only = on").await?;
                return Some(vec![(lasts, Repair::PostgresWritable)]);
            }
            Fault::RedisFlushed => self.redis_command(&["FLUSHALL"]).await?,
            Fault::GroupDestroyed => {
                let jobs = format!("{PREFIX}:{{jobs}}:generate");
                self.redis_command(&["XGROUP", "DESTROY", &jobs, "workers"]).await?;
            }
            Fault::MalformedJobs => {
                let nobody = uuid::Uuid::new_v4().to_string();
                for (field, value) in [("nonsense", "1"), ("task", "17"), ("task", &nobody)] {
                    let jobs = format!("{PREFIX}:{{jobs}}:generate");
                    self.redis_command(&["XADD", &jobs, "*", field, value]).await?;
                }
            }
            Fault::DoubledJobs => {
                let running = "SELECT id::text FROM tasks WHERE final_id IS NULL LIMIT 10";
                for task in self.query(running).await? {
                    let jobs = format!("{PREFIX}:{{jobs}}:generate");
                    self.redis_command(&["XADD", &jobs, "*", "task", &task]).await?;
                }
            }
            Fault::PostgresAway { lasts } => {
                self.members.iter().for_each(|member| member.database.weather(Weather::Away));
                return Some(vec![(lasts, Repair::Postgres)]);
            }
            Fault::SessionsTerminated => {
                self.query("SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()").await?;
            }
            Fault::PostgresCrashed => {
                // A backend that dies takes all of PostgreSQL through recovery.
                let pids = self.query("SELECT pid::text FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() LIMIT 1").await?;
                let killed =
                    std::process::Command::new("kill").args(["-9", pids.first()?]).status();
                killed.ok().filter(std::process::ExitStatus::success)?;
            }
        }
        Some(Vec::new())
    }

    pub(super) async fn repair(&mut self, repair: Repair) {
        match repair {
            Repair::Start(n) => self.begin_process(n).await,
            Repair::Resume(n) => {
                let member = &mut self.members[n];
                if let Some(process) = member.process.as_ref().filter(|_| member.paused) {
                    process.signal("CONT");
                }
                member.paused = false;
            }
            Repair::Clear(n, server) => self.network(n, server).weather(Weather::Clear),
            Repair::Redis => {
                self.redis.launch().await;
                self.redis_is_up = true;
            }
            Repair::RedisRoom => {
                self.redis_command(&["CONFIG", "SET", "maxmemory", "0"]).await;
            }
            Repair::RedisPromoted => {
                self.redis_command(&["REPLICAOF", "NO", "ONE"]).await;
            }
            Repair::PostgresWritable => {
                // It may be in the middle of a recovery.
                for _ in 0..50 {
                    let reset = "ALTER SYSTEM RESET default_transaction_read_only";
                    if self.set_read_only(reset).await.is_some() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
            Repair::Postgres => {
                self.members.iter().for_each(|member| member.database.weather(Weather::Clear));
            }
        }
    }

    /// Everything runs, and nothing is in the way any more.
    pub(super) async fn heal(&mut self) {
        if !self.redis_is_up {
            self.repair(Repair::Redis).await;
        }
        for n in 0..self.members.len() {
            self.repair(Repair::Resume(n)).await;
            for server in [Server::Redis, Server::Postgres] {
                self.network(n, server).weather(Weather::Clear);
            }
            if self.members[n].process.is_none() {
                self.begin_process(n).await;
            }
        }
        self.repair(Repair::RedisRoom).await;
        self.repair(Repair::RedisPromoted).await;
        self.repair(Repair::PostgresWritable).await;
    }

    /// No process may die by itself.
    pub(super) fn check_alive(&mut self) {
        let all = self.members.iter_mut().filter_map(|m| Some((&m.name, m.process.as_mut()?)));
        for (name, process) in all {
            if process.has_ended() {
                let what = format!("{name} died by itself:\n{}", process.last_lines(30));
                self.world.tally.harm(Harm::Broken, what);
            }
        }
        assert!(!self.simulator.has_ended(), "the simulator died");
    }

    fn network(&self, member: usize, server: Server) -> &Proxy {
        let member = &self.members[member];
        match server {
            Server::Redis => &member.redis,
            Server::Postgres => &member.database,
        }
    }

    /// Nothing when Redis is away.
    pub(super) async fn redis_command(&self, command: &[&str]) -> Option<()> {
        if !self.redis_is_up {
            return None;
        }
        let asked = async {
            let mut connection = connect_to_redis(&self.redis.url()).await;
            redis::cmd(command[0])
                .arg(&command[1..])
                .query_async::<redis::Value>(&mut connection)
                .await
        };
        tokio::time::timeout(Duration::from_secs(5), asked).await.ok()?.ok().map(drop)
    }

    /// Nothing when PostgreSQL is away.
    async fn set_read_only(&self, statement: &'static str) -> Option<()> {
        let asked = async {
            let mut connection = PgConnection::connect(&self.database_url).await?;
            connection.execute(statement).await?;
            connection.execute("SELECT pg_reload_conf()").await
        };
        tokio::time::timeout(Duration::from_secs(5), asked).await.ok()?.ok().map(drop)
    }

    /// Nothing when PostgreSQL is away.
    async fn query(&self, statement: &'static str) -> Option<Vec<String>> {
        let asked = async {
            let mut connection = PgConnection::connect(&self.database_url).await?;
            sqlx::query_scalar::<_, String>(statement).fetch_all(&mut connection).await
        };
        tokio::time::timeout(Duration::from_secs(5), asked).await.ok()?.ok()
    }
}
