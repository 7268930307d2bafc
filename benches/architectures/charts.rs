//! The pictures: how late tokens are, and what they cost, in each design.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;
use serde_json::Value;

const SIZE: (u32, u32) = (860, 480);

/// A design's colour, told apart by those who see few colours, too.
fn colour(design: &str) -> RGBColor {
    match design {
        "database" => RGBColor(213, 94, 0),
        "database-relaxed" => RGBColor(204, 121, 167),
        "list" => RGBColor(0, 114, 178),
        _ => RGBColor(0, 158, 115),
    }
}

/// A design's name and its points.
type Line = (String, Vec<(f64, f64)>);

/// Draws what a run's JSON says.
pub(crate) fn draw(figures: &Value, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    let loads = figures["loads"].as_array().context("no loads in the figures")?;
    let rate = figures["rate"].as_f64().unwrap_or_default();
    for streams in numbers(loads) {
        let lines = lines(loads.iter().filter(|load| load["streams"] == streams), distribution);
        let title =
            format!("From the model's write to the client: {streams} streams x {rate} tokens/s");
        let path = directory.join(format!("latency-{streams}.svg"));
        latency(&path, &title, &lines)?;
    }
    let cpu = lines(loads.iter().filter(|load| load["breaks"].is_null()), |load| {
        vec![(load["streams"].as_f64().unwrap_or_default(), cpu_each(load))]
    });
    cost(&directory.join("cpu.svg"), rate, &cpu)
}

/// The numbers of streams that were measured.
fn numbers(loads: &[Value]) -> Vec<u64> {
    let mut numbers: Vec<_> = loads.iter().filter_map(|load| load["streams"].as_u64()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// A line for each design.
fn lines<'a>(
    loads: impl Iterator<Item = &'a Value>,
    points: impl Fn(&Value) -> Vec<(f64, f64)>,
) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for load in loads {
        let design = load["architecture"].as_str().unwrap_or_default();
        match lines.iter_mut().find(|(name, _)| name == design) {
            Some((_, line)) => line.extend(points(load)),
            None => lines.push((design.to_owned(), points(load))),
        }
    }
    for (_, line) in &mut lines {
        line.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    lines
}

/// Nines as even steps: 90 %, 99 % and 99.9 % are as far apart.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).log10()
}

fn distribution(load: &Value) -> Vec<(f64, f64)> {
    let curve = load["latency"]["curve"].as_array().map(Vec::as_slice).unwrap_or_default();
    let point = |point: &Value| Some((nines(point[0].as_f64()?), point[1].as_f64()?.max(0.01)));
    curve.iter().filter_map(point).collect()
}

fn cpu_each(load: &Value) -> f64 {
    let costs = load["costs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let counted = costs.iter().filter(|cost| cost["counted"] == true);
    let spent: f64 = counted.filter_map(|cost| cost["cpu_ms"].as_f64()).sum();
    spent / (load["tokens"].as_f64().unwrap_or_default() / 1e3).max(1e-9)
}

/// Where an axis with powers of ten begins and ends.
fn decades(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let most = values.fold(0.0, f64::max);
    10f64.powf(least.log10().floor())..10f64.powf(most.log10().ceil())
}

fn latency(path: &Path, title: &str, lines: &[Line]) -> Result<()> {
    let all = lines.iter().flat_map(|(_, line)| line.iter().map(|point| point.1));
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..3.0, decades(all).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("percentile of tokens")
        .y_desc("ms")
        .x_labels(4)
        .x_label_formatter(&|nines| {
            let percentile = 100.0 * (1.0 - 10f64.powf(-nines));
            format!("{:.*}", if *nines > 2.5 { 1 } else { 0 }, percentile)
        })
        .y_label_formatter(&|ms| format!("{ms}"))
        .draw()?;
    for (design, line) in lines {
        let style = colour(design).stroke_width(3);
        chart
            .draw_series(LineSeries::new(line.iter().copied(), style))?
            .label(design)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
    }
    legend(&mut chart, SeriesLabelPosition::LowerRight)?;
    Ok(root.present()?)
}

fn cost(path: &Path, rate: f64, lines: &[Line]) -> Result<()> {
    let xs = lines.iter().flat_map(|(_, line)| line.iter().map(|point| point.0));
    let ys = lines.iter().flat_map(|(_, line)| line.iter().map(|point| point.1));
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!("What 1,000 delivered tokens cost, at {rate} tokens/s a stream");
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d(decades(xs).log_scale(), decades(ys).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("streams at the same time (a line ends where its design breaks)")
        .y_desc("CPU ms: API, worker, Redis, PostgreSQL")
        .x_label_formatter(&|streams| format!("{streams}"))
        .y_label_formatter(&|ms| format!("{ms}"))
        .draw()?;
    for (design, line) in lines {
        let style = colour(design).stroke_width(3);
        chart
            .draw_series(LineSeries::new(line.iter().copied(), style).point_size(4))?
            .label(design)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
    }
    legend(&mut chart, SeriesLabelPosition::UpperRight)?;
    Ok(root.present()?)
}

fn legend<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    place: SeriesLabelPosition,
) -> Result<()>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(place)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}
