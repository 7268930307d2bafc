//! What the commands print: tables with aligned columns, ages, JSON. A reader
//! that goes away (`| head`) is no error. Nothing that is printed acts on a terminal.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use crate::text::{self as chars, one_line};

/// Prints text.
pub(super) fn text(text: &str) {
    write(&chars::lines(text));
}

fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.trim_end());
}

/// Prints a view for scripts.
pub(super) fn json(view: &impl Serialize) {
    write(&chars::json(&serde_json::to_string_pretty(view).unwrap_or_default()));
}

/// Rows of cells. Columns are as wide as they need be; those whose cells below
/// the head are all numbers are aligned to the right.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut all = vec![head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()];
    all.extend_from_slice(rows);
    let cell = |row: &[String], column: usize| {
        row.get(column).map(|cell| one_line(cell).into_owned()).unwrap_or_default()
    };
    let widths: Vec<_> = (0..head.len())
        .map(|column| all.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0))
        .collect();
    let number =
        |cell: &str| cell == "-" || !cell.is_empty() && cell.bytes().all(|b| b.is_ascii_digit());
    let right: Vec<_> =
        (0..head.len()).map(|column| rows.iter().all(|row| number(&cell(row, column)))).collect();
    let mut text = String::new();
    for row in &all {
        let mut line = String::new();
        for (column, width) in widths.iter().enumerate() {
            let cell = cell(row, column);
            let blank = " ".repeat(width - cell.chars().count());
            line += &if right[column] { blank + &cell } else { cell + &blank };
            line += "  ";
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// `340ms`, `12s`, `2m 5s`, `3h 4m`, `2days 3h`.
pub(super) fn span(ms: impl TryInto<u64>) -> String {
    let ms = ms.try_into().unwrap_or(0);
    let exact = match ms {
        0..1_000 => Duration::from_millis(ms),
        1_000..10_000 => Duration::from_millis(ms / 100 * 100),
        _ => Duration::from_secs(ms / 1_000),
    };
    if (1_000..10_000).contains(&ms) {
        return format!("{}s", exact.as_secs_f64());
    }
    let parts = humantime::format_duration(exact).to_string();
    parts.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// An age that may not be known.
pub(super) fn maybe(ms: Option<impl TryInto<u64>>) -> String {
    ms.map_or_else(|| "-".to_owned(), span)
}

/// `1 task`, `2 tasks`.
pub(super) fn count(count: impl TryInto<u64>, what: &str) -> String {
    let count = count.try_into().unwrap_or(0);
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        for (ms, text) in [
            (0_u64, "0s"),
            (340, "340ms"),
            (1_000, "1s"),
            (1_250, "1.2s"),
            (12_345, "12s"),
            (125_000, "2m 5s"),
            (11_045_000, "3h 4m"),
            (183_600_000, "2days 3h"),
        ] {
            assert_eq!(span(ms), text);
        }
        assert_eq!(span(-5_i64), "0s");
    }

    #[test]
    fn columns_are_aligned_and_numbers_to_the_right() {
        let rows = [vec!["a".to_owned(), "9".into()], vec!["longer".to_owned(), "10".into()]];
        assert_eq!(table(&["NAME", "N"], &rows), "NAME     N\na        9\nlonger  10\n");
    }
}
