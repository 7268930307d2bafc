//! rill: see `rill --help`, or the library's documentation for the map.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = rill::cli::Cli::parse();
    // The only TLS provider; see Cargo.toml.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match rill::app::run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // For people: what is wrong and what to do, without a backtrace.
            eprintln!("rill: {error:#}");
            ExitCode::FAILURE
        }
    }
}
