//! The sockets that this process has of each session, for the session's end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use redis_adapter::Adapter;
use socketioxide::socket::Socket;

use super::client::cut;

#[derive(Default)]
pub(super) struct SessionSockets(Mutex<HashMap<String, Vec<Weak<Socket<Adapter>>>>>);

impl SessionSockets {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Weak<Socket<Adapter>>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, session: &str, socket: &Arc<Socket<Adapter>>) {
        let mut sessions = self.lock();
        let sockets = sessions.entry(session.to_owned()).or_default();
        sockets.push(Arc::downgrade(socket));
    }

    pub(super) fn remove(&self, session: &str, socket: &Arc<Socket<Adapter>>) {
        let mut sessions = self.lock();
        if let Some(sockets) = sessions.get_mut(session) {
            sockets.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(socket)));
            if sockets.is_empty() {
                sessions.remove(session);
            }
        }
    }

    /// All sessions that have sockets here.
    pub(super) fn ids(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn of(&self, session: &str) -> Vec<Arc<Socket<Adapter>>> {
        let sessions = self.lock();
        let sockets = sessions.get(session).into_iter().flatten();
        sockets.filter_map(Weak::upgrade).collect()
    }

    /// The session has ended: disconnects its sockets.
    pub(super) fn end(&self, session: &str) {
        // Not under the lock: each takes itself out of the table.
        for socket in self.of(session) {
            end(socket);
        }
    }

    /// It is not known whether the session has ended: its clients reconnect and find out.
    pub(super) fn send_away(&self, session: &str) {
        for socket in self.of(session) {
            cut(&socket);
        }
    }
}

/// Disconnects a socket whose session has ended.
pub(super) fn end(socket: Arc<Socket<Adapter>>) {
    tracing::debug!(sid = %socket.id, "the session has ended");
    if socket.clone().disconnect().is_err() {
        // Its queue is full: it cannot be told.
        cut(&socket);
    }
}
