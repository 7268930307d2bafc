//! The threads that everything in a process runs on.

use std::num::NonZeroUsize;

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};

/// How many threads there are.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(next_help_heading = "Runtime")]
#[group(skip)]
pub struct Options {
    /// Threads that do the work; half the cores if left out
    #[arg(long, global = true, env = "RILL_THREADS", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub threads: Option<u16>,
}

impl Options {
    /// The runtime.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(&self) -> anyhow::Result<Runtime> {
        let threads = self.threads.map_or_else(half_the_cores, usize::from);
        // One thread needs no locks and no stealing, and takes tasks in their order:
        // what they send to Redis in one turn leaves in one piece.
        let mut builder = match threads {
            1 => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        if threads > 1 {
            builder.worker_threads(threads);
        }
        builder.enable_all().build().context("the threads could not be started")
    }
}

/// A token is little work, so handing it from thread to thread costs more than
/// doing it; and Redis, the model and the other role want cores as well.
fn half_the_cores() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    (cores / 2).max(1)
}
