//! Which web pages may use this server: the rules (pure), and the layer that applies them.
//!
//! Browsers let any page open a WebSocket to any host, and post a form to it, so a handshake or a
//! log-in of a page that is neither this host's own nor allowed is refused. Programs that are no
//! browsers send no `Origin`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
    CONTENT_TYPE, COOKIE, HOST, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use sticky_worker::ClientScheme;

/// A text that names no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an origin: {0:?} (expected scheme://host[:port] without a path, or *)")]
pub struct OriginError(String);

/// The pages that may use this server beside the host's own.
#[derive(Debug, Clone, Default)]
pub(crate) struct AllowedOrigins {
    any: bool,
    listed: Vec<String>,
}

impl AllowedOrigins {
    /// Reads a list of `scheme://host[:port]`; `*` allows every page.
    pub(crate) fn parse<S: AsRef<str>>(origins: &[S]) -> Result<Self, OriginError> {
        let mut allowed = Self::default();
        for origin in origins.iter().map(AsRef::as_ref) {
            if origin == "*" {
                allowed.any = true;
            } else {
                let origin = normal(origin).ok_or_else(|| OriginError(origin.into()))?;
                allowed.listed.push(origin);
            }
        }
        Ok(allowed)
    }

    /// Whether a page of `origin` may be somebody who is logged in: `*` alone is no reason.
    fn trusts(&self, origin: &str, scheme: &str, host: Option<&str>) -> bool {
        self.lists(origin)
            || host.is_some_and(|host| {
                normal(origin).is_some_and(|o| Some(o) == normal(&format!("{scheme}://{host}")))
            })
    }

    fn lists(&self, origin: &str) -> bool {
        normal(origin).is_some_and(|origin| self.listed.contains(&origin))
    }

    /// Whether a page of `origin` may open a session at `host` over `scheme`.
    fn permits(&self, origin: &str, scheme: &str, host: Option<&str>) -> bool {
        self.any || self.trusts(origin, scheme, host)
    }
}

/// An origin in lower case and without its scheme's own port, or nothing if it is none.
fn normal(origin: &str) -> Option<String> {
    let origin = origin.to_ascii_lowercase();
    let (scheme, host) = origin.split_once("://")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let valid = !scheme.is_empty()
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        && !host.is_empty()
        && host.chars().all(plain);
    let own_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let host = host.strip_suffix(own_port).unwrap_or(host);
    valid.then(|| format!("{scheme}://{host}"))
}

/// The outermost layer: answers preflights, refuses handshakes of strangers, and marks what an
/// allowed page may read.
pub(crate) async fn layer(
    State(allowed): State<Arc<AllowedOrigins>>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(origin) = request.headers().get(ORIGIN).cloned() else {
        return next.run(request).await;
    };
    // What is no text is no origin of anybody.
    let text = origin.to_str().unwrap_or("null");
    if opens_a_session(&request) {
        let host = request.headers().get(HOST);
        let host = host.and_then(|host| host.to_str().ok());
        let scheme = scheme(&request);
        if !allowed.permits(text, scheme, host) {
            tracing::debug!(origin = text, "refused a request of a foreign origin");
            let body = r#"{"code":4,"message":"Forbidden"}"#;
            let json = [(CONTENT_TYPE, "application/json")];
            return (StatusCode::FORBIDDEN, json, body).into_response();
        }
        if !allowed.trusts(text, scheme, host) {
            request.headers_mut().remove(COOKIE);
        }
    }
    let listed = allowed.lists(text);
    if !listed && !allowed.any {
        return next.run(request).await;
    }
    let preflight = request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight {
        preflight_answer(request.headers())
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if listed {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    } else {
        // Cookies for every page of the world would be somebody else's session.
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    response
}

fn preflight_answer(request: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET,HEAD,POST"),
    );
    if let Some(asked) = request.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        headers.append(
            VARY,
            HeaderValue::from_static("Access-Control-Request-Headers"),
        );
    }
    response
}

/// A handshake or a log-in. Later requests prove by their sid that they may.
fn opens_a_session(request: &Request) -> bool {
    is_handshake(request) || (request.uri().path() == "/login" && request.method() == Method::POST)
}

fn is_handshake(request: &Request) -> bool {
    let mut parameters = request.uri().query().unwrap_or_default().split('&');
    request.uri().path() == "/socket.io/"
        && request.method() != Method::OPTIONS
        && !parameters.any(|parameter| parameter.starts_with("sid="))
}

/// The scheme that the page sees. A proxy that ends TLS says so; a page cannot set that header on
/// a WebSocket, nor elsewhere without a preflight.
pub(crate) fn scheme(request: &Request) -> &'static str {
    let forwarded = request.headers().get("x-forwarded-proto");
    let https = match forwarded.and_then(|value| value.to_str().ok()) {
        Some(value) => value.split(',').next().map(str::trim) == Some("https"),
        None => request.extensions().get() == Some(&ClientScheme::Https),
    };
    if https { "https" } else { "http" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hosts_own_pages_and_allowed_ones_may_open_a_session() {
        let none = AllowedOrigins::default();
        let some =
            AllowedOrigins::parse(&["https://Chat.example", "http://b.example:8080"]).unwrap();
        let any = AllowedOrigins::parse(&["*"]).unwrap();
        let own = Some("own.example:3000");
        let table = [
            (&none, "http://own.example:3000", "http", own, true),
            (&none, "HTTP://OWN.example:3000", "http", own, true),
            (
                &none,
                "http://own.example",
                "http",
                Some("own.example:80"),
                true,
            ),
            (&none, "https://own.example:3000", "http", own, false),
            (&none, "https://own.example:3000", "https", own, true),
            (&none, "http://own.example", "http", own, false),
            (
                &none,
                "http://own.example:3000.evil.example",
                "http",
                own,
                false,
            ),
            (&none, "http://evil.example", "http", own, false),
            (&none, "null", "http", own, false),
            (&none, "http://own.example:3000", "http", None, false),
            (&some, "https://chat.example", "http", own, true),
            (&some, "https://chat.example:443", "http", own, true),
            (&some, "http://chat.example", "http", own, false),
            (&some, "http://b.example:8080", "http", own, true),
            (&some, "http://b.example", "http", own, false),
            (&any, "http://evil.example", "http", own, true),
            (&any, "null", "http", own, true),
        ];
        for (allowed, origin, scheme, host, expected) in table {
            let got = allowed.permits(origin, scheme, host);
            assert_eq!(
                got, expected,
                "{origin} at {scheme} {host:?} with {allowed:?}"
            );
        }
    }

    #[test]
    fn a_page_that_only_the_star_allows_is_nobody_who_is_logged_in() {
        let any = AllowedOrigins::parse(&["*"]).unwrap();
        let both = AllowedOrigins::parse(&["*", "https://chat.example"]).unwrap();
        let own = Some("own.example");
        assert!(any.trusts("http://own.example", "http", own));
        assert!(!any.trusts("http://evil.example", "http", own));
        assert!(!any.trusts("null", "http", own));
        assert!(both.trusts("https://chat.example", "http", own));
    }

    #[test]
    fn what_is_no_origin_is_no_setting() {
        for bad in [
            "",
            "example.com",
            "http://",
            "http://a/b",
            "http://a b",
            "://a",
            "**",
        ] {
            assert!(AllowedOrigins::parse(&[bad]).is_err(), "{bad:?}");
        }
        for good in ["*", "http://[::1]:3000", "capacitor://localhost"] {
            assert!(AllowedOrigins::parse(&[good]).is_ok(), "{good:?}");
        }
    }
}
