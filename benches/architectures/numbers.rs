//! What a design's own processes counted in a run: the baselines at `/stats`,
//! rill at `/metrics`.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

use crate::architecture::Architecture;
use crate::baseline::{Shown, Spread};
use crate::stage::Stage;

/// What was counted.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Numbers {
    /// Reads of the store for chunks, and those that brought nothing.
    pub(crate) reads: u64,
    pub(crate) empty: u64,
    /// Milliseconds from asking the store to write a chunk to its answer.
    pub(crate) write: Option<Spread>,
    /// Milliseconds from the model's writing a token to the chunk being in the store.
    pub(crate) written: Option<Spread>,
    /// Connections of the API during the run, at most.
    pub(crate) to_redis: usize,
    pub(crate) to_postgres: usize,
    /// Rows of chunks that the run has left.
    pub(crate) rows_left: u64,
    /// Keys of chunks that the run has left; seconds until the last of them is gone.
    pub(crate) keys_left: u64,
    pub(crate) ttl_seconds: Option<i64>,
}

impl Numbers {
    /// Asks the processes.
    pub(crate) async fn ask(stage: &Stage) -> Result<Self> {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10));
        let client = client.build()?;
        let get = async |address, path: &str| {
            let answer = client.get(format!("http://{address}{path}")).send().await?;
            answer.error_for_status()?.text().await
        };
        let mut numbers = if stage.architecture == Architecture::Rill {
            let api = get(stage.server, "/metrics").await?;
            of_rill(&api, &get(stage.worker_numbers, "/metrics").await?)
        } else {
            let api: Shown = serde_json::from_str(&get(stage.server, "/stats").await?)?;
            let worker = get(stage.worker_numbers, "/stats").await?;
            let worker: Shown = serde_json::from_str(&worker)?;
            let Shown { reads, empty, .. } = api;
            Self { reads, empty, write: worker.write, written: worker.written, ..Self::default() }
        };
        numbers.count_what_is_left(stage).await?;
        Ok(numbers)
    }

    async fn count_what_is_left(&mut self, stage: &Stage) -> Result<()> {
        if matches!(stage.architecture, Architecture::Database | Architecture::DatabaseRelaxed) {
            let mut database = PgConnection::connect(stage.postgres.url()).await?;
            let count = sqlx::query_scalar("SELECT count(*) FROM chunks");
            let rows: i64 = count.fetch_one(&mut database).await?;
            self.rows_left = u64::try_from(rows)?;
            return Ok(());
        }
        let pattern = match stage.architecture {
            Architecture::Rill => "rill:{*}:task:*",
            _ => "chunks:*",
        };
        let mut redis = crate::support::connect_to_redis(&stage.redis.url()).await;
        // A Redis of this run's own: it may be asked so.
        let keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(&mut redis).await?;
        self.keys_left = keys.len() as u64;
        let mut ttls = redis::pipe();
        for key in &keys {
            ttls.cmd("TTL").arg(key);
        }
        let ttls: Vec<i64> = ttls.query_async(&mut redis).await?;
        // Where a key stays for ever, that is what counts.
        let forever = ttls.contains(&-1);
        self.ttl_seconds = if forever { None } else { ttls.into_iter().max() };
        Ok(())
    }
}

fn of_rill(api: &str, worker: &str) -> Numbers {
    let (count, seconds) = (
        metric(worker, "rill_append_duration_seconds_count"),
        metric(worker, "rill_append_duration_seconds_sum"),
    );
    // Its buckets are too coarse for quantiles.
    let mean = seconds * 1e3 / count;
    let write = (count > 0.0).then_some(Spread { count: count as u64, mean, p50: None, p99: None });
    Numbers {
        reads: metric(api, "rill_tail_reads_total") as u64,
        empty: metric(api, "rill_tail_empty_reads_total") as u64,
        write,
        ..Numbers::default()
    }
}

/// A metric in Prometheus' text, summed over its labels.
fn metric(text: &str, name: &str) -> f64 {
    text.lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}
