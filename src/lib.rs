//! rill

pub mod api;
pub mod app;
pub mod cli;
pub mod config;
pub mod domain;
pub mod http;
pub mod log_limit;
pub mod metrics;
pub mod model;
pub mod shutdown;
pub mod store;
pub mod streams;
pub mod tasks;
pub mod telemetry;
pub mod worker;
