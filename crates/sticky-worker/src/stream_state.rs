//! What the rest of the worker may know and ask of one served socket while
//! something else (hyper, the application) holds the socket itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::task::Waker;
use std::time::Duration;

use common::handoff::{SocketInfo, Speaks};
use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use crate::board::Board;
use crate::client_info::ClientScheme;
use crate::stand_in::StandIns;
use crate::wire::{SharedWire, Wire};

/// What a client sends to finish an upgrade: the masked frames `2probe` (12
/// bytes) and `5` (7 bytes).
pub(crate) const UPGRADE_BYTES: u64 = 19;

const STAY: u8 = 0;
const AFTER_UPGRADE: u8 = 1;
const NOW: u8 = 2;
const CUT: u8 = 3;

/// How a served socket came here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// The client's address; peers of Unix listeners have none.
    pub(crate) peer: Option<SocketAddr>,
    /// What the client itself spoke.
    pub(crate) scheme: ClientScheme,
    /// Another worker sent it: it is not relayed again.
    pub(crate) relayed: bool,
    /// The master handed it over, and counts it.
    pub(crate) handed_over: bool,
    /// The master waits for it to be settled.
    pub(crate) balanced: bool,
    /// Whose connection it is, where the master counts them by address.
    pub(crate) counted: Option<IpAddr>,
}

impl Origin {
    /// A socket that the master handed over. What another node relays says
    /// later who its client is.
    pub(crate) fn handed_over(info: &SocketInfo) -> Self {
        Origin {
            peer: info.peer,
            scheme: match info.speaks {
                Speaks::Tls => ClientScheme::Https,
                Speaks::Http | Speaks::Relay => ClientScheme::Http,
            },
            relayed: info.speaks == Speaks::Relay,
            handed_over: true,
            balanced: info.balanced,
            counted: info.counted,
        }
    }

    /// A connection to the relay socket that said nothing about itself.
    pub(crate) fn plain_relay() -> Self {
        Origin {
            peer: None,
            scheme: ClientScheme::Http,
            relayed: false,
            handed_over: false,
            balanced: false,
            counted: None,
        }
    }
}

/// When the reader of a stream must see its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Not asked for.
    Stays,
    /// Asked for, but an upgrade is under way: at this time at the latest.
    AfterUpgrade(Instant),
    /// At once.
    Now,
}

type OnEnd = Box<dyn FnOnce() + Send>;

/// The shared side of one served socket.
pub(crate) struct StreamState {
    pub(crate) id: u64,
    pub(crate) origin: Origin,
    board: Arc<Board>,
    leave: AtomicU8,
    reader: AtomicWaker,
    writer: AtomicWaker,
    received: AtomicU64,
    sent: AtomicU64,
    /// The `received` count at which a started upgrade is done; 0: none began.
    upgrade_done_at: AtomicU64,
    upgrade_until: OnceLock<Instant>,
    websocket: AtomicBool,
    /// Its socket, until it is closed.
    wire: OnceLock<Weak<Mutex<Wire>>>,
    /// Of the client that it is the WebSocket of.
    stand_ins: OnceLock<Arc<StandIns>>,
    /// Request heads that were read.
    requests: AtomicU32,
    unsettled: AtomicBool,
    /// A TLS connection without a request, or another node that has not proved
    /// that it is one.
    undecided: AtomicBool,
    on_end: Mutex<Option<OnEnd>>,
}

impl StreamState {
    pub(crate) fn new(id: u64, origin: Origin, board: Arc<Board>) -> Self {
        board.connection_came();
        // Whoever shakes hands slowly, or says nothing afterwards, must not keep
        // the master from sending others.
        let undecided =
            origin.handed_over && (origin.relayed || origin.scheme == ClientScheme::Https);
        if undecided {
            board.undecided();
            if origin.balanced {
                board.settled();
            }
        }
        StreamState {
            id,
            origin,
            leave: AtomicU8::new(STAY),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            upgrade_done_at: AtomicU64::new(0),
            upgrade_until: OnceLock::new(),
            websocket: AtomicBool::new(false),
            wire: OnceLock::new(),
            stand_ins: OnceLock::new(),
            requests: AtomicU32::new(0),
            unsettled: AtomicBool::new(origin.balanced && !undecided),
            undecided: AtomicBool::new(undecided),
            on_end: Mutex::new(None),
            board,
        }
    }

    /// Tells the master once that it need not wait for this socket any more.
    pub(crate) fn settle(&self) {
        if self.unsettled.load(SeqCst) && self.unsettled.swap(false, SeqCst) {
            self.board.settled();
        }
        if self.undecided.load(SeqCst) && self.undecided.swap(false, SeqCst) {
            self.board.decided();
        }
    }

    /// A request head was read; which one of this stream, from 1.
    pub(crate) fn request_seen(&self) -> u32 {
        self.requests.fetch_add(1, SeqCst).saturating_add(1)
    }

    pub(crate) fn saw_request(&self) -> bool {
        self.requests.load(SeqCst) > 0
    }

    /// The stream carries a WebSocket from here on.
    pub(crate) fn is_websocket(&self) -> bool {
        self.websocket.load(SeqCst)
    }

    /// What it is written to.
    pub(crate) fn writes_to(&self, wire: &SharedWire) {
        let _ = self.wire.set(Arc::downgrade(wire));
    }

    /// What is written is looked through for what stands for something.
    pub(crate) fn writes_in_place(&self, stand_ins: &Arc<StandIns>) {
        let _ = self.stand_ins.set(stand_ins.clone());
    }

    /// Whether it is the WebSocket of a client of this worker, which it is before it
    /// counts as a WebSocket: others are relayed, or one too many.
    pub(crate) fn is_a_clients(&self) -> bool {
        self.stand_ins.get().is_some()
    }

    pub(crate) fn stand_ins(&self) -> Option<&StandIns> {
        self.stand_ins.get().map(AsRef::as_ref)
    }

    /// The application accepted a WebSocket on this stream; `on_end` runs when
    /// the stream is dropped.
    pub(crate) fn became_websocket(&self, on_end: impl FnOnce() + Send + 'static) {
        *self.on_end.lock().expect("never poisoned") = Some(Box::new(on_end));
        // Behind an earlier answer, which may not have been written yet, it would not
        // be known where the frames begin.
        if self.is_a_clients()
            && self.requests.load(SeqCst) == 1
            && let Some(wire) = self.wire.get().and_then(Weak::upgrade)
        {
            wire.lock().expect("never poisoned").becomes_websocket();
        }
        self.websocket.store(true, SeqCst);
    }

    /// Writes a whole frame past the application's writer, if that has written all
    /// `queued` packets of its own and nothing else is under way; whether it did.
    pub(crate) fn put_between(&self, frame: &[u8], queued: u64) -> bool {
        if self.leave.load(SeqCst) != STAY || !self.is_websocket() {
            return false;
        }
        let Some(wire) = self.wire.get().and_then(Weak::upgrade) else {
            return false;
        };
        let mut wire = wire.lock().expect("never poisoned");
        let Some(bytes) = wire.put_between(frame, queued) else {
            return false;
        };
        self.count_sent(bytes);
        if wire.has_rest() {
            drop(wire);
            // Nobody may have anything to write; there is always a reader.
            self.reader.wake();
        }
        true
    }

    /// A request to move a polling session to this stream was read: a client
    /// whose stream ends between `3probe` and `5` would hang until its ping
    /// timeout, so it is let finish for up to `timeout`.
    pub(crate) fn upgrade_began(&self, timeout: Duration) {
        if self.upgrade_until.set(Instant::now() + timeout).is_ok() {
            let done_at = self.received.load(SeqCst) + UPGRADE_BYTES;
            self.upgrade_done_at.store(done_at, SeqCst);
        }
    }

    /// Whether as many bytes came since as an upgrade takes.
    pub(crate) fn upgrade_done(&self) -> bool {
        self.received.load(SeqCst) >= self.upgrade_done_at.load(SeqCst)
    }

    /// Lets the reader see the end of the stream, once a started upgrade is
    /// done: the client library sees a transport close and connects anew.
    pub(crate) fn ask_to_return(&self) {
        let wish = if self.upgrade_done() {
            NOW
        } else {
            AFTER_UPGRADE
        };
        self.leave.fetch_max(wish, SeqCst);
        self.reader.wake();
    }

    /// Ends the stream for its reader whatever is under way.
    pub(crate) fn cut(&self) {
        self.leave.fetch_max(NOW, SeqCst);
        self.reader.wake();
    }

    /// The client does not read: its writes fail, too. Counted once.
    pub(crate) fn stalled(&self) {
        if self.leave.swap(CUT, SeqCst) != CUT {
            tracing::debug!(stream = self.id, peer = ?self.origin.peer, "client does not read: cut");
            self.board.stalled();
        }
        self.reader.wake();
        self.writer.wake();
    }

    /// Whether nothing is to be written any more.
    pub(crate) fn is_cut(&self) -> bool {
        self.leave.load(SeqCst) == CUT
    }

    pub(crate) fn ending(&self) -> Ending {
        match self.leave.load(SeqCst) {
            STAY => Ending::Stays,
            AFTER_UPGRADE if !self.upgrade_done() => match self.upgrade_until.get() {
                Some(until) => Ending::AfterUpgrade(*until),
                None => Ending::Now,
            },
            _ => Ending::Now,
        }
    }

    pub(crate) fn count_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, SeqCst);
    }

    pub(crate) fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, SeqCst);
    }

    /// Bytes that the system took for the client so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(SeqCst)
    }

    /// What kept the writer from writing is gone.
    pub(crate) fn wake_writer(&self) {
        self.writer.wake();
    }

    pub(crate) fn wake_on_cut(&self, waker: &Waker) {
        self.writer.register(waker);
    }

    pub(crate) fn wake_on_ending(&self, waker: &Waker) {
        self.reader.register(waker);
    }

    /// The socket is closed.
    pub(crate) fn ended(&self) {
        let on_end = self.on_end.lock().expect("never poisoned").take();
        if let Some(on_end) = on_end {
            on_end();
        }
        self.settle();
        self.board.connection_left();
        if self.origin.handed_over {
            self.board.ended(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(balanced: bool) -> (StreamState, Arc<Board>) {
        let board = Arc::new(Board::create().unwrap().0);
        let state = StreamState::new(
            1,
            Origin {
                balanced,
                ..Origin::plain_relay()
            },
            board.clone(),
        );
        (state, board)
    }

    #[test]
    fn a_balanced_socket_is_settled_once_and_others_never() {
        for balanced in [true, false] {
            let (state, board) = state(balanced);
            state.settle();
            state.settle();
            state.ended();
            assert_eq!(board.counters().settled.load(SeqCst), balanced.into());
            assert_eq!(board.counters().connections.load(SeqCst), 0);
        }
    }

    #[test]
    fn a_tls_connection_is_settled_at_once_and_load_until_its_request() {
        let board = Arc::new(Board::create().unwrap().0);
        let origin = Origin {
            scheme: ClientScheme::Https,
            handed_over: true,
            balanced: true,
            ..Origin::plain_relay()
        };
        let states = [1, 2].map(|id| StreamState::new(id, origin, board.clone()));
        let now = || {
            let counters = board.counters();
            (
                counters.settled.load(SeqCst),
                counters.undecided.load(SeqCst),
            )
        };
        assert_eq!(now(), (2, 2));
        states[0].settle();
        states[0].ended();
        assert_eq!(now(), (2, 1));
        states[1].ended();
        assert_eq!(now(), (2, 0));
    }

    #[tokio::test]
    async fn an_upgrade_is_let_finish_before_the_end() {
        let (state, _board) = state(false);
        state.count_received(500);
        state.upgrade_began(Duration::from_secs(10));
        state.ask_to_return();
        assert!(matches!(state.ending(), Ending::AfterUpgrade(_)));
        state.count_received(12);
        assert!(matches!(state.ending(), Ending::AfterUpgrade(_)));
        state.count_received(7);
        assert_eq!(state.ending(), Ending::Now);
    }

    #[test]
    fn without_an_upgrade_the_end_comes_at_once() {
        let (state, _board) = state(false);
        assert_eq!(state.ending(), Ending::Stays);
        state.ask_to_return();
        assert_eq!(state.ending(), Ending::Now);
    }
}
