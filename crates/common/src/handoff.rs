//! The packets of the channel between a master and one worker: encoding and
//! decoding only. Each packet is one message of a `SOCK_SEQPACKET` socket, so
//! there is no framing: the first byte is the kind, the rest fixed fields, big
//! endian. Unknown kinds, other versions and wrong lengths are refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

use crate::ticket_keys::{KEYS_MAX, TicketKey, TicketKeys};
use crate::worker_id::{Generation, NodeId, WorkerId};

/// The version of this protocol, said in [`Packet::Hello`]. A master refuses a
/// worker that speaks another.
pub const VERSION: u16 = 4;

/// Most sockets in one [`Packet::Handoff`]; the kernel's own bound is 253
/// descriptors a message.
pub const MAX_SOCKETS: usize = 16;

/// Most addresses in one [`Packet::Present`] or [`Packet::Closed`].
pub const MAX_ADDRESSES: usize = 32;

/// A packet never has more bytes than this.
pub const MAX_PACKET: usize = HANDOFF_HEAD + MAX_SOCKETS * SOCKET_LENGTH;

const HANDOFF_HEAD: usize = 1 + 8 + 1;
const ADDRESS_LENGTH: usize = 1 + 16;
const SOCKET_LENGTH: usize = 1 + 1 + (ADDRESS_LENGTH + 2) + ADDRESS_LENGTH + 8;
const _: () = assert!(2 + MAX_ADDRESSES * ADDRESS_LENGTH <= MAX_PACKET);

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const RETIRE: u8 = 3;
const HANDOFF: u8 = 4;
const DRAIN: u8 = 5;
const READY: u8 = 6;
const PROGRESS: u8 = 7;
const LOST: u8 = 8;
const LEAVING: u8 = 9;
const PRESENT: u8 = 10;
const CLOSED: u8 = 11;
const TICKET_KEYS: u8 = 12;
const SHED: u8 = 13;

/// A worker's first packet. The descriptor of its scoreboard page travels with
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who it is.
    pub worker: WorkerId,
    /// The node it believes to be part of.
    pub node: NodeId,
    /// Given at its start.
    pub generation: Generation,
    /// Its process id, as it sees it.
    pub pid: u32,
    /// Whether it can serve at once.
    pub ready: bool,
    /// It drains already: it gets no clients that are not its own, and needs no place.
    pub leaving: bool,
    /// Sockets it has received from earlier masters: the sequence number of the
    /// first socket of this channel.
    pub received: u64,
    /// How many of those were [`SocketInfo::balanced`].
    pub balanced_received: u64,
}

/// What a worker is told of one socket. The descriptors travel with the packet
/// in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketInfo {
    /// The address at the other end, or the one that a PROXY protocol header
    /// gave; a peer of a Unix listener has none.
    pub peer: Option<SocketAddr>,
    /// Whose connection it is where connections are counted by address. The
    /// worker names it in [`Packet::Closed`].
    pub counted: Option<IpAddr>,
    /// What the first bytes are.
    pub speaks: Speaks,
    /// Chosen by the balancing method, so it may open a new session: the worker
    /// says when it is settled. Sockets that a session id routed are not.
    pub balanced: bool,
    /// When the master knew whose it is, in microseconds of [`crate::monotonic::now_us`].
    pub known_us: u64,
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speaks {
    /// An HTTP/1 request.
    #[default]
    Http,
    /// A TLS handshake, of which the master knows nothing.
    Tls,
    /// The hello of another node's worker: [`crate::relay_hello`].
    Relay,
}

/// One message of the channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Worker to master, first.
    Hello(Hello),
    /// Master to worker: the Hello was taken.
    Welcome,
    /// Master to worker: another process holds your id, or there is no place
    /// for you; leave.
    Retire,
    /// Master to worker, with one descriptor for each socket.
    Handoff {
        /// The first socket's number; they count up from
        /// [`Hello::received`].
        first: u64,
        /// At most [`MAX_SOCKETS`].
        sockets: Vec<SocketInfo>,
    },
    /// Master to worker: ask your clients to return, and leave. A second one counts
    /// instead of the first.
    Drain {
        /// The wishes are spread over that many milliseconds, in which handshakes
        /// that still arrive are served. 0: all at once, and there is no other
        /// worker for handshakes either: they are refused.
        spread_ms: u32,
        /// Milliseconds from now until it has left.
        within_ms: u32,
    },
    /// Master to worker: ask that many of your clients to return, any of them.
    Shed(u32),
    /// Worker to master: whether new sockets are welcome.
    Ready(bool),
    /// Worker to master: the scoreboard changed after the master asked to be
    /// woken ([`crate::scoreboard::Scoreboard::ask_wake`]).
    Progress,
    /// Worker to master: the kernel closed these sockets on their way (no free
    /// descriptor); the master still has its copies.
    Lost {
        /// The first lost socket's number.
        first: u64,
        /// How many were lost.
        count: u8,
    },
    /// Worker to master: it drains by itself and wants no more sockets.
    Leaving,
    /// Worker to master, after a Welcome: it has connections of these addresses
    /// from an earlier master, each named as often as it has one. At most
    /// [`MAX_ADDRESSES`].
    Present(Vec<IpAddr>),
    /// Worker to master: connections that were [`SocketInfo::counted`] are
    /// closed. At most [`MAX_ADDRESSES`].
    Closed(Vec<IpAddr>),
    /// Master to worker: the keys to use. Worker to master, after a Welcome:
    /// the keys of an earlier master.
    TicketKeys(TicketKeys),
}

/// Why bytes are not a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PacketError {
    /// The sender speaks another version.
    #[error("handoff protocol version {0} instead of {VERSION}")]
    Version(u16),
    /// The first byte names no kind that is known here.
    #[error("unknown handoff packet kind {0}")]
    Kind(u8),
    /// The length does not fit the kind, or a field has no meaning.
    #[error("malformed handoff packet of kind {0}")]
    Malformed(u8),
    /// No bytes at all.
    #[error("empty handoff packet")]
    Empty,
}

impl Packet {
    /// Appends the packet's bytes to `out`, at most [`MAX_PACKET`] of them.
    ///
    /// # Panics
    /// When it names more than [`MAX_SOCKETS`] sockets or [`MAX_ADDRESSES`]
    /// addresses.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Packet::Hello(hello) => {
                out.push(HELLO);
                out.extend(VERSION.to_be_bytes());
                out.push(hello.worker.0);
                out.extend(hello.node.0.to_be_bytes());
                out.extend(hello.generation.0.to_be_bytes());
                out.extend(hello.pid.to_be_bytes());
                out.extend([u8::from(hello.ready), u8::from(hello.leaving)]);
                out.extend(hello.received.to_be_bytes());
                out.extend(hello.balanced_received.to_be_bytes());
            }
            Packet::Welcome => out.push(WELCOME),
            Packet::Retire => out.push(RETIRE),
            Packet::Handoff { first, sockets } => {
                assert!(sockets.len() <= MAX_SOCKETS, "too many sockets");
                out.push(HANDOFF);
                out.extend(first.to_be_bytes());
                out.push(sockets.len() as u8);
                for socket in sockets {
                    encode_socket(socket, out);
                }
            }
            Packet::Drain {
                spread_ms,
                within_ms,
            } => {
                out.push(DRAIN);
                out.extend(spread_ms.to_be_bytes());
                out.extend(within_ms.to_be_bytes());
            }
            Packet::Shed(count) => {
                out.push(SHED);
                out.extend(count.to_be_bytes());
            }
            Packet::Ready(ready) => out.extend([READY, u8::from(*ready)]),
            Packet::Progress => out.push(PROGRESS),
            Packet::Lost { first, count } => {
                out.push(LOST);
                out.extend(first.to_be_bytes());
                out.push(*count);
            }
            Packet::Leaving => out.push(LEAVING),
            Packet::Present(addresses) => encode_addresses(PRESENT, addresses, out),
            Packet::Closed(addresses) => encode_addresses(CLOSED, addresses, out),
            Packet::TicketKeys(keys) => {
                out.extend([TICKET_KEYS, keys.iter().count() as u8]);
                for key in keys.iter() {
                    out.extend(key.name);
                    out.extend(key.made.to_be_bytes());
                    out.extend(key.key);
                }
            }
        }
    }

    /// Reads one whole message.
    pub fn decode(bytes: &[u8]) -> Result<Packet, PacketError> {
        let (&kind, rest) = bytes.split_first().ok_or(PacketError::Empty)?;
        let mut fields = Fields(rest);
        let packet = match kind {
            HELLO => {
                let version = fields.u16().ok_or(PacketError::Malformed(kind))?;
                if version != VERSION {
                    return Err(PacketError::Version(version));
                }
                fields.hello().map(Packet::Hello)
            }
            WELCOME => Some(Packet::Welcome),
            RETIRE => Some(Packet::Retire),
            HANDOFF => fields.handoff(),
            DRAIN => fields.drain(),
            SHED => fields.u32().map(Packet::Shed),
            READY => fields.flag().map(Packet::Ready),
            PROGRESS => Some(Packet::Progress),
            LOST => fields.lost(),
            LEAVING => Some(Packet::Leaving),
            PRESENT => fields.addresses().map(Packet::Present),
            CLOSED => fields.addresses().map(Packet::Closed),
            TICKET_KEYS => fields.ticket_keys().map(Packet::TicketKeys),
            other => return Err(PacketError::Kind(other)),
        };
        match packet {
            Some(packet) if fields.0.is_empty() => Ok(packet),
            _ => Err(PacketError::Malformed(kind)),
        }
    }
}

fn encode_socket(socket: &SocketInfo, out: &mut Vec<u8>) {
    out.push(socket.balanced.into());
    out.push(match socket.speaks {
        Speaks::Http => 0,
        Speaks::Tls => 1,
        Speaks::Relay => 2,
    });
    encode_address(socket.peer.map(|peer| peer.ip()), out);
    out.extend(socket.peer.map_or(0, |peer| peer.port()).to_be_bytes());
    encode_address(socket.counted, out);
    out.extend(socket.known_us.to_be_bytes());
}

/// The family, 0 for none, and sixteen bytes.
fn encode_address(address: Option<IpAddr>, out: &mut Vec<u8>) {
    let (family, address) = match address {
        None => (0, [0; 16]),
        Some(IpAddr::V4(ip)) => (4, ip.to_ipv6_mapped().octets()),
        Some(IpAddr::V6(ip)) => (6, ip.octets()),
    };
    out.push(family);
    out.extend(address);
}

fn encode_addresses(kind: u8, addresses: &[IpAddr], out: &mut Vec<u8>) {
    assert!(addresses.len() <= MAX_ADDRESSES, "too many addresses");
    out.extend([kind, addresses.len() as u8]);
    for address in addresses {
        encode_address(Some(*address), out);
    }
}

/// Takes fields off the front; `None` when there are too few bytes.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn hello(&mut self) -> Option<Hello> {
        Some(Hello {
            worker: WorkerId(self.u8()?),
            node: NodeId(self.u16()?),
            generation: Generation(self.u64()?),
            pid: self.u32()?,
            ready: self.flag()?,
            leaving: self.flag()?,
            received: self.u64()?,
            balanced_received: self.u64()?,
        })
    }

    fn drain(&mut self) -> Option<Packet> {
        Some(Packet::Drain {
            spread_ms: self.u32()?,
            within_ms: self.u32()?,
        })
    }

    fn handoff(&mut self) -> Option<Packet> {
        let first = self.u64()?;
        let count = usize::from(self.u8()?);
        if count > MAX_SOCKETS {
            return None;
        }
        let sockets = (0..count).map(|_| self.socket()).collect::<Option<_>>()?;
        Some(Packet::Handoff { first, sockets })
    }

    fn socket(&mut self) -> Option<SocketInfo> {
        let balanced = self.flag()?;
        let speaks = match self.u8()? {
            0 => Speaks::Http,
            1 => Speaks::Tls,
            2 => Speaks::Relay,
            _ => return None,
        };
        let peer = self.address()?;
        let port = self.u16()?;
        Some(SocketInfo {
            peer: peer.map(|ip| SocketAddr::new(ip, port)),
            counted: self.address()?,
            speaks,
            balanced,
            known_us: self.u64()?,
        })
    }

    fn address(&mut self) -> Option<Option<IpAddr>> {
        let family = self.u8()?;
        let address = Ipv6Addr::from(self.take::<16>()?);
        Some(match family {
            0 => None,
            4 => Some(IpAddr::from(Ipv4Addr::from(
                *address.octets().last_chunk::<4>()?,
            ))),
            6 => Some(IpAddr::from(address)),
            _ => return None,
        })
    }

    fn addresses(&mut self) -> Option<Vec<IpAddr>> {
        let count = usize::from(self.u8()?);
        if count > MAX_ADDRESSES {
            return None;
        }
        (0..count).map(|_| self.address()?).collect()
    }

    fn ticket_keys(&mut self) -> Option<TicketKeys> {
        let count = usize::from(self.u8()?);
        if count > KEYS_MAX {
            return None;
        }
        let key = |_| {
            Some(TicketKey {
                name: self.take()?,
                made: self.u64()?,
                key: self.take()?,
            })
        };
        (0..count).map(key).collect()
    }

    fn lost(&mut self) -> Option<Packet> {
        Some(Packet::Lost {
            first: self.u64()?,
            count: self.u8()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_kind() -> Vec<Packet> {
        let peer = |text: &str, balanced, speaks| SocketInfo {
            peer: Some(text.parse().unwrap()),
            counted: None,
            speaks,
            balanced,
            known_us: 1 << 41,
        };
        let unix = SocketInfo {
            peer: None,
            counted: Some([192, 0, 2, 1].into()),
            speaks: Speaks::Http,
            balanced: true,
            known_us: 0,
        };
        let key = |number| TicketKey {
            name: [number; 16],
            made: 1 << 33,
            key: [number + 1; 32],
        };
        let addresses = vec!["::1".parse().unwrap(), [127, 0, 0, 1].into()];
        vec![
            Packet::Hello(Hello {
                worker: WorkerId(3),
                node: NodeId(0x0102),
                generation: Generation(u64::MAX),
                pid: 4711,
                ready: true,
                leaving: false,
                received: 9,
                balanced_received: 7,
            }),
            Packet::Welcome,
            Packet::Retire,
            Packet::Handoff {
                first: 1 << 40,
                sockets: vec![
                    peer("127.0.0.2:65535", true, Speaks::Tls),
                    peer("[2001:db8::1]:1", false, Speaks::Relay),
                    unix,
                ],
            },
            Packet::Handoff {
                first: 0,
                sockets: vec![unix; MAX_SOCKETS],
            },
            Packet::Drain {
                spread_ms: 10_000,
                within_ms: 16_000,
            },
            Packet::Shed(70_000),
            Packet::Ready(false),
            Packet::Progress,
            Packet::Lost { first: 5, count: 2 },
            Packet::Leaving,
            Packet::Present(addresses.clone()),
            Packet::Closed(vec![addresses[0]; MAX_ADDRESSES]),
            Packet::TicketKeys((0..4).map(key).collect()),
        ]
    }

    fn bytes_of(packet: &Packet) -> Vec<u8> {
        let mut bytes = Vec::new();
        packet.encode(&mut bytes);
        bytes
    }

    #[test]
    fn every_packet_survives_the_round_trip_within_the_bound() {
        for packet in every_kind() {
            let bytes = bytes_of(&packet);
            assert!(bytes.len() <= MAX_PACKET);
            assert_eq!(Packet::decode(&bytes), Ok(packet));
        }
    }

    #[test]
    fn a_packet_cut_short_or_too_long_is_refused() {
        for packet in every_kind() {
            let mut bytes = bytes_of(&packet);
            for length in 0..bytes.len() {
                assert!(Packet::decode(&bytes[..length]).is_err(), "{packet:?}");
            }
            bytes.push(0);
            assert!(Packet::decode(&bytes).is_err(), "{packet:?}");
        }
    }

    #[test]
    fn another_version_or_kind_is_refused_by_name() {
        let mut hello = bytes_of(&every_kind()[0]);
        hello[2] = 9;
        assert_eq!(Packet::decode(&hello), Err(PacketError::Version(9)));
        assert_eq!(Packet::decode(&[200]), Err(PacketError::Kind(200)));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic() {
        let mut state = 1u64;
        for _ in 0..20_000 {
            let mut bytes = [0u8; 64];
            for byte in &mut bytes {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                *byte = (state >> 56) as u8;
            }
            bytes[0] %= 15;
            let _ = Packet::decode(&bytes[..(state >> 33) as usize % 65]);
        }
    }
}
