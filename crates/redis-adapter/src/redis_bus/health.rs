//! Whether both connections are up, and the one place that logs their changes:
//! one warning per outage, one line when it is over.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

/// A connection of the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Publisher,
    Subscriber,
}

#[derive(Default)]
pub(super) struct Health {
    state: Mutex<State>,
    up: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    publisher: bool,
    subscriber: bool,
    /// Set while an outage has been warned of.
    down_since: Option<Instant>,
}

impl Health {
    pub(super) fn watch_up(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    /// `role` works, its subscriptions included.
    pub(super) fn up(&self, role: Role) {
        let both = self.set(role, true, |state| {
            let both = state.publisher && state.subscriber;
            if both && let Some(since) = state.down_since.take() {
                let outage_ms = since.elapsed().as_millis() as u64;
                tracing::info!(outage_ms, "connected to Redis again");
            }
            both
        });
        self.up
            .send_if_modified(|up| std::mem::replace(up, both) != both);
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
        match role {
            Role::Publisher => state.publisher = up,
            Role::Subscriber => state.subscriber = up,
        }
        then(&mut state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn up_means_both_connections() {
        let health = Health::default();
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
