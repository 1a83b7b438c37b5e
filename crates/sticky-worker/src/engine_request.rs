//! What a request on the Engine.IO path wants, read from its head alone, and
//! the rewriting of that head. Pure.

use bytes::Bytes;
use common::sid_tag::SidTag;
use http::header::{HeaderMap, HeaderValue, UPGRADE};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};

use crate::refusal::Refusal;
use crate::secret::Secret;

/// What is to be done with a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Not an Engine.IO request: the application's.
    Other,
    /// Answered here.
    Refused(Refusal),
    /// A polling handshake.
    OpenPolling,
    /// A WebSocket that starts a session.
    OpenWebsocket,
    /// Opens nothing; the application words the refusal.
    OpenNothing,
    /// A request of a session with our tag.
    Session { secret: Secret, websocket: bool },
    /// A request of a session that another worker has.
    Foreign { owner: SidTag, websocket: bool },
}

/// Reads a request head. `path` is the Engine.IO path without a slash at its
/// end, `own` the tag of this worker. Errors are found in the order in which
/// the JavaScript server looks for them: transport, session id, method.
pub(crate) fn read<B>(request: &Request<B>, path: &str, own: SidTag) -> Wish {
    let uri = request.uri();
    let Some(below) = uri.path().strip_prefix(path) else {
        return Wish::Other;
    };
    if !(below.is_empty() || below.starts_with('/')) {
        return Wish::Other;
    }
    // A preflight names the session but is no request of it.
    if request.method() == Method::OPTIONS {
        return Wish::OpenNothing;
    }
    let query = uri.query().unwrap_or_default();
    let sid = value_of(query, "sid=");
    let websocket = match value_of(query, "transport=") {
        Some("polling") => false,
        Some("websocket") => true,
        // Files that are served below the path, as the client bundle is.
        None if sid.is_none() && below.len() > 1 => return Wish::Other,
        _ => return Wish::Refused(Refusal::TransportUnknown),
    };
    let is_get = request.method() == Method::GET;
    let upgrades = is_get && asks_websocket(request.headers());
    let Some(sid) = sid else {
        return match websocket {
            _ if !is_get => Wish::OpenNothing,
            false => Wish::OpenPolling,
            true if upgrades => Wish::OpenWebsocket,
            true => Wish::Refused(Refusal::BadRequest),
        };
    };
    let Some((tag, secret)) = SidTag::decode(sid).zip(Secret::of_sid(sid)) else {
        return Wish::Refused(Refusal::SessionUnknown);
    };
    if tag == own {
        Wish::Session { secret, websocket }
    } else {
        Wish::Foreign {
            owner: tag,
            websocket: websocket && upgrades,
        }
    }
}

/// Whether the request asks for an upgrade to WebSocket.
pub(crate) fn asks_websocket(headers: &HeaderMap) -> bool {
    headers
        .get(UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The first value of that name, as socketioxide reads it: nothing is decoded.
fn value_of<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name))
}

/// The same URI in memory of its own, the first `sid=` replaced. `None` when
/// `engine_sid` cannot stand in a URI.
pub(crate) fn with_sid(uri: &Uri, engine_sid: &str) -> Option<Uri> {
    let (before, after) = around_sid(uri.query()?)?;
    let path = uri.path();
    let mut text = String::with_capacity(uri_length(uri) + engine_sid.len());
    for part in [path, "?", before, engine_sid, after] {
        text.push_str(part);
    }
    owned_uri(uri, text)
}

/// The same URI in memory of its own.
pub(crate) fn own_uri(uri: &Uri) -> Option<Uri> {
    owned_uri(uri, uri.path_and_query()?.as_str().to_owned())
}

fn owned_uri(uri: &Uri, path_and_query: String) -> Option<Uri> {
    let path_and_query = Bytes::from(path_and_query);
    let Some((scheme, authority)) = uri.scheme_str().zip(uri.authority()) else {
        return PathAndQuery::from_maybe_shared(path_and_query)
            .ok()
            .map(Uri::from);
    };
    Uri::builder()
        .scheme(scheme)
        .authority(authority.as_str())
        .path_and_query(PathAndQuery::from_maybe_shared(path_and_query).ok()?)
        .build()
        .ok()
}

fn uri_length(uri: &Uri) -> usize {
    uri.path_and_query().map_or(0, |both| both.as_str().len())
}

/// The query up to and behind the value of its first `sid=`.
fn around_sid(query: &str) -> Option<(&str, &str)> {
    let mut start = 0;
    for pair in query.split('&') {
        if pair.starts_with("sid=") {
            let value = start + "sid=".len();
            return Some((&query[..value], &query[start + pair.len()..]));
        }
        start += pair.len() + 1;
    }
    None
}

/// Moves the values of all headers into one block of their own. hyper's are
/// slices of its read buffer, and an application that keeps a head for as long
/// as a client lives would keep that too: 3 to 7.5 KiB a client.
pub(crate) fn own_headers(headers: &mut HeaderMap) {
    let length = headers.values().map(HeaderValue::len).sum();
    let mut block = Vec::with_capacity(length);
    for value in headers.values() {
        block.extend_from_slice(value.as_bytes());
    }
    let mut block = Bytes::from(block);
    for value in headers.values_mut() {
        let bytes = block.split_to(value.len());
        if let Ok(mut owned) = HeaderValue::from_maybe_shared(bytes) {
            owned.set_sensitive(value.is_sensitive());
            *value = owned;
        }
    }
}

/// The application's session id in the answer to a polling handshake:
/// `0{"sid":"…"`. `None` for any other body, or an id that a URI cannot carry.
pub(crate) fn engine_sid(body: &[u8]) -> Option<&str> {
    let rest = body.strip_prefix(HANDSHAKE)?;
    let end = rest.iter().position(|&byte| byte == b'"')?;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    if end == 0 || !rest[..end].iter().all(plain) {
        return None;
    }
    std::str::from_utf8(&rest[..end]).ok()
}

/// How the answer to a polling handshake begins.
pub(crate) const HANDSHAKE: &[u8] = br#"0{"sid":""#;

#[cfg(test)]
mod tests {
    use common::worker_id::{NodeId, WorkerId};

    use super::*;

    const OWN: SidTag = SidTag {
        node: NodeId(0),
        worker: WorkerId(3),
    };

    fn wish(method: &str, uri: &str, websocket: bool) -> Wish {
        let mut request = Request::builder().method(method).uri(uri);
        if websocket {
            request = request.header(UPGRADE, "WebSocket");
        }
        read(&request.body(()).unwrap(), "/socket.io", OWN)
    }

    fn is(found: Wish, expected: Wish) -> bool {
        found == expected
    }

    #[test]
    fn requests_are_told_apart_by_their_heads() {
        let secret = Secret::of_sid("AAADabcdefghij-_0189").unwrap();
        let session = |websocket| Wish::Session { secret, websocket };
        let foreign = |node, worker, websocket| Wish::Foreign {
            owner: SidTag {
                node: NodeId(node),
                worker: WorkerId(worker),
            },
            websocket,
        };
        let unknown = Wish::Refused(Refusal::SessionUnknown);
        let transport = Wish::Refused(Refusal::TransportUnknown);
        for (method, uri, upgrade, expected) in [
            (
                "GET",
                "/socket.io/?EIO=4&transport=polling",
                false,
                Wish::OpenPolling,
            ),
            (
                "GET",
                "/socket.io?transport=polling",
                false,
                Wish::OpenPolling,
            ),
            (
                "GET",
                "/socket.io/x?transport=polling",
                false,
                Wish::OpenPolling,
            ),
            (
                "GET",
                "/socket.io/?EIO=4&transport=websocket",
                true,
                Wish::OpenWebsocket,
            ),
            (
                "GET",
                "/socket.io/?transport=websocket",
                false,
                Wish::Refused(Refusal::BadRequest),
            ),
            (
                "POST",
                "/socket.io/?EIO=4&transport=polling",
                false,
                Wish::OpenNothing,
            ),
            (
                "POST",
                "/socket.io/?EIO=4&transport=websocket",
                true,
                Wish::OpenNothing,
            ),
            ("GET", "/socket.io/", false, transport),
            ("GET", "/socket.io/?transport=flash", false, transport),
            ("GET", "/socket.io/?transport=flash&sid=x", false, transport),
            (
                "GET",
                "/socket.io/?sid=AAADabcdefghij-_0189",
                false,
                transport,
            ),
            ("GET", "/socket.io/socket.io.js", false, Wish::Other),
            ("GET", "/socket.io/socket.io.js?v=1", false, Wish::Other),
            ("GET", "/socket.iox/?transport=polling", false, Wish::Other),
            ("GET", "/", false, Wish::Other),
            (
                "OPTIONS",
                "/socket.io/?transport=polling&sid=zz",
                false,
                Wish::OpenNothing,
            ),
            (
                "GET",
                "/socket.io/?transport=polling&sid=AAADabcdefghij-_0189",
                false,
                session(false),
            ),
            (
                "POST",
                "/socket.io/?sid=AAADabcdefghij-_0189&transport=polling",
                false,
                session(false),
            ),
            (
                "GET",
                "/socket.io/?transport=websocket&sid=AAADabcdefghij-_0189",
                true,
                session(true),
            ),
            (
                "GET",
                "/socket.io/?transport=websocket&sid=AAAEabcdefghij-_0189",
                true,
                foreign(0, 4, true),
            ),
            (
                "GET",
                "/socket.io/?transport=polling&sid=AAAEabcdefghij-_0189",
                false,
                foreign(0, 4, false),
            ),
            (
                "GET",
                "/socket.io/?transport=polling&sid=AAEDabcdefghij-_0189",
                false,
                foreign(1, 3, false),
            ),
            (
                "GET",
                "/socket.io/?transport=polling&sid=abcdefghij-_0189",
                false,
                unknown,
            ),
            ("GET", "/socket.io/?transport=polling&sid=", false, unknown),
            (
                "GET",
                "/socket.io/?transport=polling&sid=AAAD%61bcdefghij-_018",
                false,
                unknown,
            ),
            // socketioxide reads the first of two.
            (
                "GET",
                "/socket.io/?transport=polling&sid=x&sid=AAADabcdefghij-_0189",
                false,
                unknown,
            ),
        ] {
            assert!(is(wish(method, uri, upgrade), expected), "{method} {uri}");
        }
    }

    #[test]
    fn the_first_sid_is_replaced_and_nothing_else() {
        for (uri, expected) in [
            ("/socket.io/?sid=old&t=1", "/socket.io/?sid=new&t=1"),
            ("/socket.io/?t=1&sid=old", "/socket.io/?t=1&sid=new"),
            ("/s/?usid=1&sid=a&sid=b", "/s/?usid=1&sid=new&sid=b"),
            ("http://h:1/s/?sid=a", "http://h:1/s/?sid=new"),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(with_sid(&uri, "new").unwrap(), expected);
        }
        let uri: Uri = "http://h/p?q=1".parse().unwrap();
        assert_eq!(own_uri(&uri).unwrap(), uri);
        assert_eq!(with_sid(&uri, "new"), None);
    }

    #[test]
    fn headers_keep_their_order_and_values_in_memory_of_their_own() {
        let buffer = Bytes::from_static(b"one=1; two=2");
        let mut headers = HeaderMap::new();
        headers.append(
            "cookie",
            HeaderValue::from_maybe_shared(buffer.clone()).unwrap(),
        );
        headers.append("x-a", HeaderValue::from_static(""));
        headers.append("x-a", HeaderValue::from_bytes(b"\xff b").unwrap());
        let before = headers.clone();
        own_headers(&mut headers);
        assert_eq!(headers, before);
        let value = headers["cookie"].as_bytes().as_ptr();
        assert!(!buffer.as_ptr_range().contains(&value));
    }

    #[test]
    fn the_engine_sid_is_read_from_handshakes_only() {
        assert_eq!(
            engine_sid(br#"0{"sid":"aB-_9","upgrades":[]}"#),
            Some("aB-_9")
        );
        for other in [
            &b"40"[..],
            br#"0{"sid":"""#,
            br#"0{"sid":"a b"}"#,
            br#"0{"sid":"a"#,
            b"",
        ] {
            assert_eq!(engine_sid(other), None);
        }
    }
}
