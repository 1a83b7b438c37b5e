//! What a socket must not hear, or not again: each event of its rooms is shown
//! to its application first, which may know it already, from its store or from
//! an earlier delivery.

use std::collections::HashMap;
use std::sync::Arc;

use socketioxide_core::Sid;

/// Whether a socket wants a packet, by its JSON text.
pub(crate) type Keep = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The screens of one namespace. A socket has at most one.
#[derive(Default)]
pub(crate) struct Screens {
    by_room: HashMap<Arc<str>, Vec<(Sid, Keep)>>,
    rooms: HashMap<Sid, Vec<Arc<str>>>,
}

impl Screens {
    /// From now on `keep` decides what the socket hears through `rooms`.
    pub(crate) fn insert(&mut self, sid: Sid, rooms: &[Arc<str>], keep: &Keep) {
        self.remove(sid);
        for room in rooms {
            let screens = self.by_room.entry(room.clone()).or_default();
            screens.push((sid, keep.clone()));
        }
        self.rooms.insert(sid, rooms.to_vec());
    }

    /// Ends the socket's screen, if it has one.
    pub(crate) fn remove(&mut self, sid: Sid) {
        for room in self.rooms.remove(&sid).unwrap_or_default() {
            if let Some(screens) = self.by_room.get_mut(&room) {
                screens.retain(|(other, _)| *other != sid);
                if screens.is_empty() {
                    self.by_room.remove(&room);
                }
            }
        }
    }

    /// Whether anybody has a screen for `room`.
    pub(crate) fn any_in(&self, room: &str) -> bool {
        self.by_room.contains_key(room)
    }

    /// Who has a screen for one of `rooms`.
    pub(crate) fn of<'a>(&self, rooms: impl Iterator<Item = &'a str>) -> HashMap<Sid, Keep> {
        rooms
            .filter_map(|room| self.by_room.get(room))
            .flatten()
            .cloned()
            .collect()
    }
}
