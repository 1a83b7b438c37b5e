//! How a worker of one node greets a worker of another before it relays a
//! request: the first bytes of the connection say for which worker it is, so
//! the master there can hand it over like any other, unread.
//!
//! 1. caller → owner: the hello below, 24 bytes;
//! 2. owner → caller: a nonce of [`NONCE_LENGTH`] bytes, then a proof;
//! 3. caller → owner: a proof, then who the client is, then plain HTTP/1.1.
//!
//! A proof is HMAC-SHA-256 with the cluster's secret over everything that was
//! said before it and, in step 3, what follows it up to the HTTP; see
//! `sticky-worker`, `remote_relay`. So the secret itself is never sent, each
//! side knows the other, and what was overheard cannot be used again.
//!
//! | bytes | content of the hello |
//! |---|---|
//! | 4 | magic: 0, `s`, `h`, version |
//! | 2 | node id of the owner, big endian |
//! | 1 | worker id of the owner |
//! | 1 | 0 |
//! | 16 | nonce |

use crate::sid_tag::SidTag;
use crate::worker_id::{NodeId, WorkerId};

/// Bytes of a hello.
pub const LENGTH: usize = 24;
/// Its first byte. HTTP begins with a letter, TLS with 22.
pub const FIRST_BYTE: u8 = 0;
/// Bytes of a nonce.
pub const NONCE_LENGTH: usize = 16;

const MAGIC: [u8; 4] = [FIRST_BYTE, b's', b'h', 1];

/// Whom a relayed connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayHello {
    /// The worker that owns the session.
    pub owner: SidTag,
    /// Random, new for each connection.
    pub nonce: [u8; NONCE_LENGTH],
}

impl RelayHello {
    /// Its bytes.
    pub fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.owner.node.0.to_be_bytes());
        bytes[6] = self.owner.worker.0;
        bytes[8..].copy_from_slice(&self.nonce);
        bytes
    }

    /// `None` when the bytes are no hello of this version.
    pub fn decode(bytes: &[u8; LENGTH]) -> Option<RelayHello> {
        let (head, nonce) = bytes.split_first_chunk::<8>()?;
        let &[a, b, c, d, high, low, worker, zero] = head;
        if [a, b, c, d] != MAGIC || zero != 0 {
            return None;
        }
        Some(RelayHello {
            owner: SidTag {
                node: NodeId(u16::from_be_bytes([high, low])),
                worker: WorkerId(worker),
            },
            nonce: nonce.try_into().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_survives_the_round_trip_and_other_bytes_are_none() {
        let hello = RelayHello {
            owner: SidTag {
                node: NodeId(0x0102),
                worker: WorkerId(3),
            },
            nonce: *b"0123456789abcdef",
        };
        let good = hello.encode();
        assert_eq!(RelayHello::decode(&good), Some(hello));
        for at in [0, 1, 2, 3, 7] {
            let mut bad = good;
            bad[at] ^= 1;
            assert_eq!(RelayHello::decode(&bad), None, "byte {at}");
        }
    }
}
