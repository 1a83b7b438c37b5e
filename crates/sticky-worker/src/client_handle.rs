//! One client of the worker: where to reach it, and how to ask exactly that
//! client to come back.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use crate::secret::Secret;
use crate::sessions::Sessions;
use crate::stream_state::StreamState;

/// A client: a WebSocket, a polling session, or one that became the other.
pub(crate) struct Client {
    /// What its requests name it by. `None`: a fresh WebSocket, whose only
    /// request was its first.
    pub(crate) secret: Option<Secret>,
    engine_sid: OnceLock<Box<str>>,
    websocket: Mutex<Option<Arc<StreamState>>>,
    asked: AtomicBool,
}

impl Client {
    pub(crate) fn polling(secret: Secret) -> Self {
        Client {
            secret: Some(secret),
            engine_sid: OnceLock::new(),
            websocket: Mutex::new(None),
            asked: AtomicBool::new(false),
        }
    }

    pub(crate) fn fresh_websocket(stream: Arc<StreamState>) -> Self {
        Client {
            secret: None,
            engine_sid: OnceLock::new(),
            websocket: Mutex::new(Some(stream)),
            asked: AtomicBool::new(false),
        }
    }

    /// The application's own id of the session; `None` before its handshake is
    /// answered, and for fresh WebSockets.
    pub(crate) fn engine_sid(&self) -> Option<&str> {
        self.engine_sid.get().map(AsRef::as_ref)
    }

    pub(crate) fn set_engine_sid(&self, sid: &str) {
        let _ = self.engine_sid.set(sid.into());
    }

    pub(crate) fn websocket(&self) -> Option<Arc<StreamState>> {
        self.websocket.lock().expect("never poisoned").clone()
    }

    /// The first stream to come is the client's; `false` for any further one.
    pub(crate) fn set_websocket(&self, stream: &Arc<StreamState>) -> bool {
        let mut slot = self.websocket.lock().expect("never poisoned");
        let free = slot.is_none();
        if free {
            *slot = Some(stream.clone());
        }
        free
    }

    pub(crate) fn take_websocket(&self) -> Option<Arc<StreamState>> {
        self.websocket.lock().expect("never poisoned").take()
    }

    pub(crate) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Remembers the wish; whether it is new.
    pub(crate) fn ask(&self) -> bool {
        !self.asked.swap(true, Ordering::SeqCst)
    }
}

/// Reaches one client. It is in the extensions of every request that opens a
/// session; an application that keeps the head of that request (socketioxide:
/// `socket.req_parts().extensions`) can use it for as long as it likes: it does
/// not keep the client alive.
#[derive(Clone)]
pub struct ClientHandle {
    client: Arc<Client>,
    sessions: Weak<Sessions>,
}

impl ClientHandle {
    pub(crate) fn new(client: Arc<Client>, sessions: &Arc<Sessions>) -> Self {
        ClientHandle {
            client,
            sessions: Arc::downgrade(sessions),
        }
    }

    /// Asks the client to come back as a new one, here or at another worker:
    /// its library sees a lost transport, not a disconnect, and reconnects.
    ///
    /// A WebSocket sees the end of its stream, a polling session is closed from
    /// within (by the Engine.IO close packet), and a client that is changing
    /// from one to the other is let finish first, for the configured upgrade
    /// timeout at most. Returns at once; asking again does nothing.
    pub fn ask_to_return(&self) {
        if let Some(sessions) = self.sessions.upgrade() {
            sessions.ask_to_return(&self.client);
        }
    }
}

impl fmt::Debug for ClientHandle {
    /// Shows no id: a session id is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientHandle").finish_non_exhaustive()
    }
}
