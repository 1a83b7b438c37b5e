//! Every live served socket of the worker. A stream is in here from its birth
//! to its drop, whoever holds it in between.

use std::collections::HashMap;
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
}

impl StreamRegistry {
    pub(crate) fn new(board: Arc<Board>) -> Self {
        StreamRegistry {
            board,
            next_id: AtomicU64::new(1),
            live: Mutex::default(),
            emptied: Notify::new(),
        }
    }

    pub(crate) fn add(&self, origin: Origin) -> Arc<StreamState> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(StreamState::new(id, origin, self.board.clone()));
        self.lock().insert(id, state.clone());
        state
    }

    pub(crate) fn remove(&self, state: &StreamState) {
        state.ended();
        let mut live = self.lock();
        live.remove(&state.id);
        if live.is_empty() {
            self.emptied.notify_waiters();
        }
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
