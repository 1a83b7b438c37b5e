//! Every live served socket of the worker. A stream is in here from its birth
//! to its drop, whoever holds it in between.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::board::Board;
use crate::stream_state::{Origin, StreamState};
use crate::until::until;

pub(crate) struct StreamRegistry {
    board: Arc<Board>,
    next_id: AtomicU64,
    live: Mutex<HashMap<u64, Arc<StreamState>>>,
    /// Notified when the last stream is gone.
    emptied: Notify,
    /// Addresses whose connections closed, to be told to the master that counts
    /// them.
    closed: Mutex<Vec<IpAddr>>,
    closed_changed: Notify,
}

/// A stream's place in the registry; it ends with this value.
pub(crate) struct Registered {
    state: Arc<StreamState>,
    registry: Arc<StreamRegistry>,
}

impl Registered {
    pub(crate) fn state(&self) -> &Arc<StreamState> {
        &self.state
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.remove(&self.state);
    }
}

impl StreamRegistry {
    pub(crate) fn new(board: Arc<Board>) -> Self {
        StreamRegistry {
            board,
            next_id: AtomicU64::new(1),
            live: Mutex::default(),
            emptied: Notify::new(),
            closed: Mutex::default(),
            closed_changed: Notify::new(),
        }
    }

    /// A new stream.
    pub(crate) fn enter(self: &Arc<Self>, origin: Origin) -> Registered {
        Registered {
            state: self.add(origin),
            registry: self.clone(),
        }
    }

    fn add(&self, origin: Origin) -> Arc<StreamState> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(StreamState::new(id, origin, self.board.clone()));
        self.lock().insert(id, state.clone());
        state
    }

    fn remove(&self, state: &StreamState) {
        state.ended();
        if let Some(address) = state.origin.counted {
            self.lock_closed().push(address);
            self.closed_changed.notify_one();
        }
        let mut live = self.lock();
        live.remove(&state.id);
        if live.is_empty() {
            self.emptied.notify_waiters();
        }
    }

    /// For a new master that counts connections by address: those there are. What
    /// closed before is none of its business.
    pub(crate) fn begin_counting(&self) -> Vec<IpAddr> {
        self.lock_closed().clear();
        let live = self.lock();
        live.values()
            .filter_map(|state| state.origin.counted)
            .collect()
    }

    /// Takes some of those that closed since, at most `most`.
    pub(crate) fn take_closed(&self, most: usize) -> Vec<IpAddr> {
        let mut closed = self.lock_closed();
        let keep = closed.len().saturating_sub(most);
        closed.split_off(keep)
    }

    /// Resolves when there are new ones.
    pub(crate) async fn closed(&self) {
        self.closed_changed.notified().await;
    }

    fn lock_closed(&self) -> std::sync::MutexGuard<'_, Vec<IpAddr>> {
        self.closed.lock().expect("never poisoned")
    }

    /// Those that carry a WebSocket now.
    pub(crate) fn websockets(&self) -> Vec<Arc<StreamState>> {
        let live = self.lock();
        let websockets = live.values().filter(|state| state.is_websocket());
        websockets.cloned().collect()
    }

    /// Ends every stream for its reader, at once.
    pub(crate) fn cut_all(&self) {
        let live: Vec<_> = self.lock().values().cloned().collect();
        live.iter().for_each(|state| state.cut());
    }

    /// Resolves when no stream lives.
    pub(crate) async fn empty(&self) {
        until(&self.emptied, || self.lock().is_empty()).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<StreamState>>> {
        self.live.lock().expect("never poisoned")
    }
}
