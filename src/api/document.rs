//! The OpenAPI document, and its page at `/docs`.

use std::collections::HashMap;

use poem::endpoint::{BoxEndpoint, make_sync};
use poem::http::{Method, header};
use poem::{Endpoint, IntoEndpoint, Response, get};
use poem_openapi::registry::{MetaApi, Registry};
use poem_openapi::{LicenseObject, OpenApi, OpenApiService, ServerObject};
use serde_json::Value;

use super::State;
use super::conversations::Conversations;
use super::health::Probes;
use super::messages::Messages;
use super::models::Models;
use super::public_url::PublicUrl;
use super::routes::Routes;
use super::stream::Streams;
use super::tasks::Tasks;

/// Everything that the document describes.
pub(super) type Api = (Conversations, Messages, Tasks, Streams, Models, Probes);

const DESCRIPTION: &str = "\
Durable, resumable LLM token streams.

Post a message, follow the answer from any number of places, come back to it after any cut, and \
miss nothing.

Errors are `application/problem+json` (RFC 9457). Programs branch on `code`, which is stable; \
`detail` says what to do. Each operation lists its codes; beside those, any request can be answered \
with 404 `unknown_path`, 405 `method_not_allowed` (with `Allow`) and 400 `bad_request`, and any but \
a probe with 503 `overloaded` (with `Retry-After`). Every \
response has an `X-Request-Id`: yours if the request had one, otherwise a new one.

Lists come in pages: give `next_cursor` as `cursor` to get the next one, until it is null.";

pub(super) fn service(state: &State) -> OpenApiService<Api, ()> {
    described(
        (
            Conversations(state.clone()),
            Messages(state.clone()),
            Tasks(state.clone()),
            Streams(state.clone()),
            Models(state.clone()),
            Probes(state.tasks.clone()),
        ),
        state.options.public_url.as_ref(),
    )
}

fn described<T: OpenApi>(api: T, public_url: Option<&PublicUrl>) -> OpenApiService<T, ()> {
    let server = match public_url {
        Some(url) => ServerObject::new(format!("{}{}", url.origin(), url.base())),
        None => ServerObject::new("/"),
    };
    OpenApiService::new(api, "rill", env!("CARGO_PKG_VERSION"))
        .description(DESCRIPTION)
        .license(LicenseObject::new("MIT"))
        .server(server.description("The server that this document came from."))
        .extra_response_header::<String, _>("X-Request-Id")
}

/// The API's description without the API, which needs servers to run.
struct DocumentOnly;

impl OpenApi for DocumentOnly {
    fn meta() -> Vec<MetaApi> {
        Api::meta()
    }

    fn register(registry: &mut Registry) {
        Api::register(registry);
    }

    fn add_routes(self, _: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {}
}

/// The OpenAPI document: the same bytes for the same version.
pub fn openapi_document() -> String {
    document_at(None)
}

/// The document of the server that is at that URL.
fn document_at(public_url: Option<&PublicUrl>) -> String {
    let spec = described(DocumentOnly, public_url).spec();
    let tidied = serde_json::from_str(&spec).map(|mut document| {
        unmerge(&mut document);
        format!("{document:#}")
    });
    tidied.unwrap_or(spec) + "\n"
}

/// A field that refers to a type and has a description of its own becomes an
/// `allOf` of the reference and the description, which is repeated beside it.
/// SDK generators take the second part for a type: it goes.
fn unmerge(json: &mut Value) {
    if let Value::Object(object) = json
        && let Some(Value::Array(parts)) = object.get("allOf")
        && let [Value::Object(reference), Value::Object(repeated)] = &parts[..]
        && reference.contains_key("$ref")
        && repeated.iter().all(|(name, value)| object.get(name) == Some(value))
    {
        let reference = Value::Array(vec![parts[0].clone()]);
        object.insert("allOf".to_owned(), reference);
    }
    match json {
        Value::Object(object) => object.values_mut().for_each(unmerge),
        Value::Array(items) => items.iter_mut().for_each(unmerge),
        _ => {}
    }
}

/// The document's routes.
pub(super) fn routes() -> Routes {
    Routes::of(Api::meta())
}

/// `/openapi.json`.
pub(super) fn json(
    public_url: Option<&PublicUrl>,
) -> impl IntoEndpoint<Endpoint: Endpoint + 'static> + use<> {
    let document = bytes::Bytes::from(document_at(public_url));
    get(make_sync(move |_| {
        Response::builder()
            .content_type("application/json")
            .header(header::CACHE_CONTROL, "no-cache")
            .body(document.clone())
    }))
}

/// `/docs`: the document for people. Redoc is built in; its page would load
/// fonts and a logo from elsewhere, which is left away and forbidden.
pub(super) fn page(
    public_url: Option<&PublicUrl>,
) -> impl IntoEndpoint<Endpoint: Endpoint + 'static> + use<> {
    const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                          img-src data:; worker-src blob:; connect-src 'self'; base-uri 'none'; \
                          form-action 'none'; frame-ancestors 'none'";
    let html = described(DocumentOnly, public_url).redoc_html();
    let (before, rest) = html.split_once("<link href=\"https://fonts.").unwrap_or((&html, ""));
    let after = rest.split_once('>').map_or("", |(_, after)| after);
    let html = bytes::Bytes::from(format!("{before}{after}").replacen(
        "<title>Redoc",
        "<title>rill: API",
        1,
    ));
    get(make_sync(move |_| {
        Response::builder()
            .content_type("text/html; charset=utf-8")
            .header(header::CACHE_CONTROL, "no-cache")
            .header(header::CONTENT_SECURITY_POLICY, POLICY)
            .body(html.clone())
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn document() -> Value {
        serde_json::from_str(&openapi_document()).expect("JSON")
    }

    #[test]
    fn the_document_is_the_same_each_time_and_ends_its_last_line() {
        assert_eq!(openapi_document(), openapi_document());
        assert!(openapi_document().ends_with("}\n"));
    }

    #[test]
    fn each_operation_has_a_name_a_tag_a_summary_and_problems() {
        let document = document();
        let mut names = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().expect("paths") {
            for (method, operation) in operations.as_object().expect("operations") {
                let at = format!("{method} {path}");
                assert!(
                    names.insert(operation["operationId"].as_str().expect(&at).to_owned()),
                    "{at}"
                );
                assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{at}");
                assert!(operation["summary"].is_string(), "{at}");
                let problem = &operation["responses"]["500"]["content"]["application/problem+json"];
                assert_eq!(problem["schema"]["$ref"], "#/components/schemas/Problem", "{at}");
            }
        }
        assert_eq!(names.len(), 13, "{names:?}");
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        let html = described(DocumentOnly, None).redoc_html();
        assert_eq!(
            html.matches("<link href=\"https://fonts.").count(),
            1,
            "redoc's page has changed"
        );
    }

    #[test]
    fn a_reference_with_a_description_is_no_type_of_its_own() {
        let format =
            &document()["components"]["schemas"]["NewMessage"]["properties"]["response_format"];
        assert_eq!(
            format["allOf"],
            serde_json::json!([{"$ref": "#/components/schemas/ResponseFormat"}])
        );
        assert!(format["description"].is_string());
    }

    #[test]
    fn a_route_knows_its_methods() {
        let routes = routes();
        let conversations = routes.by_pattern("/v1/conversations").expect("a route");
        assert_eq!(conversations.allow, "POST, GET, HEAD");
        let cancel = routes.by_pattern("/v1/tasks/:param0/cancel").expect("a route");
        assert_eq!((&*cancel.route, &*cancel.allow), ("/v1/tasks/{task_id}/cancel", "POST"));
        assert_eq!(cancel.parameter("param0"), Some("task_id"));
        assert_eq!(cancel.parameter("param1"), None);
        let found = |path| routes.of_path(path).map(|known| known.route.as_str());
        assert_eq!(found("/v1/tasks/17/cancel"), Some("/v1/tasks/{task_id}/cancel"));
        assert_eq!(found("/v1/tasks/17"), Some("/v1/tasks/{task_id}"));
        for nothing in ["/v1/tasks/", "/v1/tasks/17/", "/v1/tasks", "/", "", "//v1/models"] {
            assert_eq!(found(nothing), None, "{nothing}");
        }
    }
}
