//! The chat page, built into the binary.
//!
//! It runs nothing but its own scripts and talks to nobody but its own server:
//! text that a model wrote must not become code, whatever it says.

use poem::http::{HeaderMap, StatusCode, header};
use poem::web::Path;
use poem::{Body, Endpoint, IntoEndpoint, Response, Route, get, handler};

use super::problem::{Code, Problem};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

struct Asset {
    name: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! assets {
    ($($name:literal: $media_type:ident,)*) => {
        &[$(Asset {
            name: $name,
            media_type: $media_type,
            bytes: include_bytes!(concat!("page/", $name)),
        },)*]
    };
}

const CSS: &str = "text/css; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

static ASSETS: &[Asset] = assets! {
    "answer.js": JS,
    "api.js": JS,
    "app.js": JS,
    "chat.js": JS,
    "composer.js": JS,
    "dialogs.js": JS,
    "favicon.svg": SVG,
    "focus.js": JS,
    "follow.js": JS,
    "index.html": HTML,
    "inline.js": JS,
    "line.js": JS,
    "markdown.js": JS,
    "math.js": JS,
    "memory.js": JS,
    "message.js": JS,
    "outbox.js": JS,
    "sidebar.js": JS,
    "style.css": CSS,
    "suggestions.js": JS,
};

/// A validator for caches: FNV-1a of the bytes. Nobody who could forge one
/// could not change the page itself.
const fn etag(bytes: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

/// Answers with an asset, or with 304 to whoever has it already. Browsers ask
/// each time: pages of an old and a new version must not mix.
fn serve(asset: &Asset, request: &HeaderMap) -> Response {
    let tag = format!("\"{:016x}\"", etag(asset.bytes));
    let known = request.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok()).is_some_and(
        |tags| tags.split(',').any(|known| known.trim().trim_start_matches("W/") == tag),
    );
    let response = Response::builder()
        .header(header::ETAG, tag)
        .header(header::CACHE_CONTROL, "no-cache")
        .header(header::CONTENT_SECURITY_POLICY, POLICY)
        .header(header::REFERRER_POLICY, "no-referrer");
    if known {
        return response.status(StatusCode::NOT_MODIFIED).finish();
    }
    response.content_type(asset.media_type).body(Body::from_bytes(asset.bytes.into()))
}

fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

#[handler]
fn get_page(headers: &HeaderMap) -> poem::Result<Response> {
    let page = find("index.html").ok_or_else(|| Problem::internal("the page is not built in"))?;
    Ok(serve(page, headers))
}

#[handler]
fn get_asset(Path(name): Path<String>, headers: &HeaderMap) -> poem::Result<Response> {
    let asset = find(&name).ok_or_else(|| {
        Problem::new(Code::UnknownPath, format!("The page has no file {name:?}."))
    })?;
    Ok(serve(asset, headers))
}

/// The page itself.
pub(super) fn page() -> impl IntoEndpoint<Endpoint: Endpoint + 'static> {
    get(get_page)
}

/// What it loads.
pub(super) fn assets() -> impl IntoEndpoint<Endpoint: Endpoint + 'static> {
    Route::new().at("/:name", get(get_asset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_built_in() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/page");
        for file in std::fs::read_dir(folder).expect("the folder") {
            let name = file.expect("a file").file_name().into_string().expect("UTF-8");
            assert!(find(&name).is_some(), "{name} is missing from ASSETS");
        }
    }

    #[test]
    fn whoever_has_the_page_is_not_sent_it_again() {
        let page = find("index.html").expect("the page");
        let first = serve(page, &HeaderMap::new());
        assert_eq!(first.status(), StatusCode::OK);
        assert!(
            first
                .header("content-security-policy")
                .expect("a policy")
                .contains("script-src 'self'")
        );
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        let again = serve(page, &headers);
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(again.content_type(), None);
    }
}
