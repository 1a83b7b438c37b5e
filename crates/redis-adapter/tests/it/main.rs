//! The adapter between real socketioxide servers, with clients that poll them
//! in process: over a stub bus, over a Redis of its own, and beside Node.

mod broadcasts;
mod bus_conformance;
mod client;
mod gaps;
mod gates;
mod golden;
mod golden_requests;
mod interop;
mod outlets;
mod peer_bus;
mod redis_bus;
mod redis_cluster;
mod redis_server;
mod requests;
mod rooms;
mod server;
mod stub_bus;

use std::time::Duration;

/// How long a test waits for what must happen; a loaded machine is slow.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits for `future`, within [`LIMIT`].
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future)
        .await
        .expect("this should have happened by now")
}
