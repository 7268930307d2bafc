//! What a process refuses to start with, or warns of, saying what to do.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{App, PrivateRedis, Process, connect_to_redis};

/// A process on the app's stores, but for what `options` say.
fn start(app: &App, role: &str, options: &[(&str, &str)]) -> Process {
    let mut environment = vec![
        ("DATABASE_URL".to_owned(), app.database_url()),
        ("REDIS_URL".to_owned(), app.redis_url.clone()),
        ("RILL_REDIS_PREFIX".to_owned(), app.name.clone()),
        ("RILL_LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
        ("OPENAI_BASE_URL".to_owned(), format!("{}/v1", app.model_url)),
        ("RILL_MODELS".to_owned(), "simulator".to_owned()),
    ];
    environment.extend(options.iter().map(|(name, value)| ((*name).into(), (*value).into())));
    Process::start(&[role], &environment)
}

/// It ends by itself, having said this.
async fn refuses(app: &App, role: &str, options: &[(&str, &str)], says: &[&str]) {
    let mut process = start(app, role, options);
    process.logged(says[0]).await;
    assert!(!process.ended().await.success());
    for text in says {
        assert!(process.log().contains(text), "{role} did not say {text:?}:\n{}", process.log());
    }
}

/// It starts; what it had to say until then.
async fn starts(app: &App, options: &[(&str, &str)]) -> String {
    let api = start(app, "api", options);
    api.logged("rill is at").await;
    println!("{}", api.log());
    api.log()
}

async fn app() -> App {
    App::builder().workers(0).start().await
}

const EVICTS: &[&str] = &["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_may_evict_is_refused_with_what_to_do() {
    let app = app().await;
    let redis = PrivateRedis::start_with(EVICTS, &[]).await;
    let url = redis.url();
    let says = ["maxmemory-policy is allkeys-lru", "CONFIG SET maxmemory-policy noeviction"];
    for role in ["api", "worker", "up"] {
        refuses(&app, role, &[("REDIS_URL", &url)], &says).await;
    }
    let log = starts(&app, &[("REDIS_URL", &url), ("RILL_CHECKS", "warn")]).await;
    assert!(log.contains(" WARN ") && log.contains(says[0]) && !log.contains("ERROR"), "{log}");
    let log = starts(&app, &[("REDIS_URL", &url), ("RILL_CHECKS", "off")]).await;
    assert!(!log.contains(says[0]), "{log}");
    // Without a limit nothing is evicted, yet.
    let mut admin = connect_to_redis(&url).await;
    let set = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0").to_owned();
    let _: String = set.query_async(&mut admin).await.expect("CONFIG SET");
    let log = starts(&app, &[("REDIS_URL", &url)]).await;
    assert!(log.contains(" WARN ") && log.contains(says[0]), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_cluster_is_refused_also_by_a_node_that_does_not_have_the_key() {
    let app = app().await;
    let bus = TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr());
    let bus = bus.expect("a free port").port().to_string();
    // Without slots, each key is another node's.
    let redis =
        PrivateRedis::start_with(&["--cluster-enabled", "yes", "--cluster-port", &bus], &[]).await;
    for role in ["api", "worker"] {
        refuses(&app, role, &[("REDIS_URL", &redis.url())], &["Redis is a cluster"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_keeps_nothing_on_disk_is_warned_of() {
    let app = app().await;
    let redis = PrivateRedis::start_with(&[], &[]).await;
    let log = starts(&app, &[("REDIS_URL", &redis.url())]).await;
    assert!(log.contains("keeps nothing on disk") && log.contains("appendonly yes"), "{log}");
    let redis = PrivateRedis::start_with(&["--save", "3600 1"], &[]).await;
    let log = starts(&app, &[("REDIS_URL", &redis.url())]).await;
    assert!(log.contains("keeps snapshots only (save 3600 1)"), "{log}");
    let redis = PrivateRedis::start().await;
    let log = starts(&app, &[("REDIS_URL", &redis.url())]).await;
    assert!(!log.contains("on disk") && !log.contains("snapshots"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_late_is_checked_when_it_is_there() {
    let app = app().await;
    let mut redis = PrivateRedis::start_with(EVICTS, &[]).await;
    redis.kill();
    let mut api = start(&app, "api", &[("REDIS_URL", &redis.url())]);
    api.logged("Redis is not there yet").await;
    api.logged("rill is at").await;
    redis.launch().await;
    let line = api.logged("maxmemory-policy is allkeys-lru").await;
    assert!(line.contains("ERROR"), "{line}");
    assert!(!api.has_ended(), "a process that serves is not stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_tells_nothing_is_not_complained_about() {
    let app = app().await;
    let redis = PrivateRedis::start_with(EVICTS, &[]).await;
    let mut admin = connect_to_redis(&redis.url()).await;
    let rule = "on >secret ~* &* +@all -info -config";
    let mut user = redis::cmd("ACL");
    user.arg("SETUSER").arg("rill").arg(rule.split(' ').collect::<Vec<_>>());
    let _: String = user.query_async(&mut admin).await.expect("ACL SETUSER");
    let url = redis.url().replace("redis://", "redis://rill:secret@");
    let log = starts(&app, &[("REDIS_URL", &url)]).await;
    assert!(!log.contains("Redis"), "{log}");
}

/// A server in front of another that changes what clients and it say.
async fn between<Ask, Answer>(target: String, ask: Ask, answer: Answer) -> std::net::SocketAddr
where
    Ask: Fn(Vec<u8>) -> Vec<u8> + Clone + Send + 'static,
    Answer: Fn(Vec<u8>) -> Vec<u8> + Clone + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(&target).await else { return };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::spawn(pipe(from_client, to_server, ask.clone()));
            tokio::spawn(pipe(from_server, to_client, answer.clone()));
        }
    });
    address
}

async fn pipe(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    change: impl Fn(Vec<u8>) -> Vec<u8>,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&change(buffer[..read].to_vec())).await.is_err() {
            return;
        }
    }
}

fn host(url: &str) -> String {
    let url = reqwest::Url::parse(url).expect("a URL");
    format!("{}:{}", url.host_str().expect("a host"), url.port().expect("a port"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_too_old_is_refused() {
    let app = app().await;
    let redis = PrivateRedis::start().await;
    // As long as the version that it has, whichever that is.
    let older = |mut bytes: Vec<u8>| {
        let name = b"redis_version:";
        if let Some(at) = bytes.windows(name.len()).position(|window| window == name) {
            let version = &mut bytes[at + name.len()..];
            let end = version.iter().position(|byte| *byte == b'\r').expect("a line");
            version[..end].fill(b'0');
            version[..4].copy_from_slice(b"6.0.");
        }
        bytes
    };
    let proxy = between(host(&redis.url()), |bytes| bytes, older).await;
    let url = format!("redis://{proxy}");
    refuses(&app, "worker", &[("REDIS_URL", &url)], &["is too old", "upgrade it to 7.0"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_are_durable_whatever_the_databases_default_is() {
    let app = app().await;
    let statement = format!("ALTER DATABASE {} SET synchronous_commit = off", app.name);
    sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&app.pool).await.expect("alters");
    let log = starts(&app, &[]).await;
    assert!(!log.contains("synchronous_commit"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_that_may_lose_commits_or_has_few_connections_is_warned_of() {
    let app = app().await;
    let fsync: String =
        sqlx::query_scalar("SHOW fsync").fetch_one(&app.pool).await.expect("a setting");
    let log = starts(&app, &[("RILL_DATABASE_CONNECTIONS", "1000")]).await;
    assert_eq!(log.contains("fsync is off"), fsync == "off", "{log}");
    assert!(log.contains("lower --database-connections"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_does_not_fit_is_refused_with_what_to_do() {
    let app = app().await;
    let change = async |statement: &'static str| {
        sqlx::query(statement).execute(&app.pool).await.expect("changes");
    };
    // Newer: while it is rolled out, older processes have to start.
    change(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
            VALUES (9999, 'from the future', true, '', 0)",
    )
    .await;
    let log = starts(&app, &[]).await;
    assert!(log.contains("set up by a newer rill"), "{log}");
    change("DELETE FROM _sqlx_migrations WHERE version = 9999").await;
    change("UPDATE _sqlx_migrations SET checksum = 'x'").await;
    for role in ["api", "worker"] {
        refuses(&app, role, &[], &["migrations that are not this rill's"]).await;
    }
    change("DROP TABLE _sqlx_migrations").await;
    refuses(&app, "api", &[], &["no schema of rill's yet", "run `rill migrate`"]).await;
    refuses(&app, "worker", &[], &["no schema of rill's yet", "run `rill migrate`"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_that_do_not_fit_together_are_refused_with_what_to_change() {
    let app = app().await;
    let lease = [("RILL_LEASE", "10s"), ("RILL_HEARTBEAT", "4s")];
    let says = ["longer than a third of --lease", "shorten the heartbeat or lengthen the lease"];
    refuses(&app, "worker", &lease, &says).await;
    refuses(&app, "up", &lease, &says).await;
    let silence = [("RILL_STREAM_TTL", "70s")];
    let says = ["--stream-ttl 1m 10s must be longer", "lengthen it, or shorten those"];
    refuses(&app, "worker", &silence, &says).await;
    let prompts = [("RILL_MAX_PROMPT_BYTES", "2000000"), ("RILL_PROMPT_MEMORY", "1000000")];
    let says = ["--prompt-memory 1000000 has no room for a prompt of --max-prompt-bytes 2000000"];
    refuses(&app, "worker", &prompts, &says).await;
    refuses(&app, "api", &[("RILL_STREAM_TTL", "1s")], &["--stream-ttl 1s is too short"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_waits_for_a_lock_tells_of_it_and_holds_up_nobody_for_long() {
    let app = app().await;
    let mut holder = app.pool.begin().await.expect("begins");
    sqlx::query("LOCK TABLE _sqlx_migrations IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *holder)
        .await
        .expect("locks");
    let mut migrate = start(&app, "migrate", &[]);
    migrate.logged("waiting for a lock to migrate").await;
    // It gave up, so that whoever came after it is not behind it.
    holder.rollback().await.expect("lets go");
    assert!(migrate.ended().await.success(), "{}", migrate.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unverified_connection_to_postgresql_elsewhere_and_asynchronous_replication_are_warned_of()
 {
    let app = app().await;
    let url = app.database_url().replace("127.0.0.1", "database.invalid");
    // Nobody is there; what is said of the URL doesn't need anybody.
    let api = start(&app, "api", &[("DATABASE_URL", &url)]);
    api.logged("sslmode=verify-full").await;
    let primary = crate::support::PrivatePostgres::start();
    let _standby = crate::support::PrivatePostgres::standby_of(primary.url());
    let app = App::builder().workers(0).database(primary.url()).start().await;
    app.api.logged("replicates asynchronously").await;
}
