//! `/healthz` and `/readyz`, for whoever restarts processes and routes requests.

use poem_openapi::{Object, OpenApi};

use super::Tag;
use super::body::Json;
use super::failure::{Failure, failures};
use super::problem::{Code, Problem};
use crate::tasks::{self, Tasks};

/// The process lives.
#[derive(Debug, Object)]
struct Health {
    /// Always `ok`.
    status: String,
}

/// How the stores are.
#[derive(Debug, Object)]
struct Readiness {
    /// `ok`; `degraded` while Redis, which was there, is away: messages are
    /// accepted, and answers wait for it.
    status: String,
    /// `ok`.
    postgresql: String,
    /// `ok`, or what is wrong with which connection.
    redis: String,
    /// Workers that have said within 30 s that they live. Without one, messages are
    /// accepted and wait.
    workers: Option<u64>,
}

failures! {
    GetHealth: [];
    GetReadiness: [], NotReady;
}

pub(super) struct Probes(pub(super) Tasks);

#[OpenApi(tag = "Tag::Operations")]
impl Probes {
    /// Is the process alive?
    ///
    /// Depends on nothing else: restarting the process would not bring a
    /// database back.
    #[oai(path = "/healthz", method = "get", operation_id = "getHealth")]
    async fn health(&self) -> Result<Json<Health>, Failure<GetHealth>> {
        Ok(Json(Health { status: "ok".to_owned() }))
    }

    /// Can the process do its work?
    ///
    /// It can when each connection to PostgreSQL and Redis that it uses takes a
    /// write: one that leads to a standby, a replica or a server that refuses or
    /// doesn't answer is named. A Redis that was there and is away leaves it ready,
    /// as `degraded`.
    #[oai(path = "/readyz", method = "get", operation_id = "getReadiness")]
    async fn readiness(&self) -> Result<Json<Readiness>, Failure<GetReadiness>> {
        let tasks::Readiness { ready, postgresql, redis, workers } = self.0.readiness().await;
        if !ready {
            let detail = format!("PostgreSQL: {postgresql}. Redis: {redis}.");
            return Err(Problem::new(Code::NotReady, detail).into());
        }
        let status = if redis == "ok" { "ok" } else { "degraded" };
        Ok(Json(Readiness { status: status.to_owned(), postgresql, redis, workers }))
    }
}
