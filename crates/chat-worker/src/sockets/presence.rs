//! This process's part in the cluster's presence: says that it lives, tells of users whose
//! workers died, and keeps up with who there is.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::MissedTickBehavior;

use super::{NAMESPACE, Sockets};
use crate::store::PresenceChange;

/// Users of a dead worker who are told of at the same time.
const AT_ONCE: usize = 16;

/// Until a step of looking around is made again that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Tends the store for as long as the process lives.
pub(crate) async fn keep_presence(sockets: Arc<Sockets>) {
    let mut ticks = tokio::time::interval(sockets.store.tend_interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match sockets.store.tend().await {
            Ok(changes) => {
                let unannounced = std::mem::take(&mut *sockets.lock_unannounced());
                for (user, name) in &unannounced {
                    sockets.tell_as_is(user, name).await;
                }
                let tells = stream::iter(changes);
                tells
                    .for_each_concurrent(AT_ONCE, |change| sockets.tell_change(change))
                    .await;
            }
            Err(error) => tracing::debug!(%error, "presence could not be tended"),
        }
    }
}

/// Reads who there is, at the start and from time to time: changes may be missed, and users go without
/// a word when their sessions expire.
pub(crate) async fn keep_roll(sockets: Arc<Sockets>) {
    let mut ticks = tokio::time::interval(sockets.store.tend_interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = sockets.read_roll().await {
            tracing::debug!(%error, "users could not be read");
        }
    }
}

/// Has the store find users of other programs, and forget those who have expired.
pub(crate) async fn look_around(sockets: Arc<Sockets>) {
    loop {
        let pause = sockets.store.look_around().await.unwrap_or_else(|error| {
            tracing::debug!(%error, "users of other programs could not be looked for");
            RETRY
        });
        tokio::time::sleep(pause).await;
    }
}

impl Sockets {
    async fn tell_change(self: &Arc<Self>, change: PresenceChange) {
        match change {
            PresenceChange::Gone { user, name } => {
                if !self.is_elsewhere(&user).await {
                    self.tell_gone(&user, &name).await;
                }
            }
            PresenceChange::Back { user, name } => self.tell_as_is(&user, &name).await,
        }
    }

    /// A user's last socket was gone when the store was written: others are told, unless the user is
    /// back. They may come back at any moment, on another worker, which tells so; what it tells may
    /// overtake this, and would be undone by it. So the store is asked once more afterwards.
    pub(super) async fn tell_gone(self: &Arc<Self>, user: &str, name: &str) {
        self.tell_as_is(user, name).await;
        if let Ok(Some(name)) = self.store.connected_name(user).await {
            self.tell_as_is(user, &name).await;
        }
    }

    /// Tells whether the user is connected.
    async fn tell_as_is(self: &Arc<Self>, user: &str, name: &str) {
        match self.store.announce(user, name, true).await {
            Ok(change) => self.made_change(&change),
            Err(error) => {
                tracing::debug!(user, %error, "nobody is told yet that a user came or went");
                self.lock_unannounced()
                    .insert(user.to_owned(), name.to_owned());
            }
        }
    }

    fn lock_unannounced(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.unannounced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether servers whose sockets the store does not know, such as Node's, have any of the user.
    pub(super) async fn is_elsewhere(&self, user: &str) -> bool {
        let found = self.adapter.foreign_socket_ids(NAMESPACE, &[user]).await;
        // What did answer counts.
        let found = found.or_else(|error| error.into_answers().ok_or(()));
        found.is_ok_and(|sockets| !sockets.is_empty())
    }
}
