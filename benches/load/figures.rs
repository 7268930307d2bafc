//! What came out of a run: rows of tables, the median of several runs, JSON.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::counters::Commands;
use super::process::Usage;
use super::tally::Tally;

/// The 99th percentile beyond which a load counts as too much, in ms.
const TOO_LATE_MS: f64 = 1_000.0;

/// Milliseconds at these quantiles.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
    /// The distribution: percentile, milliseconds.
    pub(crate) curve: Vec<(f64, f64)>,
}

/// The percentiles of a distribution's curve.
const CURVE: [f64; 12] = [1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9];

impl Quantiles {
    /// Of a histogram of microseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: histogram.max() as f64 / 1e3,
            curve: CURVE
                .into_iter()
                .map(|percentile| (percentile, at(percentile / 100.0)))
                .collect(),
        }
    }
}

/// What one part of the whole used.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cost {
    /// Its column.
    pub(crate) name: &'static str,
    /// Part of what is measured, and so of the sum; the load's own isn't.
    pub(crate) counted: bool,
    #[serde(flatten)]
    pub(crate) usage: Usage,
}

/// What a load was to be.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Asked {
    /// Streams that are read, each viewer's counted.
    pub(crate) streams: u64,
    /// Tokens of all of them together.
    pub(crate) tokens: u64,
    /// Tokens a second, of all of them together.
    pub(crate) rate: f64,
    /// Answers generated.
    pub(crate) tasks: u64,
}

/// What came out of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    /// The load's name.
    pub(crate) load: String,
    pub(crate) asked: Asked,
    /// Milliseconds from the model's writing a token to the client.
    pub(crate) latency: Quantiles,
    /// Milliseconds from connecting to the response's head.
    pub(crate) opening: Quantiles,
    pub(crate) tokens: u64,
    pub(crate) summed_up: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) misplaced: u64,
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) restarted: u64,
    pub(crate) reconnects: u64,
    /// Times that a reader was refused with 503 or 429; it came back.
    pub(crate) refused: u64,
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) broken: u64,
    /// Tokens a second: the streams' own paces summed.
    pub(crate) received_rate: f64,
    /// At which the model wrote them.
    pub(crate) written_rate: f64,
    pub(crate) wall_seconds: f64,
    pub(crate) costs: Vec<Cost>,
    /// Redis' commands.
    pub(crate) commands: Commands,
    /// PostgreSQL's statements.
    pub(crate) statements: u64,
    /// Why it counts as too much; `None` when it doesn't.
    pub(crate) breaks: Option<String>,
    /// What only some loads have, with its unit in the name.
    pub(crate) more: Vec<(String, f64)>,
}

impl Figures {
    pub(crate) fn new(load: &str, asked: Asked, tally: Tally, wall_seconds: f64) -> Self {
        let mut figures = Self {
            load: load.to_owned(),
            latency: Quantiles::of(&tally.latency),
            opening: Quantiles::of(&tally.opening),
            tokens: tally.tokens,
            summed_up: tally.summed_up,
            lost: tally.lost,
            doubled: tally.doubled,
            misplaced: tally.misplaced,
            events: tally.events,
            bytes: tally.bytes,
            restarted: tally.restarted,
            reconnects: tally.reconnects,
            refused: tally.refused,
            done: tally.done,
            failed: tally.failed,
            broken: tally.broken,
            received_rate: tally.received_rate,
            written_rate: tally.written_rate,
            wall_seconds,
            costs: Vec::new(),
            commands: Commands::new(),
            statements: 0,
            breaks: None,
            more: Vec::new(),
            asked,
        };
        figures.breaks = figures.judge(tally.reason.as_deref());
        figures
    }

    fn judge(&self, reason: Option<&str>) -> Option<String> {
        let Self { done, failed, broken, lost, doubled, misplaced, .. } = self;
        let streams = self.asked.streams;
        if *done < streams {
            let why = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            return Some(format!(
                "{done} of {streams} done, {failed} failed, {broken} broken{why}"
            ));
        }
        if lost + doubled + misplaced > 0 {
            return Some(format!("{lost} lost, {doubled} doubled, {misplaced} misplaced"));
        }
        let p99 = self.latency.p99;
        (p99 > TOO_LATE_MS).then(|| format!("p99 {p99:.0} ms"))
    }

    /// CPU milliseconds for 1,000 tokens received, of a part.
    fn each(&self, cost: &Cost) -> f64 {
        cost.usage.cpu_ms / (self.tokens.max(1) as f64 / 1e3)
    }

    /// CPU milliseconds for 1,000 tokens received, of all that is measured.
    pub(crate) fn cpu_each(&self) -> f64 {
        self.costs.iter().filter(|cost| cost.counted).map(|cost| self.each(cost)).sum()
    }

    /// Redis' commands for a token received.
    pub(crate) fn commands_each(&self) -> f64 {
        self.commands.values().sum::<u64>() as f64 / self.tokens.max(1) as f64
    }

    /// The columns about delivery.
    fn delivery(&self) -> Cells {
        let counts = [
            ("tokens", self.tokens),
            ("lost", self.lost),
            ("doubled", self.doubled),
            ("mispl.", self.misplaced),
            ("events", self.events),
        ];
        let mut cells: Cells =
            counts.iter().map(|&(name, count)| (name, count as f64, 0)).collect();
        cells.extend([
            ("asked/s", self.asked.rate, 0),
            ("model/s", self.written_rate, 0),
            ("got/s", self.received_rate, 0),
            ("wall s", self.wall_seconds, 1),
            ("p50 ms", self.latency.p50, 2),
            ("p90", self.latency.p90, 2),
            ("p99", self.latency.p99, 2),
            ("max", self.latency.max, 1),
            ("open p99", self.opening.p99, 1),
        ]);
        cells
    }

    /// The columns about costs.
    fn spending(&self) -> Cells {
        let mut cells: Cells = Vec::new();
        let (counted, own): (Vec<_>, Vec<_>) = self.costs.iter().partition(|cost| cost.counted);
        cells.extend(counted.iter().map(|cost| (cost.name, self.each(cost), 1)));
        if counted.is_empty() {
            return own.iter().map(|cost| (cost.name, self.each(cost), 1)).collect();
        }
        cells.push(("sum", self.cpu_each(), 1));
        cells.extend(own.iter().map(|cost| (cost.name, self.each(cost), 1)));
        let total: f64 = counted.iter().map(|cost| cost.usage.cpu_ms).sum();
        cells.push(("cores", total / 1e3 / self.wall_seconds.max(1e-9), 2));
        cells.push(("cmds/tok", self.commands_each(), 2));
        cells.push(("stmt/task", self.statements as f64 / self.asked.tasks.max(1) as f64, 1));
        let switches: u64 = counted.iter().map(|cost| cost.usage.switches).sum();
        cells.push(("csw/tok", switches as f64 / self.tokens.max(1) as f64, 2));
        let mib = |cost: &&Cost| cost.usage.pss_kib as f64 / 1024.0;
        for (name, column) in [("API", "API MiB"), ("worker", "wkr MiB"), ("Redis", "Redis MiB")] {
            let memory = counted.iter().find(|cost| cost.name == name).map(mib);
            cells.push((column, memory.unwrap_or_default(), 1));
        }
        cells
    }
}

/// Name, figure, digits after the point.
type Cells = Vec<(&'static str, f64, usize)>;

/// What the tables' columns mean.
pub(crate) const LEGEND: &str = "\
The first table, what arrived:
  tokens          received by all readers together
  lost, doubled, mispl.(aced)
                  each token is numbered; anything but 0 breaks the load
  events          that brought them; fewer than tokens: some were merged
  asked/s         tokens a second that were asked for, of all streams together
  model/s, got/s  at which the model wrote them and readers received them: the paces of the
                  streams, first token to last, summed. The model's below asked: the machine
                  can't keep up
  wall s          from the first POST to the end of the last stream
  p50 ... max     milliseconds from the model's writing a token to the client's reading it
  open p99        milliseconds from connecting to the response's head
The second, what it cost:
  API ... sum     CPU milliseconds for 1,000 tokens received, from before the first POST to after
                  the end: messages' POSTs are in it, conversations are made before. PostgreSQL's with all backends, Redis' with the
                  rewrites of its log
  simulator, client
                  the same, of what makes the load; not in the sum
  cores           the sum as cores in use
  cmds/tok        Redis' commands for a token received
  stmt/task       PostgreSQL's statements for a task
  csw/tok         context switches for a token, of what is in the sum
  ... MiB         memory (PSS) at the end
A load breaks when not all of it arrived, or when p99 is above 1 s.";

/// Prints both tables: each run's row, and below several the median.
pub(crate) fn print(loads: &[Vec<Figures>]) {
    for (title, cells) in [
        ("what arrived", Figures::delivery as fn(&Figures) -> Cells),
        ("what it cost (CPU ms for 1,000 tokens)", Figures::spending),
    ] {
        let mut header = Vec::new();
        for runs in loads {
            // Where no tokens come, all is said below.
            let runs: Vec<_> = runs.iter().filter(|run| run.asked.tokens > 0).collect();
            let rows: Vec<Cells> = runs.iter().map(|run| cells(run)).collect();
            let Some(first) = rows.first() else { continue };
            let names: Vec<_> = first.iter().map(|cell| cell.0).collect();
            if names != header {
                println!("\n{title}");
                print_row("", names.iter().map(|name| (*name).to_owned()));
                header = names;
            }
            for (figures, row) in runs.iter().zip(&rows) {
                let name = if figures.breaks.is_some() { "BREAKS " } else { "" };
                print_row(&format!("{name}{}", figures.load), row.iter().map(show));
            }
            if rows.len() > 1 {
                print_row("  median", median(&rows).iter().map(show));
            }
        }
    }
    println!();
    for figures in loads.iter().flatten() {
        if let Some(why) = &figures.breaks {
            println!("{} breaks: {why}", figures.load);
        }
        if figures.refused > 0 {
            println!("{}: {} times a reader was refused by 503", figures.load, figures.refused);
        }
        let more = figures.more.iter().map(|(name, figure)| format!("{name} {figure:.2}"));
        let more: Vec<_> = more.collect();
        if !more.is_empty() {
            println!("{}: {}", figures.load, more.join(", "));
        }
    }
}

fn print_row(name: &str, cells: impl Iterator<Item = String>) {
    print!("{name:<20}");
    cells.for_each(|cell| print!("{cell:>11}"));
    println!();
}

fn show(&(_, figure, digits): &(&'static str, f64, usize)) -> String {
    format!("{figure:.digits$}")
}

/// Each column's median.
fn median(rows: &[Cells]) -> Cells {
    let column = |at: usize| {
        let mut figures: Vec<f64> =
            rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.1).collect();
        figures.sort_by(f64::total_cmp);
        let half = figures.len() / 2;
        if figures.len() % 2 == 1 {
            figures[half]
        } else {
            (figures[half - 1] + figures[half]) / 2.0
        }
    };
    rows[0].iter().enumerate().map(|(at, cell)| (cell.0, column(at), cell.2)).collect()
}
