//! The first four characters of a session id say who owns it.
//!
//! A session id that a client sees has [`SID_LENGTH`] characters, the length of
//! the JavaScript server's: a tag of four, which is base64url of three bytes
//! (node id, two bytes, big endian; worker id, one byte), and a secret of
//! sixteen. So routing needs no table: it decodes.

use crate::worker_id::{NodeId, WorkerId};

/// Characters of a whole session id.
pub const SID_LENGTH: usize = 20;
/// Characters of the tag.
pub const TAG_LENGTH: usize = 4;
/// Characters of the secret behind the tag.
pub const SECRET_LENGTH: usize = SID_LENGTH - TAG_LENGTH;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The owner of a session, as its session id names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SidTag {
    /// The node whose worker made the session.
    pub node: NodeId,
    /// The worker process that holds the session.
    pub worker: WorkerId,
}

impl SidTag {
    /// The tag as four ASCII characters of the base64url alphabet.
    pub fn encode(self) -> [u8; TAG_LENGTH] {
        let [high, low] = self.node.0.to_be_bytes();
        let bits = u32::from_be_bytes([0, high, low, self.worker.0]);
        [18, 12, 6, 0].map(|shift| ALPHABET[(bits >> shift) as usize & 63])
    }

    /// Reads the tag of a session id. `None` unless `sid` is exactly
    /// [`SID_LENGTH`] characters of the base64url alphabet.
    pub fn decode(sid: &str) -> Option<SidTag> {
        let sid = sid.as_bytes();
        if sid.len() != SID_LENGTH || !sid.iter().all(|&c| sextet(c).is_some()) {
            return None;
        }
        Self::of(sid.first_chunk()?)
    }

    /// Reads a tag that stands alone.
    pub fn decode_bare(tag: &str) -> Option<SidTag> {
        Self::of(tag.as_bytes().try_into().ok()?)
    }

    fn of(tag: &[u8; TAG_LENGTH]) -> Option<SidTag> {
        let bits = tag
            .iter()
            .try_fold(0u32, |bits, &c| Some(bits << 6 | sextet(c)?))?;
        let [_, high, low, worker] = bits.to_be_bytes();
        Some(SidTag {
            node: NodeId(u16::from_be_bytes([high, low])),
            worker: WorkerId(worker),
        })
    }
}

fn sextet(character: u8) -> Option<u32> {
    let value = match character {
        b'A'..=b'Z' => character - b'A',
        b'a'..=b'z' => character - b'a' + 26,
        b'0'..=b'9' => character - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "abcdefghij-_0189";

    #[test]
    fn every_worker_of_some_nodes_survives_the_round_trip() {
        for node in [0, 1, 255, 256, 0x1234, u16::MAX] {
            for worker in WorkerId::all() {
                let tag = SidTag {
                    node: NodeId(node),
                    worker,
                };
                let sid = format!("{}{SECRET}", str::from_utf8(&tag.encode()).unwrap());
                assert_eq!(SidTag::decode(&sid), Some(tag));
                assert_eq!(SidTag::decode_bare(&sid[..TAG_LENGTH]), Some(tag));
                assert_eq!(SidTag::decode_bare(&sid), None);
            }
        }
    }

    #[test]
    fn the_tag_is_base64url_of_node_and_worker() {
        let tag = SidTag {
            node: NodeId(0),
            worker: WorkerId(3),
        };
        assert_eq!(&tag.encode(), b"AAAD");
        let tag = SidTag {
            node: NodeId(0xfbff),
            worker: WorkerId(0xfe),
        };
        assert_eq!(&tag.encode(), b"-__-");
    }

    #[test]
    fn what_is_not_ours_has_no_tag() {
        for sid in [
            "",
            "AAAA",
            "AAAAabcdefghij-_018",
            "AAAAabcdefghij-_01899",
            "AAAAabcdefghij-_01%9",
            "AAA=abcdefghij-_0189",
            "AAAAabcdefghij-_018\u{e9}",
        ] {
            assert_eq!(SidTag::decode(sid), None, "{sid}");
        }
    }
}
