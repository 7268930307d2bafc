//! Logs: `tracing`, for people or as JSON, to standard error.

use std::io::{IsTerminal, Stderr, Write};

use tracing_subscriber::EnvFilter;

use crate::text;

/// How logs are written.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Logs")]
#[group(skip)]
pub struct Options {
    /// For people or for machines
    #[arg(long, global = true, env = "RILL_LOG_FORMAT", default_value = "pretty")]
    pub log_format: Format,
    /// What to log: error, warn, info, debug, trace, or a filter such as rill=debug,sqlx=warn
    #[arg(long, global = true, env = "RILL_LOG", default_value = "info")]
    pub log_level: String,
}

impl Options {
    /// For commands whose answer is what counts: errors only, unless something
    /// else than the default is asked for.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        if self.log_level == "info" {
            "error".clone_into(&mut self.log_level);
        }
        self
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Text.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Installs the process' log.
///
/// # Errors
/// When the filter can't be read, or a log is installed already.
pub fn install(options: &Options) -> anyhow::Result<()> {
    // sqlx warns once for each request that waited for a connection, and for each
    // connection that broke: an outage would fill the disk. We report it ourselves.
    let filter = EnvFilter::try_new(format!("sqlx=error,sqlx_core=error,{}", options.log_level))?;
    // async-openai logs what it can't parse, which is what users and models say.
    let filter = filter.add_directive("async_openai=off".parse()?);
    let (format, colours) = (options.log_format, std::io::stderr().is_terminal());
    let writer = move || Plain { to: std::io::stderr(), format, colours };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let installed = match options.log_format {
        Format::Pretty => log.with_ansi(colours).try_init(),
        Format::Json => log.json().flatten_event(true).try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!(error))
}

/// Writes log lines, each by one write, so that nothing in them acts on a terminal
/// or looks like another line: what is hidden is escaped. Whatever a field's value
/// comes from, it goes through here.
struct Plain {
    to: Stderr,
    format: Format,
    colours: bool,
}

impl Write for Plain {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        self.to.write_all(plain(&text, self.format, self.colours).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

fn plain(line: &str, format: Format, colours: bool) -> String {
    let (body, end) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
    if !body.contains(text::is_hidden) {
        return line.to_owned();
    }
    if format == Format::Json {
        return text::json(&body.replace('\n', " ")) + end;
    }
    let mut out = String::with_capacity(line.len() + 16);
    let mut rest = body;
    while let Some(at) = rest.find(text::is_hidden) {
        out += &rest[..at];
        rest = &rest[at..];
        let colour = colour(rest).filter(|_| colours);
        let end = colour.unwrap_or_else(|| rest.chars().next().map_or(0, char::len_utf8));
        match colour {
            Some(_) => out += &rest[..end],
            None => out.extend(rest[..end].chars().flat_map(char::escape_default)),
        }
        rest = &rest[end..];
    }
    out + rest + end
}

/// The length of a colour at the beginning: the formatter's own, since it escapes
/// those of values.
fn colour(text: &str) -> Option<usize> {
    let rest = text.strip_prefix("\u{1b}[")?;
    let length = rest.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    rest[length..].starts_with('m').then_some(length + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_is_one_line_of_what_can_be_read() {
        let line = "WARN said a\n2026 INFO b\u{1b}[2J\u{202e}\n";
        let escaped = "WARN said a\\n2026 INFO b\\u{1b}[2J\\u{202e}\n";
        assert_eq!(plain(line, Format::Pretty, false), escaped);
        let coloured = "\u{1b}[33mWARN\u{1b}[0m \u{1b}[2J\n";
        let kept = "\u{1b}[33mWARN\u{1b}[0m \\u{1b}[2J\n";
        assert_eq!(plain(coloured, Format::Pretty, true), kept);
        let json = serde_json::json!({ "said": "\u{9b}\u{202e}\n" }).to_string() + "\n";
        let escaped = plain(&json, Format::Json, false);
        assert_eq!(escaped, "{\"said\":\"\\u009b\\u202e\\n\"}\n");
    }
}
