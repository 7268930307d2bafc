//! `/v1/models`: what may be asked for.

use poem_openapi::{Object, OpenApi};

use super::body::Json;
use super::failure::{Failure, failures};
use super::{State, Tag};

/// A model that may be asked for.
#[derive(Debug, Object)]
struct Model {
    /// Its name, for a message's `model`.
    id: String,
    /// The server that it is asked at.
    upstream: String,
    /// Whether it answers messages that name no model.
    default: bool,
}

/// The models.
#[derive(Debug, Object)]
struct ModelList {
    /// The models, the default one among them.
    items: Vec<Model>,
}

failures! {
    ListModels: [PARAMETERS];
}

pub(super) struct Models(pub(super) State);

#[OpenApi(prefix_path = "/v1", tag = "Tag::Models")]
impl Models {
    /// List models
    #[oai(path = "/models", method = "get", operation_id = "listModels")]
    async fn list(&self) -> Result<Json<ModelList>, Failure<ListModels>> {
        let catalog = &self.0.catalog;
        let items = catalog.models().map(|model| Model {
            id: model.name.clone(),
            upstream: model.upstream.clone(),
            default: model.name == catalog.default_model().name,
        });
        Ok(Json(ModelList { items: items.collect() }))
    }
}
