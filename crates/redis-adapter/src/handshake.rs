//! What other servers are told of a socket: the shape of JavaScript's `socket.handshake`.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use http::request::Parts;
use serde::Serialize;

use crate::js_date;

/// What is told of one socket. See [`AdapterState::describe`](crate::AdapterState::describe).
#[derive(Debug, Clone)]
pub struct Description {
    /// How it came.
    pub handshake: Handshake,
    /// What the application says of it; JavaScript's `socket.data`. Default `{}`.
    pub data: serde_json::Value,
}

/// The first request of a connection, as
/// [JavaScript tells it](https://socket.io/docs/v4/server-socket-instance/#sockethandshake).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Handshake {
    /// By their names in lower case. Several of one name are one, separated by `, `.
    pub headers: BTreeMap<String, String>,
    /// When the socket connected, in the words of JavaScript's `Date`, in UTC.
    pub time: String,
    /// The client's address. socketioxide does not know it: empty, unless the application sets it.
    pub address: String,
    /// Whether it came with an `Origin`.
    pub xdomain: bool,
    /// Whether it came over TLS; false, unless the request says `https` or the application does.
    pub secure: bool,
    /// When the socket connected, in ms since the epoch.
    pub issued: u64,
    /// Path and query of the request.
    pub url: String,
    /// The query's parameters, decoded; of several of one name the last.
    pub query: BTreeMap<String, String>,
    /// What the client sent in `auth`; socketioxide shows it to the connect handler only, so this
    /// is `{}` unless the application sets it.
    pub auth: serde_json::Value,
}

impl Handshake {
    pub(crate) fn new(request: &Parts, connected: SystemTime) -> Self {
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in &request.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            headers
                .entry(name.as_str().to_owned())
                .and_modify(|known| {
                    known.push_str(", ");
                    known.push_str(&value);
                })
                .or_insert_with(|| value.into_owned());
        }
        let issued = connected.duration_since(UNIX_EPOCH).unwrap_or_default();
        let issued = u64::try_from(issued.as_millis()).unwrap_or(u64::MAX);
        let url = request.uri.path_and_query().map_or("/", |url| url.as_str());
        let query = request.uri.query().unwrap_or_default().as_bytes();
        Self {
            xdomain: headers.contains_key("origin"),
            headers,
            time: js_date::words(i64::try_from(issued).unwrap_or(i64::MAX)),
            address: String::new(),
            secure: request.uri.scheme() == Some(&http::uri::Scheme::HTTPS),
            issued,
            url: url.to_owned(),
            query: form_urlencoded::parse(query).into_owned().collect(),
            auth: serde_json::json!({}),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_has_the_shape_of_javascripts() {
        let request = http::Request::builder()
            .uri("/socket.io/?EIO=4&transport=polling&name=%C3%A9+b")
            .header("Host", "h:1")
            .header("Origin", "https://o")
            .header("x-twice", "1")
            .header("x-twice", "2")
            .body(())
            .unwrap();
        let connected = UNIX_EPOCH + Duration::from_millis(1_795_311_664_056);
        let handshake = Handshake::new(&request.into_parts().0, connected);
        let expected = serde_json::json!({
            "headers": {"host": "h:1", "origin": "https://o", "x-twice": "1, 2"},
            "time": "Sun Nov 22 2026 01:41:04 GMT+0000 (Coordinated Universal Time)",
            "address": "",
            "xdomain": true,
            "secure": false,
            "issued": 1_795_311_664_056_u64,
            "url": "/socket.io/?EIO=4&transport=polling&name=%C3%A9+b",
            "query": {"EIO": "4", "transport": "polling", "name": "é b"},
            "auth": {},
        });
        assert_eq!(serde_json::to_value(handshake).unwrap(), expected);
    }
}
