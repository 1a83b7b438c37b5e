//! The header of the PROXY protocol, versions 1 and 2, as
//! [HAProxy's document](https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt)
//! has it: who the client of a proxy is, before the client's own first byte.
//! Pure; allocates nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of version 1, its end of line included.
const TEXT_MAX: usize = 107;
/// Bytes of a header of version 2 before its addresses.
const BINARY_HEAD: usize = 16;
/// A header of version 2 may have that many bytes with its extensions, which
/// are not looked at.
pub(crate) const LENGTH_MAX: usize = 4096;

const TEXT: &[u8] = b"PROXY ";
const BINARY: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyHeader {
    /// A whole header.
    Complete {
        /// Its bytes; what follows is the client's.
        length: usize,
        /// The client, unless the proxy speaks for itself or does not know.
        client: Option<SocketAddr>,
    },
    /// The beginning of one.
    Partial,
    /// Something else.
    Invalid,
}

/// Reads the header at the beginning of `bytes`.
pub(crate) fn read(bytes: &[u8]) -> ProxyHeader {
    if begins(bytes, TEXT) {
        read_text(bytes)
    } else if begins(bytes, BINARY) {
        read_binary(bytes)
    } else {
        ProxyHeader::Invalid
    }
}

/// Whether `bytes` begin with `mark`, as far as there are any.
fn begins(bytes: &[u8], mark: &[u8]) -> bool {
    let common = bytes.len().min(mark.len());
    bytes[..common] == mark[..common]
}

fn read_text(bytes: &[u8]) -> ProxyHeader {
    let line = &bytes[..bytes.len().min(TEXT_MAX)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return match bytes.len() < TEXT_MAX {
            true => ProxyHeader::Partial,
            false => ProxyHeader::Invalid,
        };
    };
    let Ok(line) = std::str::from_utf8(&line[..end]) else {
        return ProxyHeader::Invalid;
    };
    let mut words = line.split(' ').skip(1);
    let client = match words.next() {
        // Whatever follows is to be ignored.
        Some("UNKNOWN") => None,
        Some(family @ ("TCP4" | "TCP6")) => match read_addresses(words, family == "TCP6") {
            None => return ProxyHeader::Invalid,
            client => client,
        },
        _ => return ProxyHeader::Invalid,
    };
    ProxyHeader::Complete {
        length: end + 2,
        client,
    }
}

/// Source and destination address, source and destination port; the source of
/// them.
fn read_addresses<'a>(mut words: impl Iterator<Item = &'a str>, v6: bool) -> Option<SocketAddr> {
    let ip = |word: &str| {
        let ip: IpAddr = word.parse().ok()?;
        (ip.is_ipv6() == v6).then_some(ip)
    };
    let source = ip(words.next()?)?;
    ip(words.next()?)?;
    let port: u16 = words.next()?.parse().ok()?;
    let _: u16 = words.next()?.parse().ok()?;
    words
        .next()
        .is_none()
        .then(|| SocketAddr::new(source, port))
}

fn read_binary(bytes: &[u8]) -> ProxyHeader {
    let Some((head, rest)) = bytes.split_first_chunk::<BINARY_HEAD>() else {
        return ProxyHeader::Partial;
    };
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    let whole = BINARY_HEAD + length;
    if head[12] >> 4 != 2 || whole > LENGTH_MAX {
        return ProxyHeader::Invalid;
    }
    let Some(content) = rest.get(..length) else {
        return ProxyHeader::Partial;
    };
    let client = match (head[12] & 15, head[13]) {
        // LOCAL: the proxy itself, a health check. Else not known, or a Unix
        // socket, which has no address.
        (0, _) | (1, 0x00 | 0x31) => Some(None),
        (1, 0x11) => v4(content).map(Some),
        (1, 0x21) => v6(content).map(Some),
        _ => None,
    };
    match client {
        Some(client) => ProxyHeader::Complete {
            length: whole,
            client,
        },
        None => ProxyHeader::Invalid,
    }
}

fn v4(content: &[u8]) -> Option<SocketAddr> {
    let content: &[u8; 12] = content.first_chunk()?;
    let &[a, b, c, d, _, _, _, _, high, low, _, _] = content;
    let port = u16::from_be_bytes([high, low]);
    Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port))
}

fn v6(content: &[u8]) -> Option<SocketAddr> {
    let content: &[u8; 36] = content.first_chunk()?;
    let ip: [u8; 16] = *content.first_chunk()?;
    let port = u16::from_be_bytes([content[32], content[33]]);
    Some(SocketAddr::new(Ipv6Addr::from(ip).into(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(bytes: &[u8]) -> Option<String> {
        match read(bytes) {
            ProxyHeader::Complete { length, client } => {
                assert_eq!(length, bytes.len());
                Some(client.map_or("none".to_owned(), |client| client.to_string()))
            }
            _ => None,
        }
    }

    fn binary(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = BINARY.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend((content.len() as u16).to_be_bytes());
        bytes.extend(content);
        bytes
    }

    /// Headers with what they say.
    fn good() -> Vec<(Vec<u8>, &'static str)> {
        let four = [192, 0, 2, 1, 127, 0, 0, 1, 0x12, 0x67, 0, 80];
        let mut six = [0; 36];
        six[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        six[32..34].copy_from_slice(&[0x12, 0x67]);
        let extended = [&four[..], &[4, 0, 3, 1, 2, 3]].concat();
        let text = |line: &str| line.as_bytes().to_vec();
        vec![
            (
                text("PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\n"),
                "192.0.2.1:4711",
            ),
            (
                text("PROXY TCP6 2001:db8::7 ::1 4711 80\r\n"),
                "[2001:db8::7]:4711",
            ),
            (text("PROXY UNKNOWN\r\n"), "none"),
            (text("PROXY UNKNOWN ffff::1 ::2 1 2 and more\r\n"), "none"),
            (binary(1, 0x11, &four), "192.0.2.1:4711"),
            (binary(1, 0x11, &extended), "192.0.2.1:4711"),
            (binary(1, 0x21, &six), "[2001:db8::7]:4711"),
            (binary(1, 0x31, &[0; 216]), "none"),
            (binary(1, 0x00, &[]), "none"),
            (binary(0, 0x00, &[]), "none"),
            (binary(0, 0x11, &four), "none"),
        ]
    }

    #[test]
    fn both_versions_name_the_client_and_each_beginning_is_partial() {
        for (bytes, expected) in good() {
            assert_eq!(complete(&bytes).as_deref(), Some(expected));
            for length in 0..bytes.len() {
                assert_eq!(
                    read(&bytes[..length]),
                    ProxyHeader::Partial,
                    "{expected} {length}"
                );
            }
        }
    }

    #[test]
    fn what_follows_is_left_alone() {
        for (bytes, expected) in good() {
            let longer = [&bytes[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
            let ProxyHeader::Complete { length, .. } = read(&longer) else {
                panic!("{expected}");
            };
            assert_eq!(length, bytes.len());
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(TEXT_MAX));
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"\x16\x03\x01".to_vec(),
            b"PROXY TCP4 192.0.2.1 127.0.0.1 4711\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 80 1\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::7 ::1 4711 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 127.0.0.1 66000 80\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 127.0.0.1 4711 80\r\n".to_vec(),
            b"PROXY \r\n".to_vec(),
            b"PROXY TCP4 \xff 127.0.0.1 4711 80\r\n".to_vec(),
            long.into_bytes(),
            binary(2, 0x11, &[0; 12]),
            binary(1, 0x11, &[0; 11]),
            binary(1, 0x21, &[0; 35]),
            binary(1, 0x41, &[0; 12]),
            binary(1, 0x00, &[0; LENGTH_MAX]),
        ] {
            assert_eq!(
                read(&bytes),
                ProxyHeader::Invalid,
                "{:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
        let mut other = binary(1, 0, &[]);
        other[12] = 0x31;
        assert_eq!(read(&other), ProxyHeader::Invalid);
    }
}
