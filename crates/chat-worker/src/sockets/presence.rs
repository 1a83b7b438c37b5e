//! This process's part in the cluster's presence: says that it lives, and tells of users whose
//! workers died.

use std::sync::Arc;

use tokio::time::MissedTickBehavior;

use super::{NAMESPACE, Sockets};
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
                        PresenceChange::Gone { user } => {
                            if !sockets.is_elsewhere(&user).await {
                                sockets.tell_gone(&user).await;
                            }
                        }
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

    /// Whether servers whose sockets the store does not know, such as Node's, have any of the user.
    pub(super) async fn is_elsewhere(&self, user: &str) -> bool {
        let found = self.adapter.foreign_socket_ids(NAMESPACE, &[user]).await;
        // What did answer counts.
        let found = found.or_else(|error| error.into_answers().ok_or(()));
        found.is_ok_and(|sockets| !sockets.is_empty())
    }

    fn tell_here(self: &Arc<Self>, user: &str, name: &str) {
        self.tell(None, "user connected", &Entry::arrived(user, name));
    }
}
