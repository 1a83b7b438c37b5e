//! Whether all connections are up, and the one place that logs their changes:
//! one warning per outage, one line when it is over.

use std::collections::HashSet;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

/// A connection of the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Publisher,
    Subscriber,
    ShardedPublisher,
    ShardedSubscriber,
}

pub(super) struct Health {
    state: Mutex<State>,
    up: watch::Sender<bool>,
}

struct State {
    /// Those connections that do not work.
    down: HashSet<Role>,
    /// Set while an outage has been warned of.
    down_since: Option<Instant>,
}

impl Health {
    /// Of a bus with these connections, none of which works yet.
    pub(super) fn new(roles: impl IntoIterator<Item = Role>) -> Self {
        let state = State {
            down: roles.into_iter().collect(),
            down_since: None,
        };
        Self {
            state: Mutex::new(state),
            up: watch::Sender::new(false),
        }
    }

    pub(super) fn watch_up(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    /// `role` works, its subscriptions included.
    pub(super) fn up(&self, role: Role) {
        let all = self.set(role, true, |state| {
            let all = state.down.is_empty();
            if all && let Some(since) = state.down_since.take() {
                let outage_ms = since.elapsed().as_millis() as u64;
                tracing::info!(outage_ms, "connected to Redis again");
            }
            all
        });
        self.up
            .send_if_modified(|up| std::mem::replace(up, all) != all);
    }

    /// `role` does not work, or still not.
    pub(super) fn down(&self, role: Role, cause: &dyn Display) {
        self.set(role, false, |state| {
            if state.down_since.is_none() {
                state.down_since = Some(Instant::now());
                tracing::warn!(?role, %cause, "no connection to Redis; trying again until there is");
            } else {
                tracing::debug!(?role, %cause, "no connection to Redis");
            }
        });
        self.up.send_if_modified(std::mem::take);
    }

    fn set<T>(&self, role: Role, up: bool, then: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match up {
            true => state.down.remove(&role),
            false => state.down.insert(role),
        };
        then(&mut state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn up_means_all_connections() {
        let health = Health::new([Role::Publisher, Role::Subscriber]);
        let up = health.watch_up();
        assert!(!*up.borrow());
        health.up(Role::Publisher);
        assert!(!*up.borrow());
        health.up(Role::Subscriber);
        assert!(*up.borrow());
        health.down(Role::Publisher, &"gone");
        assert!(!*up.borrow());
        health.up(Role::Publisher);
        assert!(*up.borrow());
    }
}
