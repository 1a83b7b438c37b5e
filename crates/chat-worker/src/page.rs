//! The page at `/`, and what it loads. Embedded at build time; without it, `/` says how to build it.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::embedded_file::{Caching, File};

include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// Files below it carry a digest of their content in their names.
const HASHED: &str = "/assets/";

/// The page loads its own files, talks to its own host, and nothing else: text that somebody made
/// look like markup could do no harm even if it became some.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";

const MISSING: &str = "This is chat-cluster, a Socket.IO chat server. It works, but its page is \
not part of this build, because Node was not there when it was built: install Node.js 20 or newer, \
run `make web` in the source tree, and build again (or `make run`, which does both). Meanwhile any \
Socket.IO client can connect to this address; /healthz says whether the server can work.\n";

/// The routes of the page.
pub(crate) fn routes() -> Router {
    let router = FILES.iter().fold(Router::new(), |router, file| {
        let serve = async move |headers: HeaderMap| serve(file, &headers);
        router.route(file.path, get(serve))
    });
    if FILES.iter().any(|file| file.path == "/") {
        router
    } else {
        router.route("/", get(async || MISSING))
    }
}

fn serve(file: &File, request: &HeaderMap) -> Response {
    let caching = if file.path.starts_with(HASHED) {
        Caching::Immutable
    } else {
        Caching::Revalidate
    };
    let guards: [(HeaderName, HeaderValue); 2] = [
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    let mut response = file.serve(caching, request);
    response.headers_mut().extend(guards);
    response.into_response()
}
