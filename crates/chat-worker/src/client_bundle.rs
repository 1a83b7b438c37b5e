//! The official client's bundle at `/socket.io/socket.io.js` and its siblings, as the JavaScript
//! server serves it. Embedded at build time; without it, the answer says how to get it.

use axum::Router;
use axum::routing::get;
use http::{HeaderMap, StatusCode};

use crate::embedded_file::{Caching, File};

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
        let serve = async move |headers: HeaderMap| file.serve(Caching::Revalidate, &headers);
        router.route(file.path, get(serve))
    });
    let missing = NAMES
        .iter()
        .filter(|name| !FILES.iter().any(|f| f.path == **name));
    missing.fold(router, |router, name| {
        router.route(name, get(async || (StatusCode::NOT_FOUND, MISSING)))
    })
}
