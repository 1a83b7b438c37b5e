//! What a request's first bytes say about who should serve it. Pure: looks at
//! bytes, keeps nothing, allocates nothing. The parser is the one that hyper
//! uses in the workers, so both read a head the same way; and should they
//! differ, the cost is one relay hop.

use std::mem::MaybeUninit;

use common::sid_tag::SidTag;

/// A head may have that many bytes; the same bound holds for what is peeked.
pub(crate) const HEAD_MAX: usize = 8 * 1024;

/// Headers in one request; hyper's own bound.
const HEADERS_MAX: usize = 100;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// A whole request head.
    Complete(Claim),
    /// So far the beginning of one.
    Partial,
    /// More than [`HEAD_MAX`] bytes or too many headers.
    TooLarge,
    /// Not HTTP/1.
    Invalid,
}

/// Whose a request says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Its session id names its worker.
    Tagged(SidTag),
    /// A session id that is not ours; the number is a hash of it, so that its
    /// repeats still meet.
    Foreign(u64),
    /// No session id.
    New,
}

/// Reads the head at the beginning of `bytes`, which are all that has arrived
/// so far, up to [`HEAD_MAX`].
pub(crate) fn read(bytes: &[u8]) -> Head {
    let mut headers = [MaybeUninit::uninit(); HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(_)) => {
            Head::Complete(request.path.map_or(Claim::New, claim_of))
        }
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => Head::Partial,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => Head::TooLarge,
        Err(_) => Head::Invalid,
    }
}

/// The first `sid=` of the query counts, as in the workers.
fn claim_of(target: &str) -> Claim {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let sid = query.split('&').find_map(|pair| pair.strip_prefix("sid="));
    match sid {
        None | Some("") => Claim::New,
        Some(sid) => match SidTag::decode(sid) {
            Some(tag) => Claim::Tagged(tag),
            None => Claim::Foreign(crate::rendezvous::hash(sid.as_bytes())),
        },
    }
}

#[cfg(test)]
mod tests {
    use common::worker_id::{NodeId, WorkerId};

    use super::*;

    fn claim(target: &str) -> Claim {
        let head = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        match read(head.as_bytes()) {
            Head::Complete(claim) => claim,
            other => panic!("{target}: {other:?}"),
        }
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
        assert!(matches!(read(head), Head::Complete(Claim::Foreign(_))));
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
