//! rill: see `rill --help`, or the library's documentation for the map.

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = rill::cli::Cli::parse();
    // The only TLS provider; see Cargo.toml.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match cli.runtime.start().and_then(|runtime| runtime.block_on(rill::app::run(cli))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // For people: what is wrong and what to do, without a backtrace.
            eprintln!("rill: {}", rill::text::lines(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}
