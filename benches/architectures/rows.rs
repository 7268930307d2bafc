//! The eight rows of the comparison, and a chunk's way through each design.

use crate::architecture::Architecture;
use crate::run::Outcome;
use crate::search::Found;

/// One line of the table: a figure for each design.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// What was once claimed of the database, and of the Redis list.
    pub(crate) claimed: &'static str,
    /// As printed, and to compute ratios of.
    pub(crate) cells: Vec<(String, Option<f64>)>,
}

/// What is known of a design.
pub(crate) struct Known<'a> {
    /// A run at the rows' number of streams.
    pub(crate) run: &'a Outcome,
    /// One in which it is known when chunks were in the store.
    pub(crate) sampled: &'a Outcome,
    pub(crate) found: Option<&'a Found>,
    /// The most streams that it carried without a search.
    pub(crate) carried: u32,
}

impl Known<'_> {
    /// Medians in ms: model to store, store to client, model to client.
    pub(crate) fn way(&self) -> Option<[f64; 3]> {
        let written = self.sampled.numbers.written?.p50?;
        let total = self.sampled.figures.latency.p50;
        Some([written, total - written, total])
    }
}

type Cell = (String, Option<f64>);

/// All rows; some are of several lines.
pub(crate) fn rows(all: &[Known<'_>]) -> Vec<Row> {
    let row = |name, claimed, cell: &dyn Fn(&Known<'_>) -> Cell| Row {
        name,
        claimed,
        cells: all.iter().map(cell).collect(),
    };
    vec![
        row("write latency of a chunk, mean ms (p99)", "10-50 ms : < 1 ms, 10-50x", &write),
        row("read latency, ms", "5-100 ms : < 1 ms, 5-100x", &read),
        row("chunk delivery, median ms (p99)", "50-100 ms : 1-5 ms, 30x", &delivery),
        row("wasted queries", "90 % : 0", &wasted),
        row("database load: statements a second", "1000 : near zero", &|known| {
            plain(known.run.statements_per_second(), 0)
        }),
        row("  PostgreSQL, % of a core", "60-80 % : < 5 %, 50x", &|known| {
            plain(known.run.cpu_percent("Postgres"), 1)
        }),
        row("  Redis, % of a core", "- : < 5 %", &|known| plain(known.run.cpu_percent("Redis"), 1)),
        row("  API and worker, % of a core", "", &|known| {
            plain(known.run.cpu_percent("API") + known.run.cpu_percent("worker"), 1)
        }),
        row("concurrent streams (more is better)", "~50 : 1,000+, 20x", &streams),
        row("connections of the API (Redis + PostgreSQL)", "one a stream : shared", &connections),
        row("cleanup (left by this run)", "manual : TTL", &cleanup),
    ]
}

fn plain(figure: f64, digits: usize) -> Cell {
    (format!("{figure:.digits$}"), Some(figure))
}

fn unknown() -> Cell {
    ("?".to_owned(), None)
}

fn write(known: &Known<'_>) -> Cell {
    let Some(write) = known.run.numbers.write else { return unknown() };
    let p99 = write.p99.map(|p99| format!(" ({p99:.2})")).unwrap_or_default();
    (format!("{:.2}{p99}", write.mean), Some(write.mean))
}

fn read(known: &Known<'_>) -> Cell {
    known.way().map_or_else(unknown, |[_, read, _]| plain(read, 2))
}

fn delivery(known: &Known<'_>) -> Cell {
    let latency = &known.run.figures.latency;
    (format!("{:.2} ({:.1})", latency.p50, latency.p99), Some(latency.p50))
}

fn wasted(known: &Known<'_>) -> Cell {
    let numbers = &known.run.numbers;
    let share = 100.0 * numbers.empty as f64 / numbers.reads.max(1) as f64;
    let read = known.run.architecture.read();
    (format!("{share:.1} % of {} {read}s", numbers.reads), None)
}

fn streams(known: &Known<'_>) -> Cell {
    match known.found {
        Some(Found { carries, breaks_at: Some(_), .. }) => {
            (carries.to_string(), Some((*carries).into()))
        }
        Some(Found { carries, .. }) => (format!(">= {carries}"), Some((*carries).into())),
        None => (format!(">= {}", known.carried), None),
    }
}

fn connections(known: &Known<'_>) -> Cell {
    let numbers = &known.run.numbers;
    let sum = numbers.to_redis + numbers.to_postgres;
    (format!("{} + {}", numbers.to_redis, numbers.to_postgres), Some(sum as f64))
}

fn cleanup(known: &Known<'_>) -> Cell {
    let (cleanup, numbers) = (known.run.architecture.cleanup(), &known.run.numbers);
    let left = match (known.run.architecture, numbers.ttl_seconds) {
        (Architecture::Database | Architecture::DatabaseRelaxed, _) => {
            format!("{} rows", numbers.rows_left)
        }
        (_, Some(seconds)) => format!("{} keys, gone in {seconds} s", numbers.keys_left),
        (_, None) => format!("{} keys, for ever", numbers.keys_left),
    };
    (format!("{cleanup} ({left})"), None)
}
