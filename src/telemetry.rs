//! Logs: `tracing`, for people or as JSON, to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

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
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match options.log_format {
        Format::Pretty => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => log.json().flatten_event(true).try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!(error))
}
