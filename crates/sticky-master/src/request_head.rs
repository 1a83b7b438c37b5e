//! What a request's first bytes say about who should serve it. Pure: looks at
//! bytes, keeps nothing, allocates nothing. The parser is the one that hyper
//! uses in the workers, so both read a head the same way; and should they
//! differ, the cost is one relay hop.

use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};

use common::cookies::cookies;
use common::sid_tag::SidTag;
use httparse::Header;

use crate::entrance::Reading;

/// Headers in one request; hyper's own bound.
const HEADERS_MAX: usize = 100;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// A whole request head.
    Complete {
        /// Whose request it is.
        claim: Claim,
        /// The client's address, as far as it is known.
        client: Option<IpAddr>,
    },
    /// So far the beginning of one.
    Partial,
    /// More than [`Reading::head_max`] bytes or too many headers.
    TooLarge,
    /// Not HTTP/1.
    Invalid,
}

/// Whose a connection says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Its session id names its worker.
    Tagged(SidTag),
    /// A session id that is not ours; the number is a hash of it, so that its
    /// repeats still meet.
    Foreign(u64),
    /// No session id, but a cookie that names the worker of an earlier one.
    Affine(SidTag),
    /// Nothing of that kind.
    New,
    /// Another node's worker has a request for this one.
    Relayed(SidTag),
}

/// Reads the head at the beginning of `bytes`, which are all that has arrived
/// so far. `peer` is who sent them.
pub(crate) fn read(bytes: &[u8], peer: Option<SocketAddr>, reading: &Reading) -> Head {
    let mut headers = [MaybeUninit::uninit(); HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length <= reading.head_max => Head::Complete {
            claim: claim_of(&request, reading),
            client: client_of(request.headers, peer, reading),
        },
        Ok(httparse::Status::Partial) if bytes.len() < reading.head_max => Head::Partial,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Head::TooLarge,
        Err(_) => Head::Invalid,
    }
}

/// The first `sid=` of the query counts, as in the workers.
fn claim_of(request: &httparse::Request<'_, '_>, reading: &Reading) -> Claim {
    let target = request.path.unwrap_or_default();
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let sid = query.split('&').find_map(|pair| pair.strip_prefix("sid="));
    match sid {
        None | Some("") => match affinity(request.headers, reading) {
            Some(tag) => Claim::Affine(tag),
            None => Claim::New,
        },
        Some(sid) => match SidTag::decode(sid) {
            Some(tag) => Claim::Tagged(tag),
            None => Claim::Foreign(crate::rendezvous::hash(sid.as_bytes())),
        },
    }
}

/// The worker that the affinity cookie names.
fn affinity(headers: &[Header<'_>], reading: &Reading) -> Option<SidTag> {
    let name = reading.affinity_cookie.as_deref()?;
    let mut cookies = values(headers, "cookie").flat_map(cookies);
    let (_, value) = cookies.find(|(found, _)| *found == name)?;
    SidTag::decode_bare(value)
}

/// The peer, or who trusted proxies say it speaks for.
fn client_of(
    headers: &[Header<'_>],
    peer: Option<SocketAddr>,
    reading: &Reading,
) -> Option<IpAddr> {
    let client = reading.trusted_proxies.client(
        peer,
        values(headers, "x-forwarded-for"),
        values(headers, "forwarded"),
    );
    client.map(|client| client.ip().to_canonical())
}

fn values<'h>(
    headers: &'h [Header<'_>],
    name: &'static str,
) -> impl DoubleEndedIterator<Item = &'h [u8]> {
    let named = headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| header.value)
}

#[cfg(test)]
mod tests {
    use common::forwarded::TrustedProxies;
    use common::worker_id::{NodeId, WorkerId};

    use super::*;

    const HEAD_MAX: usize = 8 * 1024;

    fn reading() -> Reading {
        Reading {
            head_max: HEAD_MAX,
            trusted_proxies: TrustedProxies::new(["10.0.0.0/8".parse().unwrap()]),
            affinity_cookie: Some("io".to_owned()),
        }
    }

    fn read(bytes: &[u8]) -> Head {
        super::read(bytes, Some(([10, 0, 0, 1], 80).into()), &reading())
    }

    fn complete(target: &str, headers: &str) -> (Claim, Option<IpAddr>) {
        let head = format!("GET {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        match read(head.as_bytes()) {
            Head::Complete { claim, client } => (claim, client),
            other => panic!("{target}: {other:?}"),
        }
    }

    fn claim(target: &str) -> Claim {
        complete(target, "").0
    }

    #[test]
    fn a_cookie_names_a_worker_where_no_sid_does() {
        let tag = SidTag {
            node: NodeId(0),
            worker: WorkerId(2),
        };
        let value = String::from_utf8(tag.encode().to_vec()).unwrap();
        for cookies in [
            format!("Cookie: io={value}\r\n"),
            format!("cookie: a=b; io={value}; c=d\r\n"),
            format!("Cookie: a=b\r\nCookie: io={value}\r\n"),
        ] {
            let found = complete("/socket.io/?transport=polling", &cookies).0;
            assert_eq!(found, Claim::Affine(tag), "{cookies}");
        }
        for other in [
            format!("Cookie: iox={value}\r\n"),
            format!("Cookie: io={value}x\r\n"),
            "Cookie: io\r\n".to_owned(),
            "Cookie: io=;\r\n".to_owned(),
        ] {
            assert_eq!(complete("/", &other).0, Claim::New, "{other}");
        }
        let cookie = format!("Cookie: io={value}\r\n");
        let with_sid = complete("/socket.io/?sid=short", &cookie).0;
        assert!(matches!(with_sid, Claim::Foreign(_)));
    }

    #[test]
    fn a_trusted_proxy_names_the_client() {
        let named = complete("/", "X-Forwarded-For: 203.0.113.9\r\n").1;
        assert_eq!(named, Some([203, 0, 113, 9].into()));
        assert_eq!(complete("/", "").1, Some([10, 0, 0, 1].into()));
    }

    #[test]
    fn a_tagged_sid_names_its_worker() {
        let tag = SidTag {
            node: NodeId(1),
            worker: WorkerId(7),
        };
        let sid = format!("{}abcdefghijklmnop", str::from_utf8(&tag.encode()).unwrap());
        for target in [
            format!("/socket.io/?EIO=4&transport=polling&sid={sid}"),
            format!("/socket.io/?sid={sid}&EIO=4"),
            format!("/?x=1&sid={sid}&sid=other"),
            format!("http://host/socket.io/?sid={sid}"),
        ] {
            assert_eq!(claim(&target), Claim::Tagged(tag), "{target}");
        }
    }

    #[test]
    fn a_foreign_sid_hashes_the_same_each_time() {
        let first = claim("/socket.io/?sid=short");
        assert!(matches!(first, Claim::Foreign(_)));
        assert_eq!(first, claim("/other?a=b&sid=short"));
        assert_ne!(first, claim("/socket.io/?sid=other"));
    }

    #[test]
    fn no_sid_is_a_new_client() {
        for target in ["/", "/?sid=", "/?xsid=abc", "/sid=abc", "*"] {
            assert_eq!(claim(target), Claim::New, "{target}");
        }
    }

    #[test]
    fn every_beginning_of_a_head_is_partial() {
        let head = b"\r\nPOST /socket.io/?sid=abc HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
        for length in 0..head.len() {
            assert_eq!(read(&head[..length]), Head::Partial, "{length}");
        }
        assert!(matches!(
            read(head),
            Head::Complete {
                claim: Claim::Foreign(_),
                ..
            }
        ));
    }

    #[test]
    fn what_is_not_http_1_is_invalid() {
        let heads: [&[u8]; 6] = [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\x00",
            b"GET / HTTP/2.0\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET / HTTP/1.1\r\n: no name\r\n\r\n",
            b"\xff\xfe\xfd\r\n\r\n",
        ];
        for head in heads {
            assert_eq!(read(head), Head::Invalid, "{head:?}");
        }
    }

    #[test]
    fn a_head_has_a_bound_in_bytes_and_headers() {
        let mut long = b"GET / HTTP/1.1\r\nX: ".to_vec();
        long.resize(HEAD_MAX - 1, b'a');
        assert_eq!(read(&long), Head::Partial);
        long.push(b'a');
        assert_eq!(read(&long), Head::TooLarge);
        let many = format!(
            "GET / HTTP/1.1\r\n{}\r\n",
            "a: b\r\n".repeat(HEADERS_MAX + 1)
        );
        assert_eq!(read(many.as_bytes()), Head::TooLarge);
    }

    #[test]
    fn reading_allocates_nothing() {
        let head = b"GET /socket.io/?sid=AAADabcdefghij-_0189 HTTP/1.1\r\nCookie: a=b; io=AAAB\r\n\
            X-Forwarded-For: 203.0.113.9, 10.0.0.7\r\n\r\n";
        let (peer, reading) = (Some(([10, 0, 0, 1], 80).into()), reading());
        let counted = allocation_counter::measure(|| {
            let found = super::read(head, peer, &reading);
            assert!(matches!(found, Head::Complete { .. }));
        });
        assert_eq!(counted.count_total, 0);
    }

    proptest::proptest! {
        #[test]
        fn a_head_is_read_the_same_wherever_it_was_cut_and_whatever_follows(
            target in "/[a-z.]{0,9}/?(\\?[a-z]{1,3}=[ -~&&[^ #]]{0,9}(&sid=[A-Za-z0-9_%-]{0,24})?)?",
            headers in proptest::collection::vec("(Cookie|X-Forwarded-For|Forwarded|X): [ -~]{0,40}", 0..6),
            body in proptest::collection::vec(proptest::num::u8::ANY, 0..40),
        ) {
            let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
            let head = format!("POST {target} HTTP/1.1\r\n{lines}\r\n");
            let whole = read(head.as_bytes());
            for length in 0..head.len() {
                let cut = read(&head.as_bytes()[..length]);
                // What is no head at all may be known to be none before its end.
                proptest::prop_assert!(cut == Head::Partial || cut == whole);
            }
            let followed = [head.as_bytes(), &body].concat();
            proptest::prop_assert_eq!(read(&followed), whole);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
        ) {
            read(&bytes);
            crate::proxy_header::read(&bytes);
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut state = 7u64;
        for round in 0..20_000u64 {
            let mut bytes =
                *b"GET /socket.io/?EIO=4&sid=AAAAabcdefghijklmnop HTTP/1.1\r\na: b\r\n\r\n";
            for _ in 0..round % 4 {
                state = crate::rendezvous::mix(state);
                bytes[(state >> 8) as usize % bytes.len()] = state as u8;
            }
            read(&bytes[..(state >> 40) as usize % (bytes.len() + 1)]);
        }
    }
}
