//! Users: they ask, repeat what got no answer, watch, and sometimes stop it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rill::domain::Answer;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::verdict::{Harm, Tally};
use super::viewer::{End, Viewer};

/// What everybody in a run shares.
pub(super) struct World {
    pub(super) http: reqwest::Client,
    /// Where the APIs are; nothing for one that is being restarted.
    pub(super) apis: Mutex<Vec<Option<String>>>,
    pub(super) tally: Tally,
    /// No more questions.
    pub(super) closing: AtomicBool,
    /// A third of the answers are sent as sloppy servers send them. Not where the
    /// released version runs, which can't read them.
    sloppy: bool,
    /// Tasks that were accepted, and what became of them.
    pub(super) asked: Mutex<HashMap<String, Asked>>,
    deleted: Mutex<HashSet<String>>,
}

/// One accepted message.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) prompt: String,
    /// Tokens of a whole answer.
    pub(super) tokens: u64,
    /// What each viewer had when it was over.
    pub(super) seen: Vec<(Answer, Option<End>)>,
}

impl World {
    pub(super) fn new(apis: usize, sloppy: bool) -> Self {
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build();
        Self {
            http: http.expect("a client"),
            apis: Mutex::new(vec![None; apis]),
            tally: Tally::default(),
            closing: AtomicBool::new(false),
            sloppy,
            asked: Mutex::default(),
            deleted: Mutex::default(),
        }
    }

    pub(super) fn any_api(&self, random: &mut StdRng) -> String {
        let apis = self.apis.lock().expect("apis");
        let there: Vec<_> = apis.iter().flatten().collect();
        // Port 1 refuses: as a load balancer without anything behind it.
        there.choose(random).map_or_else(|| "http://127.0.0.1:1".to_owned(), |url| (*url).clone())
    }

    /// Answers that were to be sent sloppily, and how many readers saw complete.
    pub(super) fn sent_sloppily(&self) -> (usize, usize) {
        let asked = self.asked.lock().expect("asked");
        let sloppily = asked.values().filter(|asked| asked.prompt.contains("[[sloppy="));
        let done = |asked: &Asked| {
            let mut ends = asked.seen.iter().filter_map(|(_, end)| end.as_ref());
            ends.any(|end| end.event == "done")
        };
        (sloppily.clone().count(), sloppily.filter(|asked| done(asked)).count())
    }

    pub(super) fn deleted(&self, task: &str) -> bool {
        self.deleted.lock().expect("deleted").contains(task)
    }

    /// Repeats a request until it is answered as expected, at any API.
    async fn insist(
        &self,
        random: &mut StdRng,
        method: reqwest::Method,
        path: &str,
        body: &Value,
        expected: u16,
    ) -> Value {
        let key = uuid::Uuid::from_u128(random.random()).to_string();
        loop {
            let url = format!("{}{path}", self.any_api(random));
            let mut request =
                self.http.request(method.clone(), url).header("Idempotency-Key", &key);
            if method == reqwest::Method::POST {
                request = request.json(body);
            }
            let answered = tokio::time::timeout(super::ANSWERS_WITHIN, async {
                let response = request.send().await?;
                Ok::<_, reqwest::Error>((response.status().as_u16(), response.text().await?))
            });
            match answered.await {
                Ok(Ok((status, text))) if status == expected => {
                    return serde_json::from_str(&text).unwrap_or_default();
                }
                Ok(Ok((500.., _)) | Err(_)) | Err(_) => {}
                Ok(Ok((status, text))) => {
                    self.tally.harm(Harm::Broken, format!("{method} {path}: {status} {text}"));
                    return Value::Null;
                }
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(20..300))).await;
        }
    }
}

/// One user, asking until the world closes.
pub(super) async fn user(world: Arc<World>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    while !world.closing.load(Ordering::Relaxed) {
        ask(&world, &mut random).await;
    }
}

async fn ask(world: &Arc<World>, random: &mut StdRng) {
    let post = reqwest::Method::POST;
    let conversation =
        world.insist(random, post.clone(), "/v1/conversations", &json!({}), 201).await;
    let Some(conversation) = conversation["id"].as_str() else { return };
    let tokens = random.random_range(1..150);
    let mut prompt = prompt(random, tokens);
    if world.sloppy && random.random_bool(1.0 / 3.0) {
        prompt = format!("{} {prompt}", sloppy(random, tokens));
    }
    let path = format!("/v1/conversations/{conversation}/messages");
    let accepted = world.insist(random, post, &path, &json!({ "content": prompt }), 202).await;
    let Some(task) = accepted["task_id"].as_str().map(str::to_owned) else { return };
    world.tally.accepted.fetch_add(1, Ordering::Relaxed);
    let asked = Asked { prompt, tokens, seen: Vec::new() };
    world.asked.lock().expect("asked").insert(task.clone(), asked);

    let viewers: Vec<_> = (0..random.random_range(1..=2))
        .map(|_| {
            let (viewer, mut random) =
                (Viewer::new(world.clone(), &task), StdRng::seed_from_u64(random.random()));
            tokio::spawn(async move { viewer.follow(&mut random, true).await })
        })
        .collect();
    if random.random_bool(0.1) {
        tokio::spawn(sleeper(world.any_api(random), task.clone()));
    }
    meddle(world, random, &task, conversation).await;
    for viewer in viewers {
        let Ok(viewer) = viewer.await else {
            world.tally.harm(Harm::Broken, format!("task {task}: a viewer panicked"));
            continue;
        };
        let mut asked = world.asked.lock().expect("asked");
        if let Some(asked) = asked.get_mut(&task) {
            asked.seen.push((viewer.answer, viewer.end));
        }
    }
    world.tally.ended.fetch_add(1, Ordering::Relaxed);
}

/// A reader that never reads.
async fn sleeper(api: String, task: String) {
    let Some(address) = api.strip_prefix("http://") else { return };
    let Ok(mut socket) = TcpStream::connect(address).await else { return };
    let request = format!("GET /v1/tasks/{task}/stream HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let _ = socket.write_all(request.as_bytes()).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
}

/// Some users stop the answer, once or twice, or delete the conversation.
async fn meddle(world: &World, random: &mut StdRng, task: &str, conversation: &str) {
    let fate = random.random_range(0..100);
    if fate >= 14 {
        return;
    }
    tokio::time::sleep(Duration::from_millis(random.random_range(0..4_000))).await;
    if fate < 12 {
        for _ in 0..=fate % 2 {
            let path = format!("/v1/tasks/{task}/cancel");
            world.insist(random, reqwest::Method::POST, &path, &json!({}), 202).await;
        }
    } else {
        world.deleted.lock().expect("deleted").insert(task.to_owned());
        let url = format!("{}/v1/conversations/{conversation}", world.any_api(random));
        let request = world.http.delete(url).send();
        let _ = tokio::time::timeout(super::ANSWERS_WITHIN, request).await;
    }
}

/// How sloppily the model's server sends its answer: each of what a client has to
/// read, some of it at once, and errors in the stream's own words.
fn sloppy(random: &mut StdRng, tokens: u64) -> String {
    const FRAMINGS: [&str; 6] = ["lf", "crlf", "cr", "unended", "heartbeats", "mislabelled"];
    const FORMS: [&str; 6] = ["parts", "message", "unfinished", "odd-types", "whole", "bytes"];
    let framing = FRAMINGS.choose(random).unwrap_or(&"lf");
    let form = FORMS.choose(random).unwrap_or(&"parts");
    let after = random.random_range(0..=tokens);
    let error = match random.random_range(0..8) {
        0 => format!("[[error={after}*1]]"),
        1 => format!("[[error-event={after}*1]]"),
        2 => format!("[[error={after}]]"),
        _ => String::new(),
    };
    let kinds = match random.random_range(0..3) {
        0 => (*framing).to_owned(),
        1 => (*form).to_owned(),
        _ => format!("{framing}+{form}"),
    };
    format!("[[sloppy={kinds}]] {error}")
}

/// A question, and how the model misbehaves when it is asked.
fn prompt(random: &mut StdRng, tokens: u64) -> String {
    let rate = random.random_range(15..60);
    let after = random.random_range(0..=tokens);
    let trouble = match random.random_range(0..100) {
        0..8 => format!("[[fail=500*{}]]", random.random_range(1..3)),
        8..12 => "[[fail=429*1]] [[retry-after=1]]".to_owned(),
        12..18 => format!("[[cut={after}*1]]"),
        18..22 => format!("[[eof={after}*1]]"),
        22..25 => format!("[[stall={after}*1]]"),
        25..28 => format!("[[garbage={after}*1]]"),
        28..30 => format!("[[cut={after}]]"),
        30..31 => "[[fail=400]]".to_owned(),
        31..34 => "[[reasoning=10]]".to_owned(),
        34..37 => "[[ttft=1s]]".to_owned(),
        _ => String::new(),
    };
    let name = uuid::Uuid::from_u128(random.random());
    format!("[[numbered]] [[tokens={tokens}]] [[rate={rate}]] {trouble} {name}")
}
