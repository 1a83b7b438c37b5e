//! Makes the keys of TLS session tickets and sees that all workers have them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::ticket_keys::TicketKey;

use crate::cluster::Cluster;

/// The wall clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(600);

/// Goes on for ever.
pub(crate) async fn run(cluster: Arc<Cluster>) {
    loop {
        let now = seconds();
        let due = cluster.ticket_keys().next_rotation();
        if due <= now {
            match new_key(now) {
                Ok(key) => cluster.add_ticket_keys([key]),
                Err(error) => tracing::error!(%error, "no randomness for a ticket key"),
            }
        }
        let pause = Duration::from_secs(due.saturating_sub(now).max(1));
        tokio::time::sleep(pause.min(LONGEST_SLEEP)).await;
    }
}

fn seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn new_key(made: u64) -> Result<TicketKey, getrandom::Error> {
    let mut key = TicketKey {
        name: Default::default(),
        made,
        key: Default::default(),
    };
    getrandom::fill(&mut key.name)?;
    getrandom::fill(&mut key.key)?;
    Ok(key)
}
