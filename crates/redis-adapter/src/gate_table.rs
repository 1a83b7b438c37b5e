//! The packets that wait for held sockets. Decides who is meant by a broadcast
//! and keeps it within bounds; never sends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use socketioxide_core::Sid;
use socketioxide_core::adapter::{BroadcastFlags, BroadcastOptions, Room};
use socketioxide_core::packet::Packet;

use crate::broadcast;
use crate::namespace::single_target;

/// Packets that one gate keeps. Far more than a log-in's few milliseconds bring.
pub(crate) const MAX_PACKETS: usize = 1024;
/// Bytes that one gate keeps: with thousands of clients logging in at once this
/// is what a process may spend on each.
pub(crate) const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The gates of one namespace, by socket.
#[derive(Default)]
pub(crate) struct GateTable {
    gates: HashMap<Sid, Entry>,
    next_id: u64,
}

/// Tells a gate from a later one of the same socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GateId(u64);

struct Entry {
    id: GateId,
    /// Rooms that the socket will be in.
    rooms: Vec<Arc<str>>,
    buffer: Mutex<Buffer>,
}

/// What waits at one gate, in order.
#[derive(Default)]
pub(crate) struct Buffer {
    pub(crate) packets: Vec<Packet>,
    bytes: usize,
    /// More came than is kept; what was kept is of no use then and dropped.
    pub(crate) overflowed: bool,
}

impl GateTable {
    pub(crate) fn is_empty(&self) -> bool {
        self.gates.is_empty()
    }

    pub(crate) fn holds(&self, sid: Sid) -> bool {
        self.gates.contains_key(&sid)
    }

    /// Begins to hold `sid`, unless it is held already.
    pub(crate) fn insert(&mut self, sid: Sid, rooms: Vec<Arc<str>>) -> Option<GateId> {
        if self.holds(sid) {
            return None;
        }
        self.next_id += 1;
        let id = GateId(self.next_id);
        let entry = Entry {
            id,
            rooms,
            buffer: Mutex::default(),
        };
        self.gates.insert(sid, entry);
        Some(id)
    }

    /// Takes what waits at that gate and leaves it empty; `None` when the gate is gone.
    pub(crate) fn take(&mut self, sid: Sid, id: GateId) -> Option<Buffer> {
        let entry = self.gates.get_mut(&sid).filter(|entry| entry.id == id)?;
        let buffer = entry.buffer.get_mut();
        Some(std::mem::take(
            buffer.unwrap_or_else(PoisonError::into_inner),
        ))
    }

    /// Whether that gate was still there.
    pub(crate) fn remove_gate(&mut self, sid: Sid, id: GateId) -> bool {
        let present = self.gates.get(&sid).is_some_and(|entry| entry.id == id);
        if present {
            self.remove(sid);
        }
        present
    }

    /// Ends whatever gate the socket has.
    pub(crate) fn remove(&mut self, sid: Sid) {
        self.gates.remove(&sid);
        if self.gates.is_empty() {
            // A burst of log-ins is over; they are rare between bursts.
            self.gates.shrink_to_fit();
        }
    }

    /// Keeps `packet` for each held socket that `opts` mean. `has_joined` says
    /// whether a socket is in a room already.
    pub(crate) fn buffer(
        &self,
        packet: &Packet,
        opts: &BroadcastOptions,
        has_joined: impl Fn(Sid, &str) -> bool,
    ) {
        for (sid, entry) in &self.gates {
            let is_in = |room: &Room| {
                entry.rooms.iter().any(|held| **held == **room) || has_joined(*sid, room)
            };
            if is_meant(*sid, opts, is_in) {
                let mut buffer = entry.buffer.lock().unwrap_or_else(PoisonError::into_inner);
                buffer.push(packet);
            }
        }
    }
}

/// Whether `opts` mean the socket `sid`, by the rules of socketioxide's local adapter.
fn is_meant(sid: Sid, opts: &BroadcastOptions, is_in: impl Fn(&Room) -> bool) -> bool {
    if let Some(target) = single_target(opts) {
        return target == sid;
    }
    let to_others = opts.has_flag(BroadcastFlags::Broadcast);
    let is_sender = to_others && opts.sid == Some(sid);
    let included = match opts.rooms.is_empty() {
        true => to_others,
        false => opts.rooms.iter().any(&is_in),
    };
    included && !is_sender && !opts.except.iter().any(&is_in)
}

impl Buffer {
    fn push(&mut self, packet: &Packet) {
        if self.overflowed {
            return;
        }
        let size = broadcast::json_of(packet).map_or(0, |(json, attachments)| {
            json.len()
                + attachments
                    .into_iter()
                    .flatten()
                    .map(Bytes::len)
                    .sum::<usize>()
        });
        if self.packets.len() == MAX_PACKETS || self.bytes + size > MAX_BYTES {
            *self = Self {
                overflowed: true,
                ..Self::default()
            };
            return;
        }
        self.bytes += size;
        self.packets.push(packet.clone());
    }
}
