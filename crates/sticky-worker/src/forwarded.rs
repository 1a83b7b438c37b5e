//! What the head of a request says of the client beyond the connection: its
//! address and scheme, where trusted proxies stand in between, and what it
//! already has of the affinity cookie.

use std::net::SocketAddr;

use common::cookies::cookies;
use common::forwarded::{TrustedProxies, parameter};
use http::HeaderMap;
use http::header::{COOKIE, FORWARDED, HeaderName};

use crate::client_info::ClientScheme;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The client's address.
pub(crate) fn address(
    headers: &HeaderMap,
    peer: Option<SocketAddr>,
    trusted: &TrustedProxies,
) -> Option<SocketAddr> {
    let values = |name: HeaderName| {
        let values = headers.get_all(name).into_iter();
        values.map(|value| value.as_bytes())
    };
    trusted.client(peer, values(X_FORWARDED_FOR), values(FORWARDED))
}

/// What the client spoke: as the connection's own scheme says, or a trusted
/// proxy.
pub(crate) fn scheme(
    headers: &HeaderMap,
    peer: Option<SocketAddr>,
    own: ClientScheme,
    trusted: &TrustedProxies,
) -> ClientScheme {
    if !trusted.trust(peer.map(|peer| peer.ip())) {
        return own;
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let said = match text(X_FORWARDED_PROTO) {
        Some(list) => list.split(',').next().map(str::trim),
        // Of the first element: what the client itself spoke.
        None => text(FORWARDED)
            .and_then(|list| list.split(',').next())
            .and_then(|first| parameter(first, "proto")),
    };
    match said {
        Some(proto) if proto.eq_ignore_ascii_case("https") => ClientScheme::Https,
        Some(proto) if proto.eq_ignore_ascii_case("http") => ClientScheme::Http,
        _ => own,
    }
}

/// Whether the client has that cookie with that value.
pub(crate) fn has_cookie(headers: &HeaderMap, name: &str, value: &str) -> bool {
    let mut cookies = headers
        .get_all(COOKIE)
        .into_iter()
        .flat_map(|header| cookies(header.as_bytes()));
    cookies.any(|found| found == (name, value))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_trusted_proxy_says_what_the_client_spoke() {
        use ClientScheme::{Http, Https};
        let trusted = TrustedProxies::new(["10.0.0.1".parse().unwrap()]);
        let proxy = Some(SocketAddr::from(([10, 0, 0, 1], 1)));
        let other = Some(SocketAddr::from(([10, 0, 0, 2], 1)));
        for (pairs, peer, own, expected) in [
            (&[("x-forwarded-proto", "https")][..], proxy, Http, Https),
            (&[("x-forwarded-proto", "https, http")], proxy, Http, Https),
            (&[("x-forwarded-proto", "http")], proxy, Https, Http),
            (&[("x-forwarded-proto", "gopher")], proxy, Https, Https),
            (
                &[("forwarded", "for=1.1.1.1;Proto=https, proto=http")],
                proxy,
                Http,
                Https,
            ),
            (&[("forwarded", "for=1.1.1.1")], proxy, Http, Http),
            (&[], proxy, Https, Https),
            (&[("x-forwarded-proto", "https")], other, Http, Http),
        ] {
            assert!(
                scheme(&headers(pairs), peer, own, &trusted) == expected,
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let headers = headers(&[("cookie", "a=b; io=AAAB"), ("cookie", "c=d")]);
        assert!(has_cookie(&headers, "io", "AAAB"));
        assert!(has_cookie(&headers, "c", "d"));
        assert!(!has_cookie(&headers, "io", "AAAC"));
        assert!(!has_cookie(&headers, "i", "AAAB"));
    }
}
