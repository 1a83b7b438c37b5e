//! What an application that knows its clients' transports may do for the adapter.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use socketioxide_core::Sid;
use socketioxide_core::packet::Packet;

use crate::broadcast;

/// The way of one socket's packets to its client. See
/// [`AdapterState::outlet`](crate::AdapterState::outlet). Called from within deliveries:
/// nothing here may wait, or call the adapter.
pub trait Outlet: Send + Sync + 'static {
    /// A broadcast has put an event of about so many bytes into the socket's queue. False
    /// when too much waits there: it counts as full.
    fn queued(&self, bytes: usize) -> bool;

    /// Sends an event to the client at once, past the socket's queue. False when that cannot
    /// be, as long as anything waits in the queue at least: then the event is queued. Not asked
    /// while the process is behind with what it hears from others.
    fn send_now(&self, event: &WholeEvent<'_>) -> bool {
        let _ = event;
        false
    }

    /// A broadcast, of this process or another, does not reach the socket because its queue
    /// is full: it has missed that one for good. Volatile broadcasts do not count. Called
    /// after the delivery, so it may call the adapter.
    fn overflowed(&self) {}
}

/// An event without attachments, on its way to any number of sockets.
pub struct WholeEvent<'a> {
    packet: &'a Packet,
    framed: OnceCell<Vec<u8>>,
}

impl<'a> WholeEvent<'a> {
    /// `None`: the packet is no such event.
    pub(crate) fn of(packet: &'a Packet) -> Option<Self> {
        broadcast::is_whole_event(packet).then(|| Self {
            packet,
            framed: OnceCell::new(),
        })
    }

    /// What `frame` makes of the event's Engine.IO packet: made for the first socket that
    /// asks, and the same for all others.
    pub fn framed(&self, frame: impl FnOnce(&[u8]) -> Vec<u8>) -> &[u8] {
        self.framed
            .get_or_init(|| frame(broadcast::engine_packet(self.packet).as_bytes()))
    }
}

/// The outlets of one namespace.
#[derive(Default)]
pub(crate) struct Outlets {
    by_socket: Mutex<HashMap<Sid, Arc<dyn Outlet>>>,
}

impl Outlets {
    fn lock(&self) -> MutexGuard<'_, HashMap<Sid, Arc<dyn Outlet>>> {
        self.by_socket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// `is_there` is asked under the lock: a socket is no longer connected before it is
    /// removed.
    pub(crate) fn insert(&self, sid: Sid, outlet: Arc<dyn Outlet>, is_there: impl Fn() -> bool) {
        let mut outlets = self.lock();
        if is_there() {
            outlets.insert(sid, outlet);
        }
    }

    /// To be called without a lock.
    pub(crate) fn get(&self, sid: &Sid) -> Option<Arc<dyn Outlet>> {
        self.lock().get(sid).cloned()
    }

    pub(crate) fn remove(&self, sid: &Sid) {
        // Dropped after the lock: it is another's.
        let outlet = self.lock().remove(sid);
        drop(outlet);
    }
}
