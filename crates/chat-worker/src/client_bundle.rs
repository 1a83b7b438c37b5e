//! The official client's bundle at `/socket.io/socket.io.js` and its siblings, as the JavaScript
//! server serves it. Embedded at build time; without it, the answer says how to get it.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, StatusCode};

struct File {
    path: &'static str,
    etag: &'static str,
    bytes: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/client_bundle.rs"));

/// What a build without the bundle answers for.
const NAMES: [&str; 3] = [
    "/socket.io/socket.io.js",
    "/socket.io/socket.io.min.js",
    "/socket.io/socket.io.esm.min.js",
];

const MISSING: &str = "The client bundle is not part of this build. Run `make web` in the source \
tree, which installs the npm package socket.io-client under web/, and build again; or load the \
client from that package or a CDN.\n";

/// The routes of the bundle.
pub(crate) fn routes() -> Router {
    let router = FILES.iter().fold(Router::new(), |router, file| {
        router.route(
            file.path,
            get(async move |headers: HeaderMap| serve(file, &headers)),
        )
    });
    let missing = NAMES
        .iter()
        .filter(|name| !FILES.iter().any(|f| f.path == **name));
    missing.fold(router, |router, name| {
        router.route(name, get(async || (StatusCode::NOT_FOUND, MISSING)))
    })
}

fn serve(file: &'static File, headers: &HeaderMap) -> Response {
    let known = headers.get_all(IF_NONE_MATCH).iter().any(|value| {
        value.to_str().is_ok_and(|tags| {
            let mut tags = tags.split(',').map(str::trim);
            tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == file.etag)
        })
    });
    let caching = [(CACHE_CONTROL, "public, max-age=0"), (ETAG, file.etag)];
    if known {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    let content_type = if file.path.ends_with(".map") {
        "application/json; charset=utf-8"
    } else {
        "application/javascript; charset=utf-8"
    };
    (caching, [(CONTENT_TYPE, content_type)], file.bytes).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: File = File {
        path: "/socket.io/sample.js",
        etag: "\"1.2.3\"",
        bytes: b"sample",
    };

    #[test]
    fn a_client_that_has_the_file_is_told_so() {
        let table = [
            (None, StatusCode::OK),
            (Some("\"1.2.2\""), StatusCode::OK),
            (Some("\"1.2.3\""), StatusCode::NOT_MODIFIED),
            (Some("W/\"1.2.3\""), StatusCode::NOT_MODIFIED),
            (Some("\"0\", W/\"1.2.3\""), StatusCode::NOT_MODIFIED),
            (Some("*"), StatusCode::NOT_MODIFIED),
        ];
        for (tag, status) in table {
            let mut headers = HeaderMap::new();
            if let Some(tag) = tag {
                headers.insert(IF_NONE_MATCH, tag.parse().unwrap());
            }
            let response = serve(&SAMPLE, &headers);
            assert_eq!(response.status(), status, "{tag:?}");
            assert_eq!(response.headers()[ETAG], "\"1.2.3\"");
        }
    }
}
