//! A model's server that says a token when it is told to, and its reader: what
//! comes from a real socket, without a clock.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use futures_util::StreamExt;
use rill::model::openai::{ApiKey, HttpOptions, OpenAi, http_client};
use rill::model::{ChatModel, ChatRequest, Delta, DeltaStream};
use tokio::runtime::{Builder, Runtime};

/// An event of a stream as OpenAI's own has them, in an HTTP chunk of its own.
const EVENT: &str = concat!(
    r#"data: {"id":"chatcmpl-BqN0uXkT6hVqz4mE1sJw8yRc3oLdA","object":"chat.completion.chunk","#,
    r#""created":1751600000,"model":"gpt-4o-mini-2024-07-18","service_tier":"default","#,
    r#""system_fingerprint":"fp_34a54ae93c","choices":[{"index":0,"delta":{"content":" token"},"#,
    r#""logprobs":null,"finish_reason":null}],"usage":null}"#,
    "\n\n"
);

/// An answer that is being given.
pub(crate) struct Answering {
    /// One thread, so that all that a token costs is done on the caller's.
    runtime: Runtime,
    deltas: DeltaStream,
    say: Sender<usize>,
}

impl Answering {
    /// A server, and a call of it that has begun.
    pub(crate) fn begin() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (say, said) = channel();
        std::thread::spawn(move || {
            let (socket, _) = listener.accept().expect("a connection");
            // An error is a reader that has left.
            let _ = answer(socket, &said);
        });
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let http = http_client(HttpOptions::default()).expect("a client");
        let model = OpenAi::new(http, &format!("http://{address}/v1"), ApiKey::None);
        let request = ChatRequest {
            model: "m".to_owned(),
            turns: Vec::new(),
            parameters: rill::domain::message::Parameters::default(),
        };
        let deltas = runtime.block_on(model.answer(request.into())).expect("an answer");
        Self { runtime, deltas, say }
    }

    /// So many tokens are said, in one write.
    pub(crate) fn say(&self, tokens: usize) {
        self.say.send(tokens).expect("the server runs");
    }

    /// Waits for the next.
    pub(crate) fn next(&mut self) -> Delta {
        self.runtime.block_on(self.deltas.next()).expect("a delta").expect("no error")
    }
}

fn answer(mut socket: TcpStream, said: &Receiver<usize>) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    read_request(&socket)?;
    socket.write_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    )?;
    let chunk = format!("{:x}\r\n{EVENT}\r\n", EVENT.len());
    for tokens in said {
        socket.write_all(chunk.repeat(tokens).as_bytes())?;
    }
    Ok(())
}

fn read_request(socket: &TcpStream) -> std::io::Result<()> {
    let mut request = BufReader::new(socket);
    let mut length = 0;
    loop {
        let mut line = String::new();
        request.read_line(&mut line)?;
        if line.trim_end().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    request.take(length).read_to_end(&mut Vec::new())?;
    Ok(())
}
