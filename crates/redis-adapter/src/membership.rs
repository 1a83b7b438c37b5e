//! Which local sockets of one namespace are in which rooms, and hence which
//! room channels the namespace needs. Pure: never touches sockets or the bus.

use std::collections::HashMap;
use std::sync::Arc;

use socketioxide_core::Sid;

/// Rooms by socket and sockets counted by room. A room has a member from the
/// moment somebody reserves a place for a socket, so that its channel is
/// subscribed before the socket joins.
#[derive(Default)]
pub(crate) struct Membership {
    sockets: HashMap<Sid, SocketRooms>,
    /// How many members each room has. Its channel is (being) subscribed.
    rooms: HashMap<Arc<str>, usize>,
    /// Counts what happens, so that of two things it is known which came first.
    clock: u64,
}

/// The rooms of one socket.
struct SocketRooms {
    /// Its stay in the namespace, named by its beginning: a client may leave and come back with the
    /// same id, and what was begun for its last stay must not touch this one.
    visit: u64,
    rooms: HashMap<Arc<str>, Place>,
}

/// A place that was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reserved {
    visit: u64,
    at: u64,
}

/// What came of a reservation.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// The rooms that the socket is in by it.
    pub(crate) joined: Vec<Arc<str>>,
    /// The rooms whose channels nobody needs any more.
    pub(crate) emptied: Vec<Arc<str>>,
}

#[derive(Default)]
struct Place {
    joined: bool,
    /// Joins under way.
    reservations: u32,
    /// When it was last left: joins that began before are undone.
    left: u64,
}

impl Membership {
    /// Whether any local socket is in `room` or about to be.
    pub(crate) fn has_room(&self, room: &str) -> bool {
        self.rooms.contains_key(room)
    }

    /// Whether `sid` is in `room`; a reservation does not count.
    pub(crate) fn has_joined(&self, sid: Sid, room: &str) -> bool {
        let place = self
            .sockets
            .get(&sid)
            .and_then(|socket| socket.rooms.get(room));
        place.is_some_and(|place| place.joined)
    }

    /// Whether `sid` is known, in a room or not.
    pub(crate) fn is_visiting(&self, sid: Sid) -> bool {
        self.sockets.contains_key(&sid)
    }

    /// Puts `sid` into `room` at once, whose channel the caller now subscribes.
    pub(crate) fn join(&mut self, sid: Sid, room: &Arc<str>) {
        self.place(sid, room).joined = true;
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Holds a place for `sid` in each of `rooms`, whose channels the caller
    /// now subscribes. To be ended by [`settle`](Self::settle).
    pub(crate) fn reserve(&mut self, sid: Sid, rooms: &[Arc<str>]) -> Reserved {
        let visit = self.socket(sid).visit;
        for room in rooms {
            self.place(sid, room).reservations += 1;
        }
        let at = self.tick();
        Reserved { visit, at }
    }

    /// Ends a reservation, with the socket in the rooms or not; not in those that it was told to
    /// leave meanwhile. Nothing is done when the socket's visit has ended.
    pub(crate) fn settle(
        &mut self,
        sid: Sid,
        reserved: Reserved,
        rooms: &[Arc<str>],
        join: bool,
    ) -> Settled {
        let visit = self.sockets.get(&sid).map(|socket| socket.visit);
        if visit != Some(reserved.visit) {
            return Settled::default();
        }
        let mut joined = Vec::new();
        for room in rooms {
            let place = self.place(sid, room);
            place.reservations = place.reservations.saturating_sub(1);
            if join && place.left < reserved.at {
                place.joined = true;
                joined.push(room.clone());
            }
        }
        let emptied = self.vacate(sid, rooms);
        Settled { joined, emptied }
    }

    /// Takes `sid` out of `rooms`; joins that are under way come to nothing. Returns the rooms
    /// whose channels nobody needs any more.
    pub(crate) fn leave(&mut self, sid: Sid, rooms: &[Arc<str>]) -> Vec<Arc<str>> {
        let now = self.tick();
        for room in rooms {
            if let Some(place) = self
                .sockets
                .get_mut(&sid)
                .and_then(|socket| socket.rooms.get_mut(room))
            {
                place.joined = false;
                place.left = now;
            }
        }
        self.vacate(sid, rooms)
    }

    /// Ends the visit of `sid`. Returns the rooms whose channels nobody needs
    /// any more.
    pub(crate) fn remove(&mut self, sid: Sid) -> Vec<Arc<str>> {
        let rooms = self.sockets.remove(&sid).map(|socket| socket.rooms);
        let rooms: Vec<_> = rooms.into_iter().flatten().map(|(room, _)| room).collect();
        rooms
            .into_iter()
            .filter_map(|room| self.release(&room))
            .collect()
    }

    /// Every room.
    pub(crate) fn rooms(&self) -> Vec<Arc<str>> {
        self.rooms.keys().cloned().collect()
    }

    fn socket(&mut self, sid: Sid) -> &mut SocketRooms {
        let clock = &mut self.clock;
        self.sockets.entry(sid).or_insert_with(|| {
            *clock += 1;
            SocketRooms {
                visit: *clock,
                rooms: HashMap::new(),
            }
        })
    }

    fn place(&mut self, sid: Sid, room: &Arc<str>) -> &mut Place {
        if !self.socket(sid).rooms.contains_key(room) {
            *self.rooms.entry(room.clone()).or_default() += 1;
        }
        self.socket(sid).rooms.entry(room.clone()).or_default()
    }

    /// Drops the places among `rooms` that are neither taken nor reserved.
    fn vacate(&mut self, sid: Sid, rooms: &[Arc<str>]) -> Vec<Arc<str>> {
        let mut released = Vec::new();
        for room in rooms {
            let Some(socket) = self.sockets.get_mut(&sid) else {
                break;
            };
            let vacant = |place: &Place| !place.joined && place.reservations == 0;
            if socket.rooms.get(room).is_some_and(vacant) {
                socket.rooms.remove(room);
                released.extend(self.release(room));
            }
        }
        released
    }

    /// Counts one member of `room` less. Returns it when that was the last.
    fn release(&mut self, room: &Arc<str>) -> Option<Arc<str>> {
        let members = self.rooms.get_mut(room)?;
        *members -= 1;
        if *members > 0 {
            return None;
        }
        self.rooms.remove(room);
        Some(room.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(rooms: &[&str]) -> Vec<Arc<str>> {
        rooms.iter().map(|room| Arc::from(*room)).collect()
    }

    fn settled(joined: &[&str], emptied: &[&str]) -> Settled {
        Settled {
            joined: names(joined),
            emptied: names(emptied),
        }
    }

    #[test]
    fn a_channel_is_needed_from_the_first_reservation_to_the_last_member() {
        let (mut membership, a, b) = (Membership::default(), Sid::new(), Sid::new());
        let room = names(&["r"]);
        let of_a = membership.reserve(a, &room);
        assert!(membership.has_room("r"));
        let of_b = membership.reserve(b, &room);
        assert_eq!(
            membership.settle(a, of_a, &room, true),
            settled(&["r"], &[])
        );
        assert_eq!(membership.leave(a, &room), names(&[]));
        assert_eq!(
            membership.settle(b, of_b, &room, false),
            settled(&[], &["r"])
        );
        assert!(!membership.has_room("r"));
    }

    #[test]
    fn a_join_that_fails_leaves_another_join_of_the_same_socket_alone() {
        let (mut membership, sid) = (Membership::default(), Sid::new());
        let room = names(&["r"]);
        let first = membership.reserve(sid, &room);
        let second = membership.reserve(sid, &room);
        assert_eq!(
            membership.settle(sid, second, &room, true),
            settled(&["r"], &[])
        );
        assert_eq!(
            membership.settle(sid, first, &room, false),
            settled(&[], &[])
        );
        assert!(membership.has_room("r"));
        assert_eq!(membership.leave(sid, &room), room);
    }

    #[test]
    fn what_was_begun_in_an_earlier_visit_does_not_touch_the_next() {
        let (mut membership, sid) = (Membership::default(), Sid::new());
        let room = names(&["r"]);
        let old = membership.reserve(sid, &room);
        assert_eq!(membership.remove(sid), room);
        assert_eq!(membership.remove(sid), names(&[]));
        let new = membership.reserve(sid, &room);
        assert_eq!(membership.settle(sid, old, &room, true), settled(&[], &[]));
        assert_eq!(
            membership.settle(sid, new, &room, true),
            settled(&["r"], &[])
        );
        assert_eq!(membership.rooms(), room);
    }

    #[test]
    fn a_leave_undoes_the_joins_that_began_before_it() {
        let (mut membership, sid) = (Membership::default(), Sid::new());
        let (room, both) = (names(&["r"]), names(&["r", "s"]));
        let before = membership.reserve(sid, &both);
        assert_eq!(membership.leave(sid, &room), names(&[]));
        let after = membership.reserve(sid, &room);
        assert_eq!(
            membership.settle(sid, before, &both, true),
            settled(&["s"], &[])
        );
        assert!(!membership.has_joined(sid, "r"));
        assert_eq!(
            membership.settle(sid, after, &room, true),
            settled(&["r"], &[])
        );
        let again = membership.reserve(sid, &room);
        assert_eq!(membership.leave(sid, &room), names(&[]));
        assert_eq!(
            membership.settle(sid, again, &room, true),
            settled(&[], &["r"])
        );
    }

    #[test]
    fn a_room_that_is_joined_at_once_ends_with_the_visit() {
        let (mut membership, sid) = (Membership::default(), Sid::new());
        let own = names(&["own"]);
        membership.join(sid, &own[0]);
        assert!(membership.has_joined(sid, "own"));
        assert_eq!(membership.rooms(), own);
        assert_eq!(membership.remove(sid), own);
        assert!(!membership.has_room("own"));
    }
}
