//! One client of the worker: where to reach it, and how to ask exactly that
//! client to come back.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::secret::Secret;
use crate::sent_packets;
use crate::sessions::Sessions;
use crate::stand_in::StandIns;
use crate::stream_state::StreamState;

/// Packets that were queued, from there on: it is not known.
const UNKNOWN: u64 = 1 << 63;

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
    /// Packets in those answers, and packets that the application has queued.
    packets_polled: AtomicU64,
    packets_queued: AtomicU64,
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
            packets_polled: AtomicU64::new(0),
            packets_queued: AtomicU64::new(0),
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

    pub(crate) fn count_polled(&self, body: &[u8]) {
        self.polled.fetch_add(body.len() as u64, Ordering::SeqCst);
        let packets = sent_packets::in_poll(body);
        self.packets_polled.fetch_add(packets, Ordering::SeqCst);
    }

    fn packet_queued(&self) {
        self.packets_queued.fetch_add(1, Ordering::SeqCst);
    }

    /// An answer to a poll went out that was not looked at: what waits is never known
    /// again.
    pub(crate) fn lose_count(&self) {
        self.packets_queued.store(UNKNOWN, Ordering::SeqCst);
    }

    /// Writes a frame to its WebSocket now; false when it has none, or other packets
    /// are before it.
    fn send_now(&self, frame: &[u8]) -> bool {
        let queued = self.packets_queued.load(Ordering::SeqCst);
        if queued == 0 || queued >= UNKNOWN {
            return false;
        }
        let polled = self.packets_polled.load(Ordering::SeqCst);
        let Some(queued) = queued.checked_sub(polled) else {
            return false;
        };
        // Under the lock: there may be thousands in a row, each with its own.
        let stream = self.websocket.lock().expect("never poisoned");
        stream
            .as_ref()
            .is_some_and(|stream| stream.put_between(frame, queued))
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

    /// Takes note that the application has queued a packet of so many bytes for the
    /// client, and gives how many bytes wait about now, on either transport: what it
    /// queued and the system has not taken yet. For a bound on what a slow reader may
    /// cost, and for [`send_now`](Self::send_now).
    pub fn queued(&self, bytes: usize) -> u64 {
        self.client.packet_queued();
        self.client.queued(bytes)
    }

    /// How many bytes wait about now, as [`queued`](Self::queued) says it.
    pub fn waiting(&self) -> u64 {
        self.client.queued(0)
    }

    /// Writes a [`text_frame`](crate::text_frame) with a packet of Engine.IO to the
    /// client's WebSocket at once, past the application's queue and the task that empties
    /// it: for an event without attachments that very many clients get. Where packets
    /// wait before it, on other transports and with TLS it is not written, nor is one of
    /// more than 64 KiB, and this is false: then it has to be queued.
    ///
    /// Keeps the order only if each packet that the application queues for the client
    /// is [counted](Self::queued), once it is in the queue: events, acknowledgements,
    /// and the library's own answer to who connects to a namespace (from the connect
    /// handler). An application that counts none is never told true.
    pub fn send_now(&self, frame: &[u8]) -> bool {
        self.client.send_now(frame)
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
    use crate::client_stream::accepted_websocket;
    use crate::stream_state::Origin;
    use crate::text_frame::text_frame;

    #[test]
    fn what_waits_is_what_was_queued_and_has_not_gone() {
        let client = Client::polling(Secret::random());
        assert_eq!(client.queued(100), 100);
        assert_eq!(client.queued(100), 200);
        // Framed, it was a little more; that is no credit for later.
        client.count_polled(&[b'x'; 230]);
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

    #[tokio::test]
    async fn nothing_is_sent_at_once_while_it_is_not_known_what_waits() {
        let (_stream, _client_end, state, _board) = accepted_websocket().await;
        let client = Client::fresh_websocket(state);
        let now = text_frame(b"42[]");
        // The application counts nothing.
        assert!(!client.send_now(&now));
        client.packet_queued();
        assert!(client.send_now(&now));
        client.packet_queued();
        assert!(!client.send_now(&now));
        // It went out with a poll.
        client.count_polled(b"2\x1e42[]");
        assert!(client.send_now(&now));
        client.lose_count();
        client.packet_queued();
        assert!(!client.send_now(&now));
    }
}
