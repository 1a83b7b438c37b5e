//! The worker as its master, its clients and its application see it.

mod boundary;
mod client;
mod descriptors;
mod drain;
mod fake_engine;
mod handoff;
mod nodes;
mod proxied;
mod real_engine;
mod relay;
mod stub_master;
mod tls;

use std::time::Duration;

/// For what happens at once unless the machine is very busy.
const LONG: Duration = Duration::from_secs(30);

/// Waits until `condition` holds, for [`LONG`] at most.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(LONG, waiting).await;
    assert!(waited.is_ok(), "{what}");
}
