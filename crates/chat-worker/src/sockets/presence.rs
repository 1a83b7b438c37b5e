//! This process's part in the cluster's presence: says that it lives, and tells of users whose
//! workers died.

use std::sync::Arc;

use tokio::time::MissedTickBehavior;

use super::Sockets;
use crate::chat::roster::Entry;
use crate::store::PresenceChange;

/// Tends the store for as long as the process lives.
pub(crate) async fn keep_presence(sockets: Arc<Sockets>) {
    let mut ticks = tokio::time::interval(sockets.store.tend_interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match sockets.store.tend().await {
            Ok(changes) => changes
                .into_iter()
                .for_each(|change| tell(&sockets, change)),
            Err(error) => tracing::debug!(%error, "presence could not be tended"),
        }
    }
}

fn tell(sockets: &Arc<Sockets>, change: PresenceChange) {
    match change {
        PresenceChange::Gone { user } => sockets.tell(None, "user disconnected", &user),
        PresenceChange::Back { user, name } => {
            let entry = Entry::arrived(&user, &name);
            sockets.tell(None, "user connected", &entry);
        }
    }
}
