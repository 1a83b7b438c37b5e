//! For the fuzzer alone: what reads a stranger's first bytes, with what has to hold of it.

use common::forwarded::TrustedProxies;

use crate::entrance::Reading;
use crate::proxy_header::{self, ProxyHeader};
use crate::request_head::{self, Head};

/// Reads them as a PROXY protocol header and, behind it or without it, as a request head.
pub fn first_bytes(bytes: &[u8]) {
    let header = proxy_header::read(bytes);
    let rest = match header {
        ProxyHeader::Complete { length, .. } => {
            // What follows a header changes nothing, and its last byte is needed.
            assert_eq!(proxy_header::read(&bytes[..length]), header);
            assert_eq!(
                proxy_header::read(&bytes[..length - 1]),
                ProxyHeader::Partial
            );
            &bytes[length..]
        }
        ProxyHeader::Partial | ProxyHeader::Invalid => bytes,
    };
    let reading = Reading {
        head_max: 8 * 1024,
        trusted_proxies: TrustedProxies::new(["0.0.0.0/0".parse().expect("a network")]),
        affinity_cookie: Some("io".to_owned()),
    };
    let peer = Some(([127, 0, 0, 1], 80).into());
    let head = request_head::read(rest, peer, &reading);
    if let Head::Complete { .. } = head {
        let longer = [rest, b"more"].concat();
        assert_eq!(request_head::read(&longer, peer, &reading), head);
    }
}
