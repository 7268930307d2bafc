//! How upstreams are reached: a private CA, proxies, keys that change.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::{App, Provider, refusal, stream};

const HELLO: &str =
    "data: {\"choices\":[{\"delta\":{\"content\":\"hello\"},\"finish_reason\":\"stop\"}]}\n\n";

/// A file that is gone with the test.
struct File(PathBuf);

impl File {
    fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rill-test-{}", uuid::Uuid::new_v4()));
        std::fs::write(&path, text).expect("written");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("text")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A provider behind TLS as `models.internal`; its CA's certificate, and its port.
async fn behind_tls(provider: Provider) -> (File, u16) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("a CA");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let ca_certificate = ca.self_signed(&ca_key).expect("a certificate");
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let leaf = rcgen::CertificateParams::new(vec!["models.internal".to_owned()]).expect("a name");
    let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(leaf.der().to_vec())],
            PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
        )
        .expect("a configuration");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, provider) = (acceptor.clone(), provider.clone());
            tokio::spawn(async move {
                if let Ok(socket) = acceptor.accept(socket).await {
                    provider.serve(socket, &[stream(HELLO)]).await;
                }
            });
        }
    });
    (File::new(&ca_certificate.pem()), port)
}

/// A proxy that tunnels every `CONNECT` to `port`; how many there were.
async fn proxy(port: u16) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let tunnels = Arc::new(AtomicUsize::new(0));
    let count = tunnels.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = socket.read_u8().await else { return };
                    head.push(byte);
                }
                assert!(head.starts_with(b"CONNECT models.internal:443 "), "{head:?}");
                count.fetch_add(1, Ordering::SeqCst);
                let mut server = TcpStream::connect(("127.0.0.1", port)).await.expect("a server");
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                let _ = copy_bidirectional(&mut socket, &mut server).await;
            });
        }
    });
    (url, tunnels)
}

async fn ends(app: &App) -> Value {
    let posted = app.say("hi").await;
    let end = app.read(&posted).await.end.expect("an end");
    serde_json::from_str(&end.data).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_behind_a_private_ca_and_a_proxy_is_reached() {
    let provider = Provider::start(Vec::new()).await;
    let (ca, port) = behind_tls(provider.clone()).await;
    let (proxy, tunnels) = proxy(port).await;
    let app = App::builder()
        .with("OPENAI_BASE_URL", "https://models.internal/v1")
        .with("OPENAI_API_KEY", "sk-x")
        .with("RILL_MODELS", "m")
        .with("RILL_MAX_FAILURES", "1")
        .with("HTTPS_PROXY", &proxy)
        .with("NO_PROXY", "localhost,127.0.0.1");
    let trusting = app.with("RILL_UPSTREAM_CA", ca.path()).start().await;
    assert_eq!(ends(&trusting).await["type"], "done");
    assert_eq!(tunnels.load(Ordering::SeqCst), 1);
    let asked = &provider.asked()[0];
    assert!(asked.head.contains("authorization: bearer sk-x\r\n"), "{}", asked.head);
    // Who doesn't know the CA doesn't send the key.
    let app = App::builder()
        .with("OPENAI_BASE_URL", "https://models.internal/v1")
        .with("OPENAI_API_KEY", "sk-x")
        .with("RILL_MODELS", "m")
        .with("RILL_MAX_FAILURES", "1")
        .with("HTTPS_PROXY", &proxy)
        .start()
        .await;
    let end = ends(&app).await;
    assert_eq!((&end["type"], &end["code"]), (&"failed".into(), &"upstream_unavailable".into()));
    // Why is for operators.
    assert!(app.workers[0].log().contains("certificate"), "{}", app.workers[0].log());
    assert_eq!(provider.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_in_no_proxy_are_reached_without_it() {
    let provider = Provider::start(vec![stream(HELLO)]).await;
    let app = App::builder()
        .with("OPENAI_BASE_URL", &provider.url)
        .with("RILL_MODELS", "m")
        .with("RILL_MAX_FAILURES", "1")
        // Nobody listens there.
        .with("HTTP_PROXY", "http://127.0.0.1:9")
        .with("NO_PROXY", "127.0.0.1")
        .start()
        .await;
    assert_eq!(ends(&app).await["type"], "done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_in_a_file_can_be_replaced_while_rill_runs() {
    let refused = refusal("401 Unauthorized", "{\"error\":\"no\"}");
    let provider = Provider::start(vec![stream(HELLO), stream(HELLO), refused]).await;
    let key = File::new("sk-first\n");
    let app = App::builder()
        .with("OPENAI_BASE_URL", "")
        .with("RILL_UPSTREAMS", &format!("my-own={}", provider.url))
        .with("RILL_UPSTREAM_MY_OWN_API_KEY_FILE", key.path())
        .with("RILL_MODELS", "m")
        .start()
        .await;
    assert_eq!(ends(&app).await["type"], "done");
    std::fs::write(key.path(), "sk-second\n").expect("written");
    assert_eq!(ends(&app).await["type"], "done");
    // A key that is refused, and is still the newest, is asked with once.
    assert_eq!(ends(&app).await["code"], "upstream_rejected");
    let asked = provider.asked();
    let keys: Vec<_> = asked
        .iter()
        .map(|asked| asked.head.split("authorization: bearer ").nth(1).expect("a key"))
        .map(|rest| rest.split("\r\n").next().unwrap_or_default())
        .collect();
    assert_eq!(keys, ["sk-first", "sk-second", "sk-second"]);
}
