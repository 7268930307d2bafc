//! Redis as it is set up elsewhere: users with few rights, TLS, Unix sockets.

use crate::support::{App, PrivateRedis, Process, connect_to_redis};

/// What rill's user needs, as docs/operating-stores.md has it.
fn documented_rule() -> Vec<String> {
    let document = include_str!("../../docs/operating-stores.md");
    let rule = document.lines().find(|line| line.starts_with("ACL SETUSER rill ")).expect("a rule");
    rule.split(' ').skip(3).map(str::to_owned).collect()
}

async fn set_user(redis: &PrivateRedis, prefix: &str, rule: &[String]) -> String {
    let mut admin = connect_to_redis(&redis.url()).await;
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg("rill").arg("reset");
    for part in rule {
        command.arg(part.replace("rill:", &format!("{prefix}:")).replace("PASSWORD", "pass"));
    }
    let _: String = command.query_async(&mut admin).await.expect("ACL SETUSER");
    redis.url().replace("redis://", "redis://rill:pass@")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_rights_are_enough_and_each_that_is_missing_is_refused_by_its_name() {
    let redis = PrivateRedis::start().await;
    let rule = documented_rule();
    // Under any prefix, since the app makes up its own.
    let wide: Vec<_> = rule.iter().map(|part| part.replace("rill:", "")).collect();
    let url = set_user(&redis, "rill", &wide).await;
    let app = App::builder().redis(url.clone()).start().await;
    let posted = app.say("[[tokens=20]] [[rate=0]]").await;
    assert_eq!(app.read(&posted).await.answer, app.stored(&posted).await);
    let running = app.say("[[tokens=4000]] [[rate=50]]").await;
    let mut reader = app.reader(&running);
    reader.connect(crate::support::Cut::AfterEvents(3)).await.expect("connects");
    app.cancel(&running).await;
    reader.follow([]).await;
    assert_eq!(reader.end.as_ref().expect("ended").event, "cancelled");
    for log in [app.api.log(), app.workers[0].log()] {
        assert!(!log.contains("NOPERM") && !log.contains("may not use"), "{log}");
    }

    for (without, role, says) in [
        ("+exec", "api", "EXEC"),
        ("+multi", "worker", "MULTI"),
        ("+xread", "api", "XREAD"),
        ("+xadd", "api", "XADD"),
        ("+evalsha", "worker", "EVALSHA"),
        ("+xautoclaim", "worker", "XAUTOCLAIM"),
        ("+xgroup", "worker", "XGROUP CREATE"),
        ("~*", "worker", "XREADGROUP"),
    ] {
        let less: Vec<_> = wide.iter().filter(|part| *part != without).cloned().collect();
        assert_eq!(less.len() + 1, wide.len(), "the rule has {without}");
        let url = set_user(&redis, "rill", &less).await;
        let mut process = start(&app, role, &url, &[]);
        let status = process.ended().await;
        let log = process.log();
        assert!(!status.success(), "{role} without {without}: {log}");
        assert!(log.contains("may not use") && log.contains(says), "without {without}: {log}");
        assert!(log.contains("ACL SETUSER rill"), "{log}");
    }
    // Hints only make it fast.
    let less: Vec<_> = wide.iter().filter(|part| *part != "+subscribe").cloned().collect();
    let url = set_user(&redis, "rill", &less).await;
    let process = start(&app, "api", &url, &[]);
    process.logged("a second late").await;
    process.logged("rill is at").await;
}

fn start(app: &App, role: &str, redis: &str, more: &[(&str, &str)]) -> Process {
    let database = app.database_url();
    let mut environment = vec![
        ("DATABASE_URL", database.as_str()),
        ("REDIS_URL", redis),
        ("RILL_REDIS_PREFIX", app.name.as_str()),
        ("RILL_LISTEN", "127.0.0.1:0"),
        ("OPENAI_BASE_URL", "http://127.0.0.1:9/v1"),
        ("RILL_MODELS", "any"),
    ];
    environment.extend(more);
    let environment: Vec<_> =
        environment.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    Process::start(&[role], &environment)
}

/// A certificate authority, and a server's and a client's certificates, as files.
struct Certificates {
    directory: std::path::PathBuf,
}

impl Certificates {
    fn new() -> Self {
        let directory = std::env::temp_dir().join(format!("rill-tls-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let this = Self { directory };
        let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("a CA");
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate that has its issuer's name for its own issuer.
        ca.distinguished_name.push(rcgen::DnType::CommonName, "an authority");
        let ca_key = rcgen::KeyPair::generate().expect("a key");
        this.write("ca.pem", &ca.self_signed(&ca_key).expect("a CA").pem());
        let issuer = rcgen::Issuer::new(ca, ca_key);
        for (name, names) in [("server", vec!["127.0.0.1".to_owned()]), ("client", Vec::new())] {
            let key = rcgen::KeyPair::generate().expect("a key");
            let leaf = rcgen::CertificateParams::new(names).expect("a name");
            let leaf = leaf.signed_by(&key, &issuer).expect("signed");
            this.write(&format!("{name}.pem"), &leaf.pem());
            this.write(&format!("{name}.key"), &key.serialize_pem());
        }
        this
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.join(name), text).expect("writes");
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_with_a_private_ca_and_client_certificates_is_used_and_none_trusted_blindly() {
    let certificates = Certificates::new();
    let tls = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port");
    let (port, ca) = (tls.port().to_string(), certificates.path("ca.pem"));
    let (cert, key) = (certificates.path("server.pem"), certificates.path("server.key"));
    let options = [
        "--tls-port",
        &port,
        "--tls-ca-cert-file",
        &ca,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "yes",
    ];
    let redis = PrivateRedis::start_with(&options, &[]).await;
    let url = format!("rediss://{tls}");
    let (client, client_key) = (certificates.path("client.pem"), certificates.path("client.key"));
    let app = App::builder()
        .redis(redis.url())
        .with("REDIS_URL", &url)
        .with("RILL_REDIS_CA", &ca)
        .with("RILL_REDIS_CERT", &client)
        .with("RILL_REDIS_KEY", &client_key)
        .start()
        .await;
    let posted = app.say("[[tokens=20]] [[rate=0]]").await;
    assert_eq!(app.read(&posted).await.answer, app.stored(&posted).await);

    let refused = |url: &str, more: &[(&str, &str)]| start(&app, "api", url, more);
    let with_ca = [("RILL_REDIS_CA", ca.as_str())];
    for (mut process, says) in [
        (refused(&format!("{url}#insecure"), &[]), "leave #insecure out"),
        (refused(&redis.url(), &with_ca), "write rediss://"),
        (refused(&url, &[("RILL_REDIS_CA", "/nowhere.pem")]), "--redis-ca /nowhere.pem"),
    ] {
        assert!(!process.ended().await.success());
        assert!(process.log().contains(says), "{}", process.log());
    }
    // Who doesn't know the CA says why it waits.
    refused(&url, &[]).logged("Redis can't be used yet").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_is_reached_by_its_unix_socket() {
    let directory = std::env::temp_dir().join(format!("rill-socket-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let socket = directory.join("redis.sock").display().to_string();
    let redis = PrivateRedis::start_with(&["--unixsocket", &socket], &[]).await;
    let app = App::builder()
        .redis(redis.url())
        .with("REDIS_URL", &format!("unix://{socket}"))
        .start()
        .await;
    let posted = app.say("[[tokens=20]] [[rate=0]]").await;
    assert_eq!(app.read(&posted).await.answer, app.stored(&posted).await);
    let _ = std::fs::remove_dir_all(&directory);
}
