//! Seals and opens session tickets with the node's keys, which the master
//! makes: so a client resumes on any worker.
//!
//! A ticket is the key's name (16 bytes), a random nonce (12) and the session,
//! sealed with AES-256-GCM; the name is authenticated, too.

use std::sync::RwLock;

use common::ticket_keys::{NAME_LENGTH, TICKET_LIFE, TicketKey, TicketKeys};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::server::ProducesTickets;

/// The keys, newest first, ready for use.
#[derive(Debug, Default)]
pub(crate) struct Ticketer(RwLock<Ring>);

#[derive(Debug, Default)]
struct Ring {
    keys: TicketKeys,
    ready: Vec<([u8; NAME_LENGTH], LessSafeKey)>,
}

impl Ticketer {
    /// The keys, to be handed on to a new master.
    pub(crate) fn keys(&self) -> TicketKeys {
        self.0.read().expect("never poisoned").keys.clone()
    }

    /// The master's keys; earlier ones stay until there are too many.
    pub(crate) fn add(&self, keys: &TicketKeys) {
        let mut ring = self.0.write().expect("never poisoned");
        if ring.keys.merge(keys.iter().copied()) {
            ring.ready = ring.keys.iter().filter_map(ready).collect();
        }
    }
}

fn ready(key: &TicketKey) -> Option<([u8; NAME_LENGTH], LessSafeKey)> {
    let sealing = UnboundKey::new(&AES_256_GCM, &key.key).ok()?;
    Some((key.name, LessSafeKey::new(sealing)))
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        !self.0.read().expect("never poisoned").ready.is_empty()
    }

    fn lifetime(&self) -> u32 {
        TICKET_LIFE.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let ring = self.0.read().expect("never poisoned");
        let (name, key) = ring.ready.first()?;
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).ok()?;
        let mut ticket =
            Vec::with_capacity(NAME_LENGTH + NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
        ticket.extend_from_slice(plain);
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce_used, Aad::from(name), &mut ticket)
            .ok()?;
        ticket.splice(..0, name.iter().chain(&nonce).copied());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_LENGTH>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let ring = self.0.read().expect("never poisoned");
        // The name is no secret, so it may be compared in any time.
        let (_, key) = ring.ready.iter().find(|(known, _)| known == name)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = key
            .open_in_place(nonce, Aad::from(name), &mut sealed)
            .ok()?;
        let length = plain.len();
        sealed.truncate(length);
        Some(sealed)
    }
}

#[cfg(test)]
mod tests {
    use common::ticket_keys::KEY_LENGTH;

    use super::*;

    fn keys(numbers: &[u8]) -> TicketKeys {
        let key = |number: &u8| TicketKey {
            name: [*number; NAME_LENGTH],
            made: (*number).into(),
            key: [*number; KEY_LENGTH],
        };
        numbers.iter().map(key).collect()
    }

    #[test]
    fn what_one_worker_sealed_another_opens() {
        let (one, other) = (Ticketer::default(), Ticketer::default());
        assert!(!one.enabled() && one.encrypt(b"x").is_none());
        one.add(&keys(&[1]));
        other.add(&keys(&[1, 2]));
        let ticket = one.encrypt(b"the session").unwrap();
        assert_eq!(other.decrypt(&ticket).as_deref(), Some(&b"the session"[..]));
        // The newest key seals; who does not have it yet cannot open.
        assert_eq!(one.decrypt(&other.encrypt(b"y").unwrap()), None);
        one.add(&other.keys());
        assert_eq!(one.keys(), other.keys());
        assert!(one.decrypt(&other.encrypt(b"y").unwrap()).is_some());
    }

    #[test]
    fn what_was_changed_cut_or_made_up_does_not_open() {
        let ticketer = Ticketer::default();
        ticketer.add(&keys(&[1]));
        let ticket = ticketer.encrypt(b"the session").unwrap();
        assert_ne!(ticket, ticketer.encrypt(b"the session").unwrap());
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(ticketer.decrypt(&changed), None, "{at}");
            assert_eq!(ticketer.decrypt(&ticket[..at]), None, "{at}");
        }
    }
}
