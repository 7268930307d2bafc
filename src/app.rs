//! Puts the parts together, a function a role.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::{self, Cli, Command, Stores};
use crate::http::Listener;
use crate::model::catalog::Catalog;
use crate::model::simulator;
use crate::operate::startup;
use crate::store::Store;
use crate::streams::tail::{self, Tail};
use crate::streams::{Streams, Uses};
use crate::tasks::Tasks;
use crate::{api, http, metrics, operate, shutdown, telemetry, worker};

/// Runs what the command line says, until it is done or told to stop.
///
/// # Errors
/// With what to do about it, where something can be done.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    if let Command::Openapi = cli.command {
        print!("{}", api::openapi_document());
        return Ok(());
    }
    if let Some(answered) = operate(&cli).await {
        return answered;
    }
    telemetry::install(&cli.telemetry)?;
    let stop = shutdown::on_signal()?;
    match cli.command {
        Command::Up(options) => up(*options, stop).await,
        Command::Api(options) => serve(*options, stop).await,
        Command::Worker(options) => work(*options, stop).await,
        Command::Migrate(options) => {
            let store = Store::new(&options)?;
            shutdown::unless_stopped(&stop, "migrating", migrate(&store)).await
        }
        Command::Openapi
        | Command::Models(_)
        | Command::Queue(_)
        | Command::Workers(_)
        | Command::Dead(_)
        | Command::Task(_) => Ok(()),
        Command::Simulate(options) => simulate(options, stop).await,
        Command::Healthcheck(options) => {
            shutdown::unless_stopped(&stop, "asking", healthcheck(&options.url)).await
        }
    }
}

/// Operators' commands; nothing if it is another. A signal ends them at once.
async fn operate(cli: &Cli) -> Option<anyhow::Result<()>> {
    let command = &cli.command;
    if matches!(
        command,
        Command::Models(_)
            | Command::Queue(_)
            | Command::Workers(_)
            | Command::Dead(_)
            | Command::Task(_)
    ) && let Err(error) = telemetry::install(&cli.telemetry.clone().quiet())
    {
        return Some(Err(error));
    }
    let answered = match command {
        Command::Models(options) => operate::models::models(options),
        Command::Queue(options) => operate::queue(options).await,
        Command::Workers(options) => operate::workers(options).await,
        Command::Dead(options) => operate::dead::dead(options).await,
        Command::Task(options) => operate::task::task(options).await,
        _ => return None,
    };
    Some(answered.map_err(anyhow::Error::from))
}

/// The two stores' connections; to Redis once PostgreSQL has said whose it should
/// be. `closing` outlives `stop`: draining needs them.
fn open(stores: &Stores, closing: &CancellationToken) -> anyhow::Result<(Store, Streams)> {
    let store = Store::new(&stores.database).context("DATABASE_URL can't be used")?;
    let streams =
        Streams::start(&stores.redis, closing.clone()).context("REDIS_URL can't be used")?;
    let introduced = startup::introduce(store.clone(), streams.clone());
    let closing = closing.clone();
    tokio::spawn(async move { closing.run_until_cancelled(introduced).await });
    Ok((store, streams))
}

/// What a process does before it serves.
const STARTING: &str = "starting";

/// What opens most files: a connection of a client's each, or one to a model.
const CONNECTIONS: &str = "--max-connections";
const CONCURRENCY: &str = "--concurrency";
const METRICS_LISTEN: &str = "--metrics-listen";

/// Connections to a worker's probes and metrics: from a crowd there, the stores'
/// and the models' connections must not suffer.
const METRICS_CONNECTIONS: u32 = 64;

/// Those, and the stores' connections.
fn check_files(
    uses: &[(u32, &'static str)],
    stores: &Stores,
    tail: Option<&tail::Options>,
    checks: &startup::Options,
) -> Result<(), crate::config::Invalid> {
    let mut uses = uses.to_vec();
    uses.push((stores.database.database_connections, "--database-connections"));
    uses.extend(tail.map(|tail| (tail.blocking_connections, "--blocking-connections")));
    startup::check_files(&uses, checks)
}

async fn listen(address: &http::Address, option: &str) -> anyhow::Result<Listener> {
    http::Listener::bind(address).await.with_context(|| {
        format!(
            "can't listen on {address}; is it a name that this machine doesn't know, an address of \
             another one, or is another process there? Choose another with {option}"
        )
    })
}

async fn migrate(store: &Store) -> anyhow::Result<()> {
    store.migrate().await.context("PostgreSQL's schema could not be brought up to date")?;
    tracing::info!("PostgreSQL's schema is up to date");
    Ok(())
}

async fn up(options: cli::Up, stop: CancellationToken) -> anyhow::Result<()> {
    let metrics = metrics::install()?;
    options.worker.validate(options.stores.redis.stream_ttl)?;
    options.api.validate(options.stores.redis.stream_ttl)?;
    let (api, worker) = (options.api.max_connections, options.worker.concurrency);
    let files = [(api, CONNECTIONS), (worker, CONCURRENCY)];
    check_files(&files, &options.stores, Some(&options.tail), &options.checks)?;
    // Asked for first: a port that is taken should not cost a migration.
    let listener = listen(&options.api.listen, "--listen (or PORT with make run)").await?;
    let closing = CancellationToken::new();
    let (store, streams) = open(&options.stores, &closing)?;
    let prepared = async {
        migrate(&store).await?;
        Ok(startup::check(&store, &streams, Uses { api: true, worker: true }, &options.checks)
            .await?)
    };
    shutdown::unless_stopped(&stop, STARTING, prepared).await?;
    let simulated = TaskTracker::new();
    let mut models = options.models;
    if models.name_no_upstream() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        simulated.spawn(simulator::serve(
            listener,
            simulator::Defaults::default(),
            closing.clone(),
        ));
        tracing::warn!(
            "no model is configured: the built-in simulator answers, with invented text. \
             Set OPENAI_API_KEY or OPENAI_BASE_URL for a real one"
        );
        models.simulator_url = Some(url);
    }
    let catalog = models.catalog()?;
    announce(&catalog);
    let catalog = Arc::new(catalog);
    let tail = Tail::start(&streams, &options.tail);
    let tasks = Tasks::new(store.clone(), streams, Some(tail.clone()), &options.stores.tasks);
    let (api, shown) = (options.api, catalog.clone());
    let api = serve_api(listener, api, tasks.clone(), tail, shown, metrics, stop.clone())?;
    let worker = worker::run(tasks, catalog, options.worker, stop);
    tokio::join!(api, worker);
    close(&closing, &store).await;
    simulated.close();
    simulated.wait().await;
    Ok(())
}

async fn serve(options: cli::Api, stop: CancellationToken) -> anyhow::Result<()> {
    let metrics = metrics::install()?;
    options.api.validate(options.stores.redis.stream_ttl)?;
    let files = [(options.api.max_connections, CONNECTIONS)];
    check_files(&files, &options.stores, Some(&options.tail), &options.checks)?;
    let listener = listen(&options.api.listen, "--listen").await?;
    let catalog = Arc::new(options.models.catalog()?);
    let closing = CancellationToken::new();
    let (store, streams) = open(&options.stores, &closing)?;
    let checked = async {
        Ok(startup::check(&store, &streams, Uses { api: true, worker: false }, &options.checks)
            .await?)
    };
    shutdown::unless_stopped(&stop, STARTING, checked).await?;
    let tail = Tail::start(&streams, &options.tail);
    let tasks = Tasks::new(store.clone(), streams, Some(tail.clone()), &options.stores.tasks);
    serve_api(listener, options.api, tasks, tail, catalog, metrics, stop)?.await;
    close(&closing, &store).await;
    Ok(())
}

async fn work(options: cli::Worker, stop: CancellationToken) -> anyhow::Result<()> {
    let metrics = metrics::install()?;
    options.worker.validate(options.stores.redis.stream_ttl)?;
    let mut files = vec![(options.worker.concurrency, CONCURRENCY)];
    files.extend(options.metrics_listen.is_some().then_some((METRICS_CONNECTIONS, METRICS_LISTEN)));
    check_files(&files, &options.stores, None, &options.checks)?;
    let catalog = Arc::new(options.models.catalog()?);
    announce(&catalog);
    let closing = CancellationToken::new();
    let (store, streams) = open(&options.stores, &closing)?;
    let checked = async {
        Ok(startup::check(&store, &streams, Uses { api: false, worker: true }, &options.checks)
            .await?)
    };
    shutdown::unless_stopped(&stop, STARTING, checked).await?;
    let tasks = Tasks::new(store.clone(), streams, None, &options.stores.tasks);
    let probes = TaskTracker::new();
    if let Some(address) = &options.metrics_listen {
        let listener = listen(address, METRICS_LISTEN).await?;
        let endpoint = api::probes(tasks.clone(), metrics);
        tracing::info!("metrics at http://{}/metrics", listener.name(address)?);
        let limits = http::Limits {
            max_connections: METRICS_CONNECTIONS as usize,
            probes: api::PROBES,
            ..http::Limits::default()
        };
        probes.spawn(http::serve(listener, endpoint, limits, closing.clone()));
    }
    worker::run(tasks, catalog, options.worker, stop).await;
    close(&closing, &store).await;
    probes.close();
    probes.wait().await;
    Ok(())
}

/// Says which models answer.
fn announce(catalog: &Catalog) {
    let names: Vec<_> = catalog.models().map(|model| model.name.as_str()).collect();
    tracing::info!(
        models = names.join(", "),
        "answers come from {}",
        catalog.default_model().upstream
    );
}

/// Serves the API until `stop`, and then until its connections have ended.
fn serve_api(
    listener: Listener,
    options: api::Options,
    tasks: Tasks,
    tail: tail::Tail,
    catalog: Arc<Catalog>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()>> {
    let address = listener.name(&options.listen)?;
    // Open to others if one of them is.
    let addresses = listener.addresses()?;
    let open = addresses.iter().find(|address| !address.ip().is_loopback());
    let listening = *open.or(addresses.first()).context("no address is listened on")?;
    let limits = options.limits();
    let state = api::State {
        tasks: tasks.clone(),
        catalog,
        metrics,
        responses: api::Responses::new(options.response_memory),
        shutdown: stop.clone(),
        listening,
        options: Arc::new(options),
    };
    Ok(async move {
        tracing::info!("rill is at http://{address} (the API's documentation at /docs)");
        let watch = tokio::spawn(crate::tasks::watch_ends(tasks, tail));
        let grace = humantime::format_duration(limits.drain_timeout);
        let announced = stop.clone();
        let announcing = tokio::spawn(async move {
            announced.cancelled().await;
            tracing::info!(
                "the API accepts nobody more: streams end, requests have {grace}; readers come \
                 back to another API, or to the next one"
            );
        });
        http::serve(listener, api::endpoint(state), limits, stop).await;
        announcing.abort();
        watch.abort();
    })
}

/// Closes the stores' connections, waiting for them only so long.
async fn close(closing: &CancellationToken, store: &Store) {
    closing.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(2), store.close()).await;
}

async fn simulate(options: simulator::Options, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = listen(&options.listen, "--listen").await?;
    let address = listener.name(&options.listen)?;
    tracing::warn!(
        "a simulator is at http://{address}/v1: it invents its answers, for trying out, tests and \
         benchmarks"
    );
    simulator::serve(listener, options.defaults, stop).await;
    Ok(())
}

async fn healthcheck(url: &str) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
    let answer = client.get(url).send().await.with_context(|| format!("{url} does not answer"))?;
    let status = answer.status();
    anyhow::ensure!(status.is_success(), "{url} answers {status}: {}", answer.text().await?);
    Ok(())
}
