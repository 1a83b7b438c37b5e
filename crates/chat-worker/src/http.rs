//! The HTTP routes: the page, log-in, health, the client's bundle, Socket.IO.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::middleware;
use axum::routing::get;
use http::StatusCode;
use redis_adapter::Bus;

use crate::client_bundle;
use crate::origin::{self, AllowedOrigins};
use crate::page;
use crate::store::{Health, Store};

/// What health depends on.
#[derive(Clone)]
pub(crate) struct Vitals {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) bus: Arc<dyn Bus>,
}

/// All routes, `more` among them, with the origin rules around them.
pub(crate) fn routes(
    socket_io: Router,
    more: Router,
    vitals: Vitals,
    origins: AllowedOrigins,
) -> Router {
    Router::new()
        .route("/healthz", get(healthz).with_state(vitals))
        .merge(socket_io)
        .merge(client_bundle::routes())
        .merge(page::routes())
        .merge(more)
        // Outermost: socketioxide answers a preflight with an error.
        .layer(middleware::from_fn_with_state(
            Arc::new(origins),
            origin::layer,
        ))
}

async fn healthz(State(vitals): State<Vitals>) -> (StatusCode, &'static str) {
    let store_is_up = *vitals.store.health().borrow() == Health::Up;
    // No reason in the answer: it may name hosts, and this route is open to all. It is in the log.
    match (store_is_up, vitals.bus.is_up()) {
        (true, true) => (StatusCode::OK, "ok"),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "the store is away\n"),
        (true, false) => (StatusCode::SERVICE_UNAVAILABLE, "the bus is away\n"),
    }
}
