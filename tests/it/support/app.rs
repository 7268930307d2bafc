//! The real thing on free ports: `rill simulate`, `rill api`, `rill worker`,
//! with a database and a Redis prefix of their own.

use std::time::Duration;

use rill::domain::Answer;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection, PgPool};
use uuid::Uuid;

use super::{Process, Proxy, Reader};

const SERVICES: &str =
    "the tests need servers: run them by `make test`, or `scripts/with-services cargo test`";

fn service(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set; {SERVICES}"))
}

/// How an [`App`] is to be.
#[derive(Debug, Clone)]
pub(crate) struct Builder {
    environment: Vec<(String, String)>,
    workers: usize,
    redis_url: String,
    database_url: Option<String>,
    database_through: Option<std::net::SocketAddr>,
    redis_through: Option<std::net::SocketAddr>,
}

impl Builder {
    /// An option, by its environment variable.
    pub(crate) fn with(mut self, variable: &str, value: &str) -> Self {
        self.environment.push((variable.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    pub(crate) fn redis(mut self, url: String) -> Self {
        self.redis_url = url;
        self
    }

    /// A PostgreSQL of its own: a superuser's URL.
    pub(crate) fn database(mut self, url: &str) -> Self {
        self.database_url = Some(url.to_owned());
        self
    }

    /// Where its Redis is.
    pub(crate) fn redis_url(&self) -> String {
        self.redis_url.clone()
    }

    /// rill reaches PostgreSQL only through this proxy.
    pub(crate) fn database_through(mut self, proxy: std::net::SocketAddr) -> Self {
        self.database_through = Some(proxy);
        self
    }

    /// rill reaches Redis only through this proxy.
    pub(crate) fn redis_through(mut self, proxy: std::net::SocketAddr) -> Self {
        self.redis_through = Some(proxy);
        self
    }

    pub(crate) async fn start(self) -> App {
        let name = format!("t_{}", Uuid::new_v4().simple());
        let admin_url = self.database_url.unwrap_or_else(|| service("DATABASE_URL"));
        create_database(&admin_url, &name).await;
        let database_url = replace_path(&admin_url, &name);
        let for_rill = match self.database_through {
            Some(proxy) => replace_host(&database_url, proxy),
            None => database_url.clone(),
        };
        let redis_for_rill = match self.redis_through {
            Some(proxy) => format!("redis://{proxy}"),
            None => self.redis_url.clone(),
        };
        let simulator = Process::start(&["simulate", "--listen", "127.0.0.1:0", "--strict"], &[]);
        let model_url = format!("http://{}", simulator.address("a simulator is at").await);
        let mut environment = vec![
            ("DATABASE_URL".to_owned(), for_rill),
            ("REDIS_URL".to_owned(), redis_for_rill),
            ("RILL_REDIS_PREFIX".to_owned(), name.clone()),
            ("RILL_LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
            ("OPENAI_BASE_URL".to_owned(), format!("{model_url}/v1")),
            ("RILL_MODELS".to_owned(), "simulator,other".to_owned()),
            // So that a crash is noticed soon; production waits longer.
            ("RILL_LEASE".to_owned(), "3s".to_owned()),
            ("RILL_HEARTBEAT".to_owned(), "1s".to_owned()),
            ("RILL_RETRY_BASE".to_owned(), "200ms".to_owned()),
        ];
        environment.extend(self.environment);
        let pool = PgPool::connect_lazy(&database_url).expect("the database's URL");
        let api = Process::start(&["api"], &environment);
        let address = api.address("rill is at").await;
        // As `main` does; the second to try is told no, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .build()
            .expect("a client");
        let mut app = App {
            name,
            admin_url,
            redis_url: self.redis_url,
            environment,
            client,
            url: format!("http://{address}"),
            model_url,
            pool,
            api,
            workers: Vec::new(),
            _simulator: simulator,
        };
        for _ in 0..self.workers {
            app.start_worker();
        }
        app
    }
}

/// A running rill.
pub(crate) struct App {
    pub(crate) name: String,
    admin_url: String,
    pub(crate) redis_url: String,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) client: reqwest::Client,
    pub(crate) url: String,
    pub(crate) model_url: String,
    pub(crate) pool: PgPool,
    pub(crate) api: Process,
    pub(crate) workers: Vec<Process>,
    _simulator: Process,
}

/// A message that was accepted.
#[derive(Debug, Clone)]
pub(crate) struct Posted {
    pub(crate) conversation: String,
    pub(crate) message: String,
    pub(crate) task: String,
    pub(crate) stream_url: String,
}

impl Posted {
    fn of(conversation: &str, answer: &Value) -> Self {
        let field = |name: &str| answer[name].as_str().expect("a text").to_owned();
        Self {
            conversation: conversation.to_owned(),
            message: field("message_id"),
            task: field("task_id"),
            stream_url: field("stream_url"),
        }
    }
}

impl App {
    pub(crate) fn builder() -> Builder {
        Builder {
            environment: Vec::new(),
            workers: 1,
            redis_url: service("REDIS_URL"),
            database_url: None,
            database_through: None,
            redis_through: None,
        }
    }

    pub(crate) async fn start() -> Self {
        Self::builder().start().await
    }

    pub(crate) fn start_worker(&mut self) {
        self.start_worker_with(&[]);
    }

    /// A worker with options of its own, by their environment variables.
    pub(crate) fn start_worker_with(&mut self, options: &[(&str, &str)]) {
        let mut environment = self.environment.clone();
        environment.extend(options.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        self.workers.push(Process::start(&["worker"], &environment));
    }

    /// A worker that reaches the servers only through these proxies.
    pub(crate) fn start_worker_through(&mut self, redis: Option<&Proxy>, database: Option<&Proxy>) {
        let mut options = Vec::new();
        if let Some(proxy) = redis {
            options.push(("REDIS_URL", format!("redis://{}", proxy.address())));
        }
        if let Some(proxy) = database {
            options.push(("DATABASE_URL", self.database_url_through(proxy)));
        }
        let options: Vec<_> = options.iter().map(|(n, v)| (*n, v.as_str())).collect();
        self.start_worker_with(&options);
    }

    /// The test's own connections to PostgreSQL, as rill makes them.
    pub(crate) fn store(&self) -> rill::store::Store {
        use clap::Parser;
        #[derive(Parser)]
        struct Options {
            #[command(flatten)]
            store: rill::store::Options,
        }
        let url = self.database_url();
        let options = Options::parse_from(["test", "--database-url", &url]);
        rill::store::Store::new(&options.store).expect("a store")
    }

    /// The test's own database, not through a proxy.
    pub(crate) fn database_url(&self) -> String {
        replace_path(&self.admin_url, &self.name)
    }

    /// The test's own database, through a proxy.
    pub(crate) fn database_url_through(&self, proxy: &Proxy) -> String {
        replace_host(&self.database_url(), proxy.address())
    }

    /// Another API; it and its URL.
    pub(crate) async fn start_api(&self) -> (Process, String) {
        self.start_api_with(&[]).await
    }

    /// Another API with options of its own; it and its URL.
    pub(crate) async fn start_api_with(&self, options: &[(&str, &str)]) -> (Process, String) {
        let mut environment = self.environment.clone();
        environment.extend(options.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        let api = Process::start(&["api"], &environment);
        let url = format!("http://{}", api.address("rill is at").await);
        (api, url)
    }

    /// `rill up` on the same database, with the built-in simulator: what `make run` starts.
    pub(crate) fn up(&self) -> Process {
        let environment: Vec<_> = self
            .environment
            .iter()
            .filter(|(name, _)| name != "OPENAI_BASE_URL" && name != "RILL_MODELS")
            .cloned()
            .collect();
        Process::start(&["up"], &environment)
    }

    /// Kills the API and starts another at a new address.
    pub(crate) async fn restart_api(&mut self) {
        self.api.kill();
        (self.api, self.url) = self.start_api().await;
    }

    pub(crate) async fn request(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.expect("the API answers");
        let status = response.status().as_u16();
        let text = response.text().await.expect("a body");
        let body =
            if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") };
        (status, body)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.request(reqwest::Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.request(reqwest::Method::POST, path, Some(body)).await
    }

    pub(crate) async fn conversation(&self) -> String {
        let (status, body) = self.post("/v1/conversations", json!({})).await;
        assert_eq!(status, 201, "{body}");
        body["id"].as_str().expect("an ID").to_owned()
    }

    /// Posts a message into a new conversation.
    pub(crate) async fn say(&self, content: &str) -> Posted {
        let conversation = self.conversation().await;
        self.say_in(&conversation, json!({ "content": content })).await
    }

    pub(crate) async fn say_in(&self, conversation: &str, body: Value) -> Posted {
        let path = format!("/v1/conversations/{conversation}/messages");
        let (status, answer) = self.post(&path, body).await;
        assert_eq!(status, 202, "{answer}");
        Posted::of(conversation, &answer)
    }

    /// As [`App::say`], where it may be refused because a store is away.
    pub(crate) async fn try_say(&self, content: &str) -> Option<Posted> {
        let (status, body) = self.post("/v1/conversations", json!({})).await;
        if status != 201 {
            assert_eq!(status, 503, "{body}");
            return None;
        }
        let conversation = body["id"].as_str().expect("an ID");
        let path = format!("/v1/conversations/{conversation}/messages");
        let (status, body) = self.post(&path, json!({ "content": content })).await;
        if status != 202 {
            assert_eq!(status, 503, "{body}");
            return None;
        }
        Some(Posted::of(conversation, &body))
    }

    pub(crate) async fn cancel(&self, posted: &Posted) {
        let path = format!("/v1/tasks/{}/cancel", posted.task);
        let (status, body) = self.post(&path, json!({})).await;
        assert!(status < 300, "{status} {body}");
    }

    pub(crate) fn reader(&self, posted: &Posted) -> Reader {
        Reader::new(self.client.clone(), format!("{}{}", self.url, posted.stream_url))
    }

    /// What a reader sees that is never cut.
    pub(crate) async fn read(&self, posted: &Posted) -> Reader {
        let mut reader = self.reader(posted);
        reader.follow([]).await;
        reader
    }

    /// The answer as PostgreSQL has it.
    pub(crate) async fn stored(&self, posted: &Posted) -> Answer {
        let (text, reasoning, calls): (Option<String>, Option<String>, Option<Value>) =
            sqlx::query_as(
                "SELECT answer, reasoning, tool_calls FROM messages WHERE id = $1::uuid",
            )
            .bind(&posted.message)
            .fetch_one(&self.pool)
            .await
            .expect("the message is there");
        Answer {
            text: text.unwrap_or_default(),
            reasoning: reasoning.unwrap_or_default(),
            tool_calls: calls
                .map(|calls| serde_json::from_value(calls).expect("calls"))
                .unwrap_or_default(),
            opaque: Vec::new(),
        }
    }

    pub(crate) async fn task(&self, posted: &Posted) -> Value {
        let (status, task) = self.get(&format!("/v1/tasks/{}", posted.task)).await;
        assert_eq!(status, 200, "{task}");
        task
    }

    /// What is counted against a task: its failures, and the workers that were lost
    /// with it and whose attempt another took over.
    pub(crate) async fn charges(&self, posted: &Posted) -> u64 {
        let charges: i64 = sqlx::query_scalar(
            "SELECT failures + (
                 SELECT count(*) FROM attempts a JOIN attempts b USING (task_id)
                 WHERE a.task_id = t.id AND a.outcome = 'lost' AND b.number = a.number + 1)
             FROM tasks t WHERE id = $1::uuid",
        )
        .bind(&posted.task)
        .fetch_one(&self.pool)
        .await
        .expect("counts");
        u64::try_from(charges).expect("a count")
    }

    /// Waits until the task has that status.
    pub(crate) async fn reaches(&self, posted: &Posted, status: &str) -> Value {
        super::eventually(&format!("task {} is {status}", posted.task), || async {
            self.task(posted).await["status"] == status
        })
        .await;
        self.task(posted).await
    }

    pub(crate) async fn redis(&self) -> redis::aio::MultiplexedConnection {
        super::connect_to_redis(&self.redis_url).await
    }

    /// The key of a task's stream.
    pub(crate) fn stream_key(&self, posted: &Posted) -> String {
        let task: rill::domain::TaskId = posted.task.parse().expect("a task");
        format!("{}:{{{}}}:task:{task}", self.name, task.partition())
    }

    /// How often the model was called.
    pub(crate) async fn model_calls(&self) -> u64 {
        let stats: Value = self
            .client
            .get(format!("{}/stats", self.model_url))
            .send()
            .await
            .expect("the simulator answers")
            .json()
            .await
            .expect("JSON");
        stats["calls"].as_u64().expect("a count")
    }

    /// Nothing was logged as an error.
    pub(crate) fn log_is_clean(&self) -> bool {
        !self.api.log().contains("ERROR")
    }

    /// A metric of the API's `/metrics`, summed over those of its labels that
    /// contain `label`.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self
            .client
            .get(format!("{}/metrics", self.url))
            .send()
            .await
            .expect("the API answers")
            .text()
            .await
            .expect("text");
        text.lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))
            .filter(|line| line.contains(label))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.workers.iter_mut().for_each(Process::kill);
        self.api.kill();
        let (admin_url, name) = (self.admin_url.clone(), self.name.clone());
        // A thread of its own: the test's runtime is about to go.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let drop_it = async {
                let mut admin = PgConnection::connect(&admin_url).await?;
                let statement = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                admin.execute(sqlx::AssertSqlSafe(statement)).await
            };
            let _ = runtime
                .expect("a runtime")
                .block_on(async { tokio::time::timeout(Duration::from_secs(10), drop_it).await });
        });
        let _ = dropped.join();
    }
}

/// Makes a database and brings its schema up to date.
async fn create_database(admin_url: &str, name: &str) {
    let mut admin = PgConnection::connect(admin_url)
        .await
        .unwrap_or_else(|error| panic!("{error}; {SERVICES}"));
    let statement = format!("CREATE DATABASE {name}");
    admin.execute(sqlx::AssertSqlSafe(statement)).await.expect("a database");
    let url = replace_path(admin_url, name);
    let mut migrate = Process::start(&["migrate"], &[("DATABASE_URL".to_owned(), url)]);
    assert!(migrate.ended().await.success(), "{}", migrate.log());
}

fn replace_path(url: &str, database: &str) -> String {
    let mut url = reqwest::Url::parse(url).expect("DATABASE_URL");
    url.set_path(database);
    url.to_string()
}

fn replace_host(url: &str, address: std::net::SocketAddr) -> String {
    let mut url = reqwest::Url::parse(url).expect("DATABASE_URL");
    url.set_host(Some(&address.ip().to_string())).expect("a host");
    url.set_port(Some(address.port())).expect("a port");
    url.to_string()
}
