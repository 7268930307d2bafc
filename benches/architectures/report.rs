//! The tables.

use crate::architecture::Architecture;
use crate::rows::{Known, rows};
use crate::run::Outcome;

/// Chunks that the timeline adds up.
const CHUNKS: f64 = 500.0;

/// A row for each load and design.
pub(crate) fn print_loads(outcomes: &[Outcome]) {
    println!("\nThe loads (latency: model's write to client's receipt; CPU ms for 1,000 tokens)");
    print!("{:<28}{:>9}{:>10}{:>9}", "", "p50 ms", "p99 ms", "CPU");
    for name in ["API", "worker", "Redis", "Postgres", "tokens", "lost", "doubled", "mispl."] {
        print!("{name:>9}");
    }
    println!();
    let mut before = 0;
    for outcome in outcomes {
        let figures = &outcome.figures;
        if before != outcome.streams {
            before = outcome.streams;
            println!("{} streams, {:.0} tokens/s", before, figures.asked.rate);
        }
        let latency = &figures.latency;
        print!("  {:<26}", outcome.architecture.name());
        print!("{:>9.2}{:>10.1}{:>9.1}", latency.p50, latency.p99, figures.cpu_each());
        for part in ["API", "worker", "Redis", "Postgres"] {
            print!("{:>9.1}", outcome.cpu_each(part));
        }
        // What had not come when the time was up may still have been on its way.
        let lost = match figures.done < figures.asked.streams {
            true => format!("({})", figures.lost),
            false => figures.lost.to_string(),
        };
        print!("{:>9}{lost:>9}{:>9}{:>9}", figures.tokens, figures.doubled, figures.misplaced);
        match &figures.breaks {
            Some(why) => println!("  BREAKS: {why}"),
            None => println!(),
        }
    }
}

/// The eight rows, with ratios.
pub(crate) fn print_rows(all: &[Known<'_>]) {
    let Some(first) = all.first() else { return };
    let (streams, rate) = (first.run.streams, first.run.figures.asked.rate);
    println!("\nThe eight rows, measured at {streams} streams, {rate:.0} tokens/s");
    let names: Vec<_> = all.iter().map(|known| known.run.architecture).collect();
    print!("{:<46}", "");
    names.iter().for_each(|name| print!("{:<36}", name.name()));
    let pairs = pairs(&names);
    for (of, to) in &pairs {
        print!("{:<18}", format!("{} : {}", names[*of].name(), names[*to].name()));
    }
    println!("claimed once, database : list");
    for row in rows(all) {
        print!("{:<46}", row.name);
        row.cells.iter().for_each(|(text, _)| print!("{text:<36}"));
        for (of, to) in &pairs {
            let ratio = match (row.cells[*of].1, row.cells[*to].1) {
                (Some(of), Some(to)) if to > 0.0 => format!("x {:.2}", of / to),
                _ => "-".to_owned(),
            };
            print!("{ratio:<18}");
        }
        println!("{}", row.claimed);
    }
    println!(
        "Write latency: the worker's time for INSERT, RPUSH + PUBLISH, XADD + PUBLISH. Read latency:\n\
         the median of delivery less the median from the model to the written chunk. Wasted: reads\n\
         that brought nothing; of polls that depends on the rate: at 20 tokens/s each finds two, at\n\
         1 token/s nine of ten find none. Connections: of the API, at most. Loads: averages over the\n\
         run, from the first POST to the last end."
    );
}

/// Which designs are divided by which: each by the last, and the first by the second.
fn pairs(names: &[Architecture]) -> Vec<(usize, usize)> {
    let last = names.len().saturating_sub(1);
    let mut pairs: Vec<_> = (0..last).map(|of| (of, last)).collect();
    if last >= 2 {
        pairs.push((0, 1));
    }
    pairs
}

/// A chunk's way.
pub(crate) fn print_timeline(all: &[Known<'_>]) {
    println!("\nThe timeline of one chunk, medians in ms");
    println!(
        "{:<20}{:>18}{:>20}{:>18}{:>10}{:>26}",
        "",
        "model to written",
        "written to client",
        "model to client",
        "p99",
        "500 chunks, summed, s"
    );
    let slowest = all.iter().filter_map(Known::way).map(|[.., total]| total).fold(0.0, f64::max);
    for known in all {
        let name = known.run.architecture.name();
        let Some([written, read, total]) = known.way() else {
            println!("{name:<20}{:>18}", "?");
            continue;
        };
        let sum = total * CHUNKS / 1e3;
        let saved = (slowest - total) * CHUNKS / 1e3;
        let p99 = known.sampled.figures.latency.p99;
        let sum = format!("{sum:.2} (saves {saved:.2})");
        println!("{name:<20}{written:>18.2}{read:>20.2}{total:>18.2}{p99:>10.1}{sum:>26}");
    }
    println!(
        "Summed: each chunk's lateness added up, as the claim did. A reader sees the whole answer\n\
         earlier by one chunk's lateness only, as chunks travel at the same time. rill's first leg is\n\
         sampled: some streams are read in Redis itself, in a run of its own."
    );
}
