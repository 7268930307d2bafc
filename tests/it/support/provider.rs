//! A provider that answers as it is told, byte for byte, and tells what it was
//! asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// One request: its head in lower case, and its body as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// The messages' roles.
    pub(crate) fn roles(&self) -> Vec<String> {
        let json = self.json();
        let messages = json["messages"].as_array().expect("messages");
        messages.iter().map(|message| message["role"].as_str().expect("a role").into()).collect()
    }
}

/// A provider on a port of its own, as long as the runtime lives.
#[derive(Debug, Clone)]
pub(crate) struct Provider {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// A response, written in pieces, each so long after the one before.
pub(crate) type Script = Vec<(Duration, String)>;

/// A response that is a stream of those events, as they stand.
pub(crate) fn stream(events: &str) -> Script {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    vec![(Duration::ZERO, format!("{head}{events}"))]
}

/// A response with another status.
pub(crate) fn refusal(status: &str, body: &str) -> Script {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    vec![(Duration::ZERO, format!("{head}{body}"))]
}

impl Provider {
    /// Gives these answers in turn; the last one for ever.
    pub(crate) async fn start(answers: Vec<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let provider = Self { url: format!("http://{address}/v1"), asked: Arc::default() };
        let server = provider.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (server, answers) = (server.clone(), answers.clone());
                tokio::spawn(async move { server.serve(socket, &answers).await });
            }
        });
        provider
    }

    /// Answers one request.
    pub(crate) async fn serve(
        &self,
        socket: impl AsyncRead + AsyncWrite + Unpin,
        answers: &[Script],
    ) {
        let mut socket = BufReader::new(socket);
        let Some(asked) = read(&mut socket).await else { return };
        let number = {
            let mut all = self.asked.lock().expect("unpoisoned");
            all.push(asked);
            all.len() - 1
        };
        let answer = answers.get(number).or(answers.last()).cloned().unwrap_or_default();
        for (pause, piece) in answer {
            tokio::time::sleep(pause).await;
            if socket.write_all(piece.as_bytes()).await.is_err() {
                return;
            }
        }
        let _ = socket.shutdown().await;
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("unpoisoned").clone()
    }
}

async fn read(socket: &mut BufReader<impl AsyncRead + Unpin>) -> Option<Asked> {
    let mut head = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        head.push_str(&line);
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    Some(Asked { head, body: String::from_utf8(body).ok()? })
}
