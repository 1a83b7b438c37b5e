//! The keys by which workers seal TLS session tickets. All workers of a node
//! have the same ones, so a client resumes its TLS session wherever its next
//! connection goes. The master makes and rotates them; workers that outlive
//! their master hand them on to the next. They are never on a disk.

use std::cmp::Reverse;
use std::fmt;
use std::time::Duration;

/// Bytes of a key's name, which is the beginning of each ticket.
pub const NAME_LENGTH: usize = 16;
/// Bytes of a key, for AES-256-GCM.
pub const KEY_LENGTH: usize = 32;
/// Most keys in use: one that seals and those that still open.
pub const KEYS_MAX: usize = 4;
/// A new key is made so often.
pub const ROTATION: Duration = Duration::from_secs(6 * 3600);
/// How long a ticket can be used: its key opens at least for that long, and
/// not longer than [`KEYS_MAX`] rotations. A day is what TLS 1.2 servers do.
pub const TICKET_LIFE: Duration = Duration::from_secs(12 * 3600);

/// One key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TicketKey {
    /// Random; tickets name their key by it.
    pub name: [u8; NAME_LENGTH],
    /// Seconds since the Unix epoch when it was made.
    pub made: u64,
    /// The secret.
    pub key: [u8; KEY_LENGTH],
}

/// Without the secret.
impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey")
            .field("made", &self.made)
            .finish_non_exhaustive()
    }
}

/// The keys in use, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TicketKeys(Vec<TicketKey>);

impl TicketKeys {
    /// All of them, newest first; the first one seals.
    pub fn iter(&self) -> impl Iterator<Item = &TicketKey> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds keys; whether that changed anything. The newest [`KEYS_MAX`] are
    /// kept.
    pub fn merge(&mut self, keys: impl IntoIterator<Item = TicketKey>) -> bool {
        let before = self.0.clone();
        for key in keys {
            if !self.0.iter().any(|known| known.name == key.name) {
                self.0.push(key);
            }
        }
        // By name among those of one second: all processes must agree.
        self.0.sort_by_key(|key| Reverse((key.made, key.name)));
        self.0.truncate(KEYS_MAX);
        self.0 != before
    }

    /// When the next key is due, in seconds since the epoch.
    pub fn next_rotation(&self) -> u64 {
        let newest = self.0.first().map_or(0, |key| key.made);
        newest.saturating_add(ROTATION.as_secs())
    }
}

impl FromIterator<TicketKey> for TicketKeys {
    fn from_iter<T: IntoIterator<Item = TicketKey>>(keys: T) -> Self {
        let mut all = TicketKeys::default();
        all.merge(keys);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: u8, made: u64) -> TicketKey {
        TicketKey {
            name: [name; NAME_LENGTH],
            made,
            key: [name; KEY_LENGTH],
        }
    }

    #[test]
    fn the_newest_seals_and_the_oldest_goes_in_any_order_of_arrival() {
        let keys: Vec<_> = (1..=6).map(|n| key(n, 100 * u64::from(n))).collect();
        let forward: TicketKeys = keys.iter().copied().collect();
        let mut backward = TicketKeys::default();
        for key in keys.iter().rev() {
            backward.merge([*key]);
        }
        assert_eq!(forward, backward);
        let made: Vec<_> = forward.iter().map(|key| key.made).collect();
        assert_eq!(made, [600, 500, 400, 300]);
        assert_eq!(forward.next_rotation(), 600 + ROTATION.as_secs());
    }

    #[test]
    fn what_is_known_or_too_old_changes_nothing() {
        let mut keys: TicketKeys = (2..=5).map(|n| key(n, 100)).collect();
        assert!(!keys.merge([key(3, 100)]));
        assert!(!keys.merge([key(1, 1)]));
        assert!(keys.merge([key(9, 100)]));
    }
}
