//! Conversations and messages, spread over a ramp.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

/// Posts that wait for their answers at the same time, at most.
const AT_ONCE: usize = 64;

/// How long a POST that is refused is tried again.
const PATIENCE: Duration = Duration::from_secs(30);

/// A message that was accepted.
#[derive(Debug, Clone)]
pub(crate) struct Posted {
    /// Its task.
    pub(crate) task: String,
    /// Where to follow it: a path.
    pub(crate) stream: String,
}

/// Who posts.
#[derive(Clone)]
pub(crate) struct Poster {
    client: reqwest::Client,
    url: String,
    /// Conversations that nothing was said in yet.
    empty: Vec<String>,
}

impl Poster {
    /// Posts to the service at `url`.
    pub(crate) fn new(url: &str) -> Result<Self> {
        // As `main` does; the second to try is told no, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60));
        Ok(Self { client: client.build()?, url: url.to_owned(), empty: Vec::new() })
    }

    /// Makes `count` conversations, for so many messages: people talk in those
    /// that they have, and what is measured is their messages.
    pub(crate) async fn prepare(&mut self, count: u32) -> Result<()> {
        let made = stream::iter(0..count).map(|_| self.conversation()).buffer_unordered(AT_ONCE);
        self.empty = made.try_collect().await?;
        Ok(())
    }

    async fn conversation(&self) -> Result<String> {
        field(&self.post("/v1/conversations", &json!({})).await?, "id")
    }

    /// Posts the `n`-th message, into a conversation of its own.
    async fn say(&self, n: u32, content: &str) -> Result<Posted> {
        let id = match self.empty.get(n as usize) {
            Some(id) => id.clone(),
            None => self.conversation().await?,
        };
        let path = format!("/v1/conversations/{id}/messages");
        let accepted = self.post(&path, &json!({ "content": content })).await?;
        Ok(Posted { task: field(&accepted, "task_id")?, stream: field(&accepted, "stream_url")? })
    }

    /// Posts `count` messages, evenly spread over `ramp` (or more slowly, if the
    /// service can't follow); gives each to `each` as soon as it is accepted.
    pub(crate) async fn say_evenly(
        &self,
        count: u32,
        ramp: Duration,
        content: impl Fn(u32) -> String,
        mut each: impl FnMut(u32, Posted) -> Result<()>,
    ) -> Result<()> {
        let begin = Instant::now();
        let posts = stream::iter(0..count).map(|n| {
            let (due, content) =
                (begin + ramp.mul_f64(f64::from(n) / f64::from(count)), content(n));
            async move {
                sleep_until(due).await;
                Ok::<_, anyhow::Error>((n, self.say(n, &content).await?))
            }
        });
        let mut posts = posts.buffer_unordered(AT_ONCE);
        while let Some((n, posted)) = posts.try_next().await? {
            each(n, posted)?;
        }
        Ok(())
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let url = format!("{}{path}", self.url);
        let began = Instant::now();
        let response = loop {
            let response = self.client.post(&url).json(body).send().await?;
            // Too much to do: `Retry-After: 1`.
            if response.status().as_u16() != 503 || began.elapsed() > PATIENCE {
                break response;
            }
            eprintln!("POST {path}: 503, again in a second");
            sleep(Duration::from_secs(1)).await;
        };
        let status = response.status();
        let text = response.text().await?;
        ensure!(status.is_success(), "POST {path}: {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }
}

fn field(object: &Value, name: &str) -> Result<String> {
    let text = object[name].as_str().with_context(|| format!("no {name} in {object}"))?;
    Ok(text.to_owned())
}
