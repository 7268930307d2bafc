//! `/healthz` and `/readyz`, for whoever restarts processes and routes requests.

use poem_openapi::{Object, OpenApi};

use super::Tag;
use super::body::Json;
use super::failure::{Failure, failures};
use super::problem::{Code, Problem};
use crate::tasks::Tasks;

/// All is well.
#[derive(Debug, Object)]
struct Health {
    /// Always `ok`.
    status: String,
}

fn ok() -> Json<Health> {
    Json(Health { status: "ok".to_owned() })
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
        Ok(ok())
    }

    /// Can the process do its work?
    ///
    /// Checks PostgreSQL and Redis, and names what doesn't answer.
    #[oai(path = "/readyz", method = "get", operation_id = "getReadiness")]
    async fn readiness(&self) -> Result<Json<Health>, Failure<GetReadiness>> {
        let missing = self.0.unready().await;
        if missing.is_empty() {
            return Ok(ok());
        }
        let detail = format!("No answer from {}.", missing.join(" and "));
        Err(Problem::new(Code::NotReady, detail).into())
    }
}
