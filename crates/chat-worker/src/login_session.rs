//! The login session of a browser: the cookie that carries it, and which session of the store it
//! stands for.
//!
//! The cookie holds a random token, and the session's id is a digest of it. So who sees the id (the
//! page in `session`, the store's files, its backups) cannot make the cookie of it, and the store
//! needs no table of tokens: a login lives as long as its session.

use base64::Engine as _;
use common::cookies::cookies;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use ring::digest::{SHA256, digest};

use crate::chat::identity::is_id;

/// The cookie's name.
const COOKIE_NAME: &str = "chat_session";

/// Seconds that a browser may keep the cookie: 400 days, the most that browsers allow (RFC 6265bis,
/// 5.5). The session ends before, by its own time.
const COOKIE_LIFE: u64 = 400 * 24 * 60 * 60;

/// Bytes of the digest that make the id, as many as of the random ones.
const ID_BYTES: usize = 18;

/// The id of the session that the request's cookie stands for, if it has one.
pub(crate) fn session_id(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(COOKIE).iter();
    let mut tokens = values
        .flat_map(|value| cookies(value.as_bytes()))
        .filter(|(name, token)| *name == COOKIE_NAME && is_id(token));
    tokens.next().map(|(_, token)| session_id_of(token))
}

/// The id of the session that a token stands for.
pub(crate) fn session_id_of(token: &str) -> String {
    let digest = digest(&SHA256, token.as_bytes());
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&digest.as_ref()[..ID_BYTES])
}

/// `Set-Cookie` for a token, which has to be an [id](is_id). No script reads it, no other site's
/// request carries it, except that a link is followed; over TLS it never goes without.
pub(crate) fn set_cookie(token: &str, secure: bool) -> HeaderValue {
    cookie(token, COOKIE_LIFE, secure)
}

/// `Set-Cookie` that removes it.
pub(crate) fn clear_cookie(secure: bool) -> HeaderValue {
    cookie("", 0, secure)
}

fn cookie(token: &str, life: u64, secure: bool) -> HeaderValue {
    let secure = if secure { "; Secure" } else { "" };
    let cookie =
        format!("{COOKIE_NAME}={token}; Path=/; Max-Age={life}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::from_str(&cookie).expect("ids are header text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_a_digest_of_the_token() {
        // printf %s token | openssl dgst -sha256 -binary | base64
        assert_eq!(session_id_of("token"), "PEaenWxYddN6Q_NT1PiOYfz4");
        assert!(is_id(&session_id_of("")));
    }

    #[test]
    fn a_token_is_found_among_cookies() {
        let table = [
            (&["chat_session=token"][..], true),
            (&["a=b; chat_session=token"], true),
            (&["a=b", "chat_session=token; c=d"], true),
            (&["chat_session=not an id", "chat_session=token"], true),
            (&["chat_session="], false),
            (&["xchat_session=token"], false),
            (&["chat_session"], false),
            (&[], false),
        ];
        for (cookies, found) in table {
            let mut headers = HeaderMap::new();
            for cookie in cookies {
                headers.append(COOKIE, cookie.parse().unwrap());
            }
            let expected = found.then(|| session_id_of("token"));
            assert_eq!(session_id(&headers), expected, "{cookies:?}");
        }
    }

    #[test]
    fn a_cookie_has_its_attributes() {
        assert_eq!(
            set_cookie("t", false),
            "chat_session=t; Path=/; Max-Age=34560000; HttpOnly; SameSite=Lax"
        );
        assert_eq!(
            clear_cookie(true),
            "chat_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax; Secure"
        );
    }
}
