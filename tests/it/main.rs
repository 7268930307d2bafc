//! rill's promises, a module each, kept by real processes against real Redis,
//! real PostgreSQL and a model that speaks OpenAI's wire format over HTTP.
//!
//! `make test` starts the servers. Tests run in parallel: each has its own
//! database, Redis prefix and `rill` processes.

mod answers;
mod base_path;
mod browsers;
mod bytes;
mod cancel;
mod chaos;
mod compose;
mod crowd;
mod deployment;
mod drain;
mod ends;
mod errors;
mod exact;
mod failover;
mod faults;
mod hostile;
mod hostile_text;
mod late;
mod layering;
mod listen;
mod load_client;
mod make_run;
mod operators;
mod outages;
mod pooler;
mod properties;
mod protocol;
mod providers;
mod proxies;
mod quarantine;
mod readme;
mod recovery;
mod redis_access;
mod requests;
mod retries;
mod scale;
mod schema;
mod startup;
mod statements;
mod support;
mod takeover;
mod together;
mod upstream_tls;
mod vanished;
mod versions;

/// Makes a test of each stream test, with hints and without.
macro_rules! in_both_modes {
    ($($(#[$doc:meta])* async fn $name:ident($builder:ident: Builder) $body:block)*) => {
        $(
            mod $name {
                use super::*;

                $(#[$doc])*
                async fn holds($builder: Builder) $body

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn with_hints() {
                    holds(App::builder().with("RILL_HINTS", "on")).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn without_hints() {
                    holds(App::builder().with("RILL_HINTS", "off")).await;
                }
            }
        )*
    };
}
pub(crate) use in_both_modes;
