//! Who the client is when proxies that are trusted stand in between: each adds
//! the address it was called from to a header. Pure.
//!
//! The list is read from its end, where the nearest proxy wrote, as long as the
//! address reached so far is a trusted one; what a client made up lies before
//! that and is never reached. `X-Forwarded-For` counts before `Forwarded`
//! ([RFC 7239](https://www.rfc-editor.org/rfc/rfc7239)): a proxy that writes the
//! first often lets the second through, whoever wrote it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

/// Whom to believe what it says of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustedProxy {
    /// Everyone with an address in there.
    Network(IpNet),
    /// Everyone who comes over a Unix socket.
    Unix,
}

impl FromStr for TrustedProxy {
    type Err = String;

    /// `10.0.0.0/8`, `2001:db8::/32`, a single address, or `unix`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unix" {
            return Ok(TrustedProxy::Unix);
        }
        let network = text.parse::<IpNet>();
        let network = network.or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network
            .map(|network| TrustedProxy::Network(network.trunc()))
            .map_err(|_| "expected a network such as 10.0.0.0/8, an address, or unix".to_owned())
    }
}

/// As text that parses back.
impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrustedProxy::Network(network) => network.fmt(f),
            TrustedProxy::Unix => f.write_str("unix"),
        }
    }
}

/// All that are trusted; by default nobody.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<TrustedProxy>);

impl TrustedProxies {
    /// These.
    pub fn new(proxies: impl IntoIterator<Item = TrustedProxy>) -> Self {
        TrustedProxies(proxies.into_iter().collect())
    }

    /// Whether a peer is believed. Peers of Unix sockets have no address.
    pub fn trust(&self, peer: Option<IpAddr>) -> bool {
        let peer = peer.map(|peer| peer.to_canonical());
        self.0.iter().any(|proxy| match (proxy, peer) {
            (TrustedProxy::Network(network), Some(peer)) => network.contains(&peer),
            (TrustedProxy::Unix, None) => true,
            _ => false,
        })
    }

    /// The client's address: the peer's own, or what trusted proxies say. Both
    /// headers' values are in the order of the request. A port that was not
    /// said is 0.
    pub fn client<'h>(
        &self,
        peer: Option<SocketAddr>,
        x_forwarded_for: impl DoubleEndedIterator<Item = &'h [u8]>,
        forwarded: impl DoubleEndedIterator<Item = &'h [u8]>,
    ) -> Option<SocketAddr> {
        if !self.trust(peer.map(|peer| peer.ip())) {
            return peer;
        }
        let mut x_forwarded_for = x_forwarded_for.rev().peekable();
        if x_forwarded_for.peek().is_some() {
            let entries = x_forwarded_for.flat_map(|value| value.rsplit(|&byte| byte == b','));
            self.walk(peer, entries.map(address))
        } else {
            let entries = forwarded
                .rev()
                .flat_map(|value| value.rsplit(|&byte| byte == b','));
            self.walk(peer, entries.map(for_address))
        }
    }

    /// From entry to entry while the one before it is trusted. What is no
    /// address ends the way: who is behind it is not known.
    fn walk(
        &self,
        peer: Option<SocketAddr>,
        entries: impl Iterator<Item = Option<SocketAddr>>,
    ) -> Option<SocketAddr> {
        let mut reached = peer;
        for entry in entries {
            let Some(entry) = entry else { break };
            reached = Some(entry);
            if !self.trust(Some(entry.ip())) {
                break;
            }
        }
        reached
    }
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn address(entry: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let ip = bare.parse().map(|ip: IpAddr| SocketAddr::new(ip, 0));
    ip.or_else(|_| text.parse()).ok()
}

/// The `for` of one element, `for="[2001:db8::1]:80";proto=https`.
fn for_address(element: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(element).ok()?;
    address(parameter(text, "for")?.as_bytes())
}

/// The value of a parameter of one element of `Forwarded`, without its quotes.
pub fn parameter<'e>(element: &'e str, name: &str) -> Option<&'e str> {
    let value = element.split(';').find_map(|pair| {
        let (found, value) = pair.split_once('=')?;
        let is_named = found.trim().eq_ignore_ascii_case(name);
        is_named.then(|| value.trim())
    })?;
    let unquoted = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    Some(unquoted.unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(list: &str) -> TrustedProxies {
        TrustedProxies::new(list.split_whitespace().map(|one| one.parse().unwrap()))
    }

    fn client(
        proxies: &TrustedProxies,
        peer: &str,
        x_forwarded_for: &[&str],
        forwarded: &[&str],
    ) -> String {
        let peer = (peer != "unix").then(|| peer.parse().unwrap());
        let bytes = |values: &[&str]| -> Vec<Vec<u8>> {
            values
                .iter()
                .map(|value| value.as_bytes().to_vec())
                .collect()
        };
        let (x_forwarded_for, forwarded) = (bytes(x_forwarded_for), bytes(forwarded));
        let found = proxies.client(
            peer,
            x_forwarded_for.iter().map(Vec::as_slice),
            forwarded.iter().map(Vec::as_slice),
        );
        found.map_or("unix".to_owned(), |found| found.to_string())
    }

    #[test]
    fn the_nearest_address_that_is_not_trusted_is_the_client() {
        let proxies = trusted("10.0.0.0/8 2001:db8::/32 192.0.2.7");
        for (peer, header, expected) in [
            ("10.1.1.1:5", "203.0.113.9", "203.0.113.9:0"),
            ("10.1.1.1:5", "203.0.113.9:81", "203.0.113.9:81"),
            ("10.1.1.1:5", "6.6.6.6, 203.0.113.9", "203.0.113.9:0"),
            ("10.1.1.1:5", "203.0.113.9 ,10.2.2.2", "203.0.113.9:0"),
            (
                "10.1.1.1:5",
                "203.0.113.9, 2001:db8::5, 192.0.2.7",
                "203.0.113.9:0",
            ),
            ("[2001:db8::1]:5", "[2001:dead::1]:80", "[2001:dead::1]:80"),
            ("[2001:db8::1]:5", "[2001:dead::1]", "[2001:dead::1]:0"),
            ("[::ffff:10.1.1.1]:5", "203.0.113.9", "203.0.113.9:0"),
            // All are trusted: the first of them.
            ("10.1.1.1:5", "10.3.3.3, 10.2.2.2", "10.3.3.3:0"),
            // Made up by somebody who is not trusted.
            ("203.0.113.9:5", "6.6.6.6", "203.0.113.9:5"),
            ("192.0.2.8:5", "6.6.6.6", "192.0.2.8:5"),
            // Who is behind the last proxy is not known.
            ("10.1.1.1:5", "6.6.6.6, unknown", "10.1.1.1:5"),
            ("10.1.1.1:5", "6.6.6.6, garbage, 10.2.2.2", "10.2.2.2:0"),
            ("10.1.1.1:5", "", "10.1.1.1:5"),
            ("unix", "203.0.113.9", "unix"),
        ] {
            assert_eq!(
                client(&proxies, peer, &[header], &[]),
                expected,
                "{peer} {header}"
            );
        }
    }

    #[test]
    fn several_headers_are_one_list_and_unix_sockets_may_be_trusted() {
        let proxies = trusted("unix 10.0.0.1");
        let found = client(
            &proxies,
            "unix",
            &["6.6.6.6", "203.0.113.9", "10.0.0.1"],
            &[],
        );
        assert_eq!(found, "203.0.113.9:0");
        assert_eq!(client(&proxies, "unix", &[], &[]), "unix");
    }

    #[test]
    fn forwarded_counts_where_there_is_nothing_else() {
        let proxies = trusted("127.0.0.0/8");
        for (header, expected) in [
            ("for=203.0.113.9", "203.0.113.9:0"),
            ("proto=https; For=203.0.113.9;by=1.1.1.1", "203.0.113.9:0"),
            (
                "for=6.6.6.6, for=\"[2001:db8::1]:4711\"",
                "[2001:db8::1]:4711",
            ),
            ("for=203.0.113.9, for=127.0.0.3", "203.0.113.9:0"),
            ("for=203.0.113.9, for=_hidden", "127.0.0.1:9"),
            ("for=203.0.113.9, proto=http", "127.0.0.1:9"),
        ] {
            assert_eq!(
                client(&proxies, "127.0.0.1:9", &[], &[header]),
                expected,
                "{header}"
            );
        }
        let both = client(&proxies, "127.0.0.1:9", &["203.0.113.9"], &["for=6.6.6.6"]);
        assert_eq!(both, "203.0.113.9:0");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["10.0.0.0/8", "::1", "127.0.0.1", "unix", "10.1.2.3/8"] {
            let proxy: TrustedProxy = text.parse().unwrap();
            assert_eq!(proxy.to_string().parse(), Ok(proxy));
        }
        for text in ["", "10.0.0.0/33", "localhost", "unix:/x", "*"] {
            assert!(text.parse::<TrustedProxy>().is_err(), "{text}");
        }
    }
}
