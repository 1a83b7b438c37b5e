//! The entries of the client table and the order in which they came to rest.
//! No clock runs here and nothing is closed: it remembers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::time::Instant;

use crate::client_handle::Client;
use crate::secret::Secret;

/// Since when, and a number that makes it unique.
type Place = (Instant, u64);

#[derive(Clone, Copy)]
enum Queue {
    /// The handshake was its only request.
    Unfinished(Place),
    /// Between two requests.
    Idle(Place),
    /// In a request, or a WebSocket: does not end by time.
    Active,
}

struct Entry {
    client: Arc<Client>,
    queue: Queue,
    requests: u32,
}

#[derive(Default)]
pub(crate) struct SessionTable {
    entries: HashMap<Secret, Entry>,
    unfinished: BTreeMap<Place, Secret>,
    idle: BTreeMap<Place, Secret>,
    places: u64,
}

impl SessionTable {
    /// A session whose handshake was just answered.
    pub(crate) fn insert(&mut self, secret: Secret, client: Arc<Client>) {
        let place = self.place();
        let entry = Entry {
            client,
            queue: Queue::Unfinished(place),
            requests: 0,
        };
        self.entries.insert(secret, entry);
        self.unfinished.insert(place, secret);
    }

    /// The oldest handshake without a second request, when there are more than
    /// `most` of them.
    pub(crate) fn surplus(&self, most: usize) -> Option<Secret> {
        if self.unfinished.len() <= most {
            return None;
        }
        self.unfinished.first_key_value().map(|(_, secret)| *secret)
    }

    /// One more request goes on; `None` when there is no such entry.
    pub(crate) fn begin_request(&mut self, secret: &Secret) -> Option<Arc<Client>> {
        let entry = self.entries.get_mut(secret)?;
        entry.requests += 1;
        let client = entry.client.clone();
        let left = std::mem::replace(&mut entry.queue, Queue::Active);
        self.leave_queue(left);
        Some(client)
    }

    /// One request less goes on.
    pub(crate) fn end_request(&mut self, secret: &Secret) {
        if let Some(entry) = self.entries.get_mut(secret) {
            entry.requests -= 1;
        }
    }

    /// Without a WebSocket: begins to rest, unless another request goes on.
    pub(crate) fn rest(&mut self, secret: Secret) {
        let place = self.place();
        if let Some(entry) = self.entries.get_mut(&secret)
            && entry.requests == 0
        {
            let left = std::mem::replace(&mut entry.queue, Queue::Idle(place));
            self.leave_queue(left);
            self.idle.insert(place, secret);
        }
    }

    pub(crate) fn remove(&mut self, secret: &Secret) -> Option<Arc<Client>> {
        let entry = self.entries.remove(secret)?;
        self.leave_queue(entry.queue);
        Some(entry.client)
    }

    /// The entry that has rested longest, and since when.
    pub(crate) fn oldest(&self) -> Option<(Instant, Secret)> {
        let fronts = [
            self.unfinished.first_key_value(),
            self.idle.first_key_value(),
        ];
        let fronts = fronts.into_iter().flatten();
        let (place, secret) = fronts.min_by_key(|(place, _)| **place)?;
        Some((place.0, *secret))
    }

    pub(crate) fn clients(&self) -> Vec<Arc<Client>> {
        self.entries.values().map(|e| e.client.clone()).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn place(&mut self) -> Place {
        self.places += 1;
        (Instant::now(), self.places)
    }

    fn leave_queue(&mut self, queue: Queue) {
        match queue {
            Queue::Unfinished(place) => self.unfinished.remove(&place),
            Queue::Idle(place) => self.idle.remove(&place),
            Queue::Active => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(table: &mut SessionTable) -> Secret {
        let secret = Secret::random();
        table.insert(secret, Arc::new(Client::polling(secret)));
        secret
    }

    #[test]
    fn entries_rest_in_the_order_of_their_last_requests() {
        let mut table = SessionTable::default();
        let secrets = [(); 3].map(|()| insert(&mut table));
        table.begin_request(&secrets[0]).unwrap();
        table.end_request(&secrets[0]);
        table.rest(secrets[0]);
        for at in [1, 2, 0] {
            let (_, oldest) = table.oldest().unwrap();
            assert!(oldest == secrets[at]);
            assert!(table.remove(&oldest).is_some());
        }
        assert!(table.oldest().is_none() && table.is_empty());
    }

    #[test]
    fn an_entry_with_a_request_does_not_rest() {
        let mut table = SessionTable::default();
        let secret = insert(&mut table);
        table.begin_request(&secret).unwrap();
        table.begin_request(&secret).unwrap();
        table.end_request(&secret);
        table.rest(secret);
        assert!(table.oldest().is_none());
        table.end_request(&secret);
        table.rest(secret);
        table.rest(secret);
        assert!(table.oldest().is_some());
        assert!(table.remove(&secret).is_some());
        assert!(table.oldest().is_none());
        assert!(table.begin_request(&secret).is_none());
    }

    #[test]
    fn the_surplus_is_the_oldest_unfinished_handshake() {
        let mut table = SessionTable::default();
        let first = insert(&mut table);
        insert(&mut table);
        assert!(table.surplus(2).is_none());
        assert!(table.surplus(1) == Some(first));
        table.begin_request(&first).unwrap();
        assert!(table.surplus(1).is_none());
    }
}
