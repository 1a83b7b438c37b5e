//! One client of the worker: where to reach it, and how to ask exactly that
//! client to come back.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::secret::Secret;
use crate::sessions::Sessions;
use crate::stand_in::StandIns;
use crate::stream_state::StreamState;

/// A client: a WebSocket, a polling session, or one that became the other.
pub(crate) struct Client {
    /// What its requests name it by. `None`: a fresh WebSocket, whose only
    /// request was its first.
    pub(crate) secret: Option<Secret>,
    came: Instant,
    engine_sid: OnceLock<Box<str>>,
    websocket: Mutex<Option<Arc<StreamState>>>,
    asked: AtomicBool,
    /// The wish was passed on.
    sent_away: AtomicBool,
    /// It was asked because it should be another worker's.
    expected_elsewhere: AtomicBool,
    /// What the application works on for it.
    busy: AtomicU32,
    /// Bytes of the answers to its polls.
    polled: AtomicU64,
    /// Bytes that the application has queued, in the same count.
    queued: AtomicU64,
    pub(crate) stand_ins: Arc<StandIns>,
}

impl Client {
    pub(crate) fn polling(secret: Secret) -> Self {
        Client::new(Some(secret), None)
    }

    pub(crate) fn fresh_websocket(stream: Arc<StreamState>) -> Self {
        let client = Client::new(None, Some(stream.clone()));
        stream.writes_in_place(&client.stand_ins);
        client
    }

    fn new(secret: Option<Secret>, websocket: Option<Arc<StreamState>>) -> Self {
        Client {
            secret,
            came: Instant::now(),
            engine_sid: OnceLock::new(),
            websocket: Mutex::new(websocket),
            asked: AtomicBool::new(false),
            sent_away: AtomicBool::new(false),
            expected_elsewhere: AtomicBool::new(false),
            busy: AtomicU32::new(0),
            polled: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            stand_ins: Arc::default(),
        }
    }

    /// When it will have been here for so long.
    pub(crate) fn settles_at(&self, age: Duration) -> Instant {
        self.came + age
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
            stream.writes_in_place(&self.stand_ins);
        }
        free
    }

    pub(crate) fn take_websocket(&self) -> Option<Arc<StreamState>> {
        self.websocket.lock().expect("never poisoned").take()
    }

    pub(crate) fn count_polled(&self, bytes: usize) {
        self.polled.fetch_add(bytes as u64, Ordering::SeqCst);
    }

    /// More was queued: what waits now. What went out includes frames and pings,
    /// so the count begins anew whenever nothing waits.
    fn queued(&self, bytes: usize) -> u64 {
        let websocket = self.websocket.lock().expect("never poisoned");
        let sent = websocket.as_ref().map_or(0, |stream| stream.sent());
        let gone = sent + self.polled.load(Ordering::SeqCst);
        let queued = self.queued.load(Ordering::SeqCst).max(gone) + bytes as u64;
        self.queued.store(queued, Ordering::SeqCst);
        queued - gone
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Takes note that it is sent away now; whether that is new.
    pub(crate) fn send_away(&self) -> bool {
        !self.sent_away.swap(true, Ordering::SeqCst)
    }

    pub(crate) fn expect_elsewhere(&self) {
        self.expected_elsewhere.store(true, Ordering::SeqCst);
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

    /// Takes note that the application has queued so many bytes for the client,
    /// and gives how many wait about now, on either transport: what it queued and
    /// the system has not taken yet. For a bound on what a slow reader may cost.
    pub fn queued(&self, bytes: usize) -> u64 {
        self.client.queued(bytes)
    }

    /// For a large packet: a text that the application sends in the place of
    /// `json`, as the last argument of an event or an acknowledgement. The client
    /// gets `json` there, on either transport, in the order of what was sent; it
    /// goes from here to the socket, and is not copied into the application's
    /// buffers, which keep their size. Held until the packet leaves, or the client.
    ///
    /// The packet that has the text may have at most 125 bytes.
    pub fn stand_in(&self, json: Bytes) -> String {
        self.client.stand_ins.add(json).as_str().to_owned()
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

    /// While the returned value lives, the application works on something whose
    /// answer the client waits for: a client that is asked to return is let have it
    /// first, for up to 2 s. To be dropped after the answer was given to the
    /// transport.
    pub fn busy(&self) -> Busy {
        self.client.busy.fetch_add(1, Ordering::SeqCst);
        Busy(self.clone())
    }

    /// Whether the client was asked to return because the worker leaves, or has
    /// more clients than others: its end is no farewell.
    pub fn is_expected_elsewhere(&self) -> bool {
        self.client.expected_elsewhere.load(Ordering::SeqCst)
    }

    /// The same for a client that does not read: what waits for it is dropped,
    /// and its WebSocket is reset, also in the middle of a write.
    pub fn cut(&self) {
        if let Some(stream) = self.client.websocket() {
            stream.stalled();
        }
        self.ask_to_return();
    }
}

/// See [`ClientHandle::busy`].
#[derive(Debug)]
pub struct Busy(ClientHandle);

impl Drop for Busy {
    fn drop(&mut self) {
        let ClientHandle { client, sessions } = &self.0;
        // What was answered just now goes out first: its writer was woken before.
        let was_last = client.busy.fetch_sub(1, Ordering::SeqCst) == 1;
        if was_last
            && client.was_asked()
            && let Some(sessions) = sessions.upgrade()
        {
            sessions.send_away(client);
        }
    }
}

impl fmt::Debug for ClientHandle {
    /// Shows no id: a session id is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientHandle").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Board;
    use crate::stream_state::Origin;

    #[test]
    fn what_waits_is_what_was_queued_and_has_not_gone() {
        let client = Client::polling(Secret::random());
        assert_eq!(client.queued(100), 100);
        assert_eq!(client.queued(100), 200);
        // Framed, it was a little more; that is no credit for later.
        client.count_polled(230);
        assert_eq!(client.queued(100), 100);
        // It has moved to a WebSocket, which had a head of its own.
        let board = Arc::new(Board::create().unwrap().0);
        let stream = Arc::new(StreamState::new(1, Origin::plain_relay(), board));
        stream.count_sent(150);
        assert!(client.set_websocket(&stream));
        assert_eq!(client.queued(50), 50);
        stream.count_sent(20);
        assert_eq!(client.queued(10), 40);
    }
}
