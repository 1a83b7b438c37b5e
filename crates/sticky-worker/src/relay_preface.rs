//! What one worker says to another before it relays a request: who the client
//! is. A fixed number of bytes that no HTTP request can begin with; without
//! them a connection to a relay socket is plain HTTP/1.1. Encoding and decoding
//! only.
//!
//! | bytes | content |
//! |---|---|
//! | 4 | magic: 0, `s`, `r`, version |
//! | 1 | 1: the client spoke TLS, 0: plain |
//! | 1 | address family: 0 none, 4, 6 |
//! | 16 | address; IPv4 in the first four |
//! | 2 | port, big endian |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::client_info::ClientScheme;
use crate::stream_state::Origin;

/// Bytes of a preface.
pub(crate) const LENGTH: usize = 24;
/// Its first byte. HTTP begins with a letter, TLS with 22.
pub(crate) const FIRST_BYTE: u8 = 0;

const MAGIC: [u8; 4] = [FIRST_BYTE, b's', b'r', 1];

/// The client behind a relayed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Preface {
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) scheme: ClientScheme,
}

impl Preface {
    pub(crate) fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = (self.scheme == ClientScheme::Https).into();
        if let Some(peer) = self.peer {
            match peer.ip() {
                IpAddr::V4(ip) => {
                    bytes[5] = 4;
                    bytes[6..10].copy_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes[5] = 6;
                    bytes[6..22].copy_from_slice(&ip.octets());
                }
            }
            bytes[22..].copy_from_slice(&peer.port().to_be_bytes());
        }
        bytes
    }

    /// What a connection of this client is to its owner.
    pub(crate) fn origin(self) -> Origin {
        Origin {
            peer: self.peer,
            scheme: self.scheme,
            relayed: true,
            ..Origin::plain_relay()
        }
    }

    /// `None` when the bytes are no preface of this version.
    pub(crate) fn decode(bytes: &[u8; LENGTH]) -> Option<Preface> {
        if bytes[..4] != MAGIC {
            return None;
        }
        let scheme = match bytes[4] {
            0 => ClientScheme::Http,
            1 => ClientScheme::Https,
            _ => return None,
        };
        let ip: [u8; 16] = bytes[6..22].try_into().ok()?;
        let port = u16::from_be_bytes([bytes[22], bytes[23]]);
        let ip = match bytes[5] {
            0 => None,
            4 => Some(IpAddr::V4(Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3]))),
            6 => Some(IpAddr::V6(Ipv6Addr::from(ip))),
            _ => return None,
        };
        let peer = ip.map(|ip| SocketAddr::new(ip, port));
        Some(Preface { peer, scheme })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preface_survives_the_round_trip() {
        for peer in [
            None,
            Some("127.0.0.2:65535".parse().unwrap()),
            Some("[2001:db8::1]:1".parse().unwrap()),
        ] {
            for scheme in [ClientScheme::Http, ClientScheme::Https] {
                let preface = Preface { peer, scheme };
                assert_eq!(Preface::decode(&preface.encode()), Some(preface));
            }
        }
    }

    #[test]
    fn other_bytes_are_no_preface() {
        let good = Preface {
            peer: None,
            scheme: ClientScheme::Http,
        }
        .encode();
        for at in 0..6 {
            let mut bad = good;
            bad[at] = 9;
            assert_eq!(Preface::decode(&bad), None, "byte {at}");
        }
        assert_eq!(Preface::decode(b"GET / HTTP/1.1\r\nHost: a\r"), None);
    }
}
