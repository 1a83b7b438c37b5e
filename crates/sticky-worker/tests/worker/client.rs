//! HTTP clients: one that speaks whole requests, and one for raw bytes.

use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::LONG;

/// A keep-alive connection.
pub(crate) struct HttpClient {
    sender: SendRequest<Full<Bytes>>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

pub(crate) const SESSION_UNKNOWN: &str = r#"{"code":1,"message":"Session ID unknown"}"#;

impl HttpClient {
    pub(crate) async fn over<T>(stream: T) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        HttpClient { sender }
    }

    pub(crate) async fn get(&mut self, uri: &str) -> Answer {
        self.send("GET", uri, "").await
    }

    pub(crate) async fn post(&mut self, uri: &str, body: impl Into<Bytes>) -> Answer {
        self.send("POST", uri, body).await
    }

    pub(crate) async fn send(&mut self, method: &str, uri: &str, body: impl Into<Bytes>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(HOST, "test")
            .header("x-test", "kept")
            .body(Full::new(body.into()))
            .unwrap();
        let response = self.sender.send_request(request);
        let response = timeout(LONG, response).await.unwrap().unwrap();
        let (parts, body) = response.into_parts();
        let body = timeout(LONG, body.collect()).await.unwrap().unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8(body.to_bytes().into()).unwrap(),
        }
    }

    /// Opens a polling session and gives its id.
    pub(crate) async fn open(&mut self) -> String {
        let answer = self.get("/socket.io/?EIO=4&transport=polling").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        sid(&answer.body).to_owned()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Resolves when the server has closed the connection.
    pub(crate) async fn closed(&self) {
        crate::until("the connection closes", || self.sender.is_closed()).await;
    }
}

impl Answer {
    pub(crate) fn is_session_unknown(&self) -> bool {
        self.status == 400
            && self.body == SESSION_UNKNOWN
            && self.headers[http::header::CONTENT_TYPE] == "application/json"
    }
}

pub(crate) fn sid(handshake: &str) -> &str {
    let rest = handshake.strip_prefix(r#"0{"sid":""#).unwrap();
    rest.split('"').next().unwrap()
}

pub(crate) fn polling(sid: &str) -> String {
    format!("/socket.io/?EIO=4&transport=polling&sid={sid}")
}

pub(crate) fn websocket(sid: Option<&str>) -> String {
    let sid = sid.map(|sid| format!("&sid={sid}")).unwrap_or_default();
    format!("/socket.io/?EIO=4&transport=websocket{sid}")
}

/// Sends a WebSocket request and gives the answer's head.
pub(crate) async fn ask_websocket<T>(stream: &mut T, uri: &str) -> String
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let head = format!(
        "GET {uri} HTTP/1.1\r\n{HOST}: test\r\n{CONNECTION}: Upgrade\r\n{UPGRADE}: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    read_head(stream).await
}

/// Reads up to the empty line and not a byte more.
pub(crate) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    let reading = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
    };
    timeout(LONG, reading).await.unwrap();
    String::from_utf8(head).unwrap()
}

pub(crate) async fn read_exactly(stream: &mut (impl AsyncRead + Unpin), length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let read = timeout(LONG, stream.read_exact(&mut bytes)).await;
    read.unwrap().unwrap();
    bytes
}

/// Resolves when the other side has closed; whatever came before is skipped.
pub(crate) async fn ended(stream: &mut (impl AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut rest)).await.unwrap();
}
