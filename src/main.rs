//! rill: see `rill --help`, or the library's documentation for the map.

use clap::Parser;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = rill::cli::Cli::parse();
    // The only TLS provider; see Cargo.toml.
    let _ = rustls::crypto::ring::default_provider().install_default();
    rill::app::run(cli).await
}
