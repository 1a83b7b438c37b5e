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
            Ok(changes) => {
                for change in changes {
                    match change {
                        PresenceChange::Gone { user } => sockets.tell_gone(&user).await,
                        PresenceChange::Back { user, name } => sockets.tell_here(&user, &name),
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "presence could not be tended"),
        }
    }
}

impl Sockets {
    /// A user's last socket was gone when the store was written: others are told, unless the user is
    /// back. They may come back at any moment, on another worker, which tells so; what it tells may
    /// overtake this, and would be undone by it. So the store is asked once more afterwards.
    pub(super) async fn tell_gone(self: &Arc<Self>, user: &str) {
        if let Ok(Some(_)) = self.store.connected_name(user).await {
            return;
        }
        self.tell(None, "user disconnected", user);
        if let Ok(Some(name)) = self.store.connected_name(user).await {
            self.tell_here(user, &name);
        }
    }

    fn tell_here(self: &Arc<Self>, user: &str, name: &str) {
        self.tell(None, "user connected", &Entry::arrived(user, name));
    }
}
