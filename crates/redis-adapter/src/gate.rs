//! A socket that is held back until its caller has read the store: what is
//! broadcast meanwhile waits, and goes out in order when the gate is opened.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use socketioxide::extract::SocketRef;
use socketioxide_core::adapter::BroadcastOptions;
use socketioxide_core::packet::Packet;

use crate::adapter::Adapter;
use crate::broadcast;
use crate::bus::BusError;
use crate::gate_table::GateId;
use crate::namespace::{HELD_ROOM, Namespace, Reservation};
use crate::screen::Keep;

/// Why a socket could not be held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HoldError {
    /// The socket has a gate that is neither opened nor dropped.
    #[error("the socket is held already")]
    AlreadyHeld,
    /// The rooms' subscription was not confirmed.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// A socket on hold. See [`AdapterState::hold`](crate::AdapterState::hold).
/// Dropping it unopened discards what waits, and the socket has joined nothing.
pub struct Gate {
    /// Taken by `open`.
    reservation: Option<Reservation>,
    id: Option<GateId>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Gate")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// More was broadcast to a held socket than its gate keeps, and all of it was
/// dropped. The socket is still held: read the store again, then open the gate.
#[derive(Debug, thiserror::Error)]
#[error("more was broadcast to the held socket than its gate keeps")]
pub struct Overflow(Gate);

impl Overflow {
    /// The gate, still closed, empty, and keeping what comes from now on.
    pub fn into_gate(self) -> Gate {
        self.0
    }
}

impl Gate {
    pub(crate) fn hold(
        namespace: &Arc<Namespace>,
        socket: &SocketRef<Adapter>,
        rooms: &[impl AsRef<str>],
    ) -> BoxFuture<'static, Result<Self, HoldError>> {
        let (reservation, confirmation) = namespace.reserve(socket.id, Some(socket.clone()), rooms);
        let id = {
            let mut gates = namespace.write_gates();
            // As in `Reservation::settle`: none is held after its disconnect handler.
            if socket.connected() {
                let Some(id) = gates.insert(socket.id, reservation.rooms().to_vec()) else {
                    return Box::pin(std::future::ready(Err(HoldError::AlreadyHeld)));
                };
                namespace.local.add_all(socket.id, HELD_ROOM);
                Some(id)
            } else {
                None
            }
        };
        let gate = Self {
            reservation: Some(reservation),
            id,
        };
        Box::pin(async move {
            confirmation.await?;
            Ok(gate)
        })
    }

    /// Sends what waits to the socket, in order, as far as `keep` says so; joins
    /// the rooms; ends the hold. All at once: nothing falls between, nothing
    /// comes twice. `keep` sees the JSON text `["event", args...]` of a packet.
    ///
    /// When the socket is gone meanwhile, this does nothing.
    ///
    /// # Errors
    /// [`Overflow`] when more came than the gate keeps, or when more is to be
    /// sent than the socket's queue surely takes
    /// ([`AdapterOptions::max_flush`](crate::AdapterOptions)); nothing was sent then.
    pub fn open(self, keep: impl FnMut(&str) -> bool) -> Result<(), Overflow> {
        self.open_with(keep, None)
    }

    /// As [`open`](Self::open); and as long as the socket lives, `keep` goes on
    /// to decide what it hears through the rooms of the gate. So an event that
    /// the caller's snapshot of the store contained does not come a second time
    /// when its sender, between storing and publishing, was overtaken by the
    /// snapshot; and what may have been missed can be delivered again
    /// ([`AdapterState::deliver_event`](crate::AdapterState::deliver_event))
    /// without knowing what was not. `keep` is asked once for each event, just
    /// before it is sent.
    ///
    /// # Errors
    /// As of [`open`](Self::open); then `keep` was asked for events that were not sent.
    pub fn open_and_screen(
        self,
        keep: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Result<(), Overflow> {
        let keep: Keep = Arc::new(keep);
        let screen = keep.clone();
        self.open_with(|json| keep(json), Some(screen))
    }

    fn open_with(
        mut self,
        mut keep: impl FnMut(&str) -> bool,
        screen: Option<Keep>,
    ) -> Result<(), Overflow> {
        let (Some(id), Some(reservation)) = (self.id, &self.reservation) else {
            return Ok(());
        };
        let namespace = reservation.namespace().clone();
        let sid = reservation.sid();
        let mut kept: Vec<Packet> = Vec::new();
        loop {
            let mut gates = namespace.write_gates();
            let Some(waiting) = gates.take(sid, id) else {
                return Ok(());
            };
            if waiting.overflowed {
                drop(gates);
                return Err(Overflow(self));
            }
            if waiting.packets.is_empty() {
                gates.remove(sid);
                for packet in kept {
                    let only = BroadcastOptions::new(sid);
                    match namespace.local.broadcast(packet.clone(), only) {
                        Ok(()) => namespace.count_queued(&[sid], &packet),
                        Err(errors) => {
                            tracing::debug!(%sid, ?errors, "a held packet could not be queued");
                        }
                    }
                }
                if let Some(keep) = &screen {
                    namespace.screen(sid, reservation.rooms(), keep);
                }
                namespace.local.del(sid, HELD_ROOM);
                self.id = None;
                if let Some(reservation) = self.reservation.take() {
                    reservation.join();
                }
                return Ok(());
            }
            // The caller's code runs without the lock; what comes meanwhile is taken next.
            drop(gates);
            kept.extend(
                waiting.packets.into_iter().filter(|packet| {
                    broadcast::json_of(packet).is_some_and(|(json, _)| keep(json))
                }),
            );
            if kept.len() > namespace.shared.max_flush {
                return Err(Overflow(self));
            }
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let (Some(id), Some(reservation)) = (self.id, &self.reservation) {
            let sid = reservation.sid();
            let namespace = reservation.namespace();
            let mut gates = namespace.write_gates();
            if gates.remove_gate(sid, id) {
                namespace.local.del(sid, HELD_ROOM);
            }
        }
    }
}
