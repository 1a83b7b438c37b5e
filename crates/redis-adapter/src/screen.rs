//! What a socket that was let in a moment ago must not hear: events that its
//! snapshot of the store contained already, but that their sender published
//! only after it had been taken.

use std::collections::HashMap;
use std::sync::Arc;

use socketioxide_core::Sid;

/// Whether a socket wants a packet, by its JSON text.
pub(crate) type Keep = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The screens of one namespace, by room.
#[derive(Default)]
pub(crate) struct Screens {
    rooms: HashMap<Arc<str>, Vec<Screen>>,
    next_id: u64,
}

struct Screen {
    id: ScreenId,
    sid: Sid,
    keep: Keep,
}

/// Tells a screen from a later one of the same socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScreenId(u64);

impl Screens {
    /// From now on `keep` decides what the socket hears through `rooms`.
    pub(crate) fn insert(&mut self, sid: Sid, rooms: &[Arc<str>], keep: &Keep) -> ScreenId {
        self.next_id += 1;
        let id = ScreenId(self.next_id);
        for room in rooms {
            let keep = keep.clone();
            let screen = Screen { id, sid, keep };
            self.rooms.entry(room.clone()).or_default().push(screen);
        }
        id
    }

    /// Ends a screen, if it is still there.
    pub(crate) fn remove(&mut self, rooms: &[Arc<str>], id: ScreenId) {
        for room in rooms {
            if let Some(screens) = self.rooms.get_mut(room) {
                screens.retain(|screen| screen.id != id);
                if screens.is_empty() {
                    self.rooms.remove(room);
                }
            }
        }
        if self.rooms.is_empty() {
            self.rooms.shrink_to_fit();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// Who has a screen for one of `rooms`.
    pub(crate) fn of<'a>(&self, rooms: impl Iterator<Item = &'a str>) -> Vec<(Sid, Keep)> {
        rooms
            .filter_map(|room| self.rooms.get(room))
            .flatten()
            .map(|screen| (screen.sid, screen.keep.clone()))
            .collect()
    }
}
