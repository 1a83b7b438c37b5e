//! The HTTP boundary: puts the tag and the secret on session ids, takes them
//! off requests, refuses what names no session of ours, sends on what is
//! another worker's. Everything else goes to the application untouched.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::forwarded::TrustedProxies;
use common::sid_tag::{SID_LENGTH, SidTag};
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SET_COOKIE,
    TRANSFER_ENCODING,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::application::{Application, answer};
use crate::board::Board;
use crate::client_handle::{Client, ClientHandle};
use crate::client_info::{ClientAddress, ClientScheme};
use crate::departure::Departure;
use crate::engine_request::{self, HANDSHAKE, Wish, asks_websocket};
use crate::forwarded;
use crate::refusal::{Mended, Refusal, mend};
use crate::relay::Relay;
use crate::relay_line::RelayLine;
use crate::request_body::RequestBody;
use crate::response_body::{ResponseBody, Taken};
use crate::secret::Secret;
use crate::sessions::Sessions;
use crate::stream_state::StreamState;

/// The answer to a handshake has some 120 bytes; a larger one is none.
const HANDSHAKE_LIMIT: u64 = 4096;

/// A poll's answer is looked at up to this size for the close packet at its
/// end; it is in memory already.
const POLL_LIMIT: u64 = 64 << 20;

/// The Engine.IO close packet, alone or as the last of a payload.
const CLOSE: &[u8] = b"1";
const LAST_CLOSE: &[u8] = b"\x1e1";

type Answer<S> = Response<ResponseBody<<S as Application>::Body>>;

/// All that stands between hyper and the application.
pub(crate) struct SidLayer<S> {
    pub(crate) application: S,
    pub(crate) own: SidTag,
    /// The Engine.IO path without a slash at its end.
    pub(crate) path: Box<str>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) relay: Relay,
    pub(crate) upgrade_timeout: Duration,
    pub(crate) trusted_proxies: TrustedProxies,
    pub(crate) affinity_cookie: Option<String>,
    pub(crate) requests_per_connection: u32,
    pub(crate) board: Arc<Board>,
    pub(crate) departure: Departure,
}

impl<S: Application> SidLayer<S> {
    /// Answers one request that came over `stream`.
    pub(crate) async fn handle(
        &self,
        stream: &Arc<StreamState>,
        line: &RelayLine,
        mut request: Request<Incoming>,
    ) -> Answer<S> {
        let number = stream.request_seen();
        let origin = &stream.origin;
        let (headers, trusted) = (request.headers(), &self.trusted_proxies);
        let address = forwarded::address(headers, origin.peer, trusted);
        let scheme = forwarded::scheme(headers, origin.peer, origin.scheme, trusted);
        let extensions = request.extensions_mut();
        extensions.insert(ClientAddress(address));
        extensions.insert(scheme);
        let wish = engine_request::read(&request, &self.path, self.own);
        let opens = matches!(wish, Wish::OpenPolling | Wish::OpenWebsocket);
        let began = opens.then(Instant::now);
        if !opens {
            stream.settle();
        }
        let polls = match wish {
            Wish::OpenPolling => true,
            Wish::Session { websocket, .. } => !websocket,
            _ => false,
        };
        let cookie = self.cookie(opens, request.headers(), scheme);
        let mut response = self.fulfil(wish, stream, line, request).await;
        stream.settle();
        if polls {
            // As the JavaScript server: what a poll said once is never said again.
            let no_store = HeaderValue::from_static("no-store");
            response.headers_mut().insert(CACHE_CONTROL, no_store);
        }
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if upgraded || response.status() == StatusCode::OK {
            if let Some(began) = began {
                self.board.handshake(began.elapsed());
            }
            if let Some(cookie) = cookie {
                response.headers_mut().append(SET_COOKIE, cookie);
            }
        }
        let exceeded = number >= self.requests_per_connection;
        if !upgraded && (exceeded || self.departure.is_draining()) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        // Between workers it is no client's.
        if !upgraded && exceeded && !origin.relayed {
            self.board.requests_exceeded();
        }
        response
    }

    /// What tells a client that opens a session where it is, unless it knows.
    fn cookie(
        &self,
        opens: bool,
        headers: &HeaderMap,
        scheme: ClientScheme,
    ) -> Option<HeaderValue> {
        let name = self.affinity_cookie.as_deref().filter(|_| opens)?;
        let tag = self.own.encode();
        let value = std::str::from_utf8(&tag).ok()?;
        if forwarded::has_cookie(headers, name, value) {
            return None;
        }
        let secure = match scheme {
            ClientScheme::Https => "; Secure",
            ClientScheme::Http => "",
        };
        let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}");
        HeaderValue::try_from(cookie).ok()
    }

    async fn fulfil(
        &self,
        wish: Wish,
        stream: &Arc<StreamState>,
        line: &RelayLine,
        request: Request<Incoming>,
    ) -> Answer<S> {
        match wish {
            Wish::Other => {
                let request = request.map(RequestBody::incoming);
                self.application(request).await.map(ResponseBody::app)
            }
            Wish::Refused(refusal) => refusal.response(),
            Wish::OpenPolling | Wish::OpenWebsocket if self.departure.refuses_handshakes() => {
                Refusal::Unavailable.response()
            }
            Wish::OpenPolling => self.open_polling(request).await,
            Wish::OpenWebsocket => self.open_websocket(stream, request).await,
            Wish::OpenNothing => {
                let request = request.map(RequestBody::incoming);
                mend(self.application(request).await).response
            }
            Wish::Session { secret, websocket } => {
                self.in_session(secret, websocket, stream, request).await
            }
            Wish::Foreign { .. } if stream.origin.relayed => Refusal::SessionUnknown.response(),
            // Boxed: rare, and its future is large.
            Wish::Foreign { owner, websocket } => {
                let sent = self.relay.send(owner, websocket, stream, line, request);
                match Box::pin(sent).await {
                    Ok(response) => response.map(ResponseBody::Relayed),
                    Err(refusal) => refusal.response(),
                }
            }
        }
    }

    async fn open_polling(&self, mut request: Request<Incoming>) -> Answer<S> {
        let client = Arc::new(Client::polling(Secret::random()));
        self.prepare_opening(&mut request, &client);
        let request = request.map(RequestBody::incoming);
        let response = self.application(request).await;
        if response.status() != StatusCode::OK {
            return mend(response).response;
        }
        let (mut parts, body) = response.into_parts();
        let body = match ResponseBody::take_ready(body, HANDSHAKE_LIMIT) {
            Taken::Partly(body) => body,
            Taken::Whole(body) => match self.opened(&client, &body) {
                Some(body) => {
                    // Left as it was, the old length would cut the new body.
                    parts.headers.insert(CONTENT_LENGTH, body.len().into());
                    parts.headers.remove(TRANSFER_ENCODING);
                    ResponseBody::full(body)
                }
                None => ResponseBody::full(body),
            },
        };
        Response::from_parts(parts, body)
    }

    /// Enters the session into the table and gives the handshake's body with
    /// the id that the client shall use. `None` when the body is no handshake.
    fn opened(&self, client: &Arc<Client>, body: &Bytes) -> Option<Vec<u8>> {
        let secret = client.secret?;
        let engine_sid = engine_request::engine_sid(body)?;
        self.sessions.opened(client, engine_sid);
        let rest = &body[HANDSHAKE.len() + engine_sid.len()..];
        let mut tagged = Vec::with_capacity(HANDSHAKE.len() + SID_LENGTH + rest.len());
        tagged.extend_from_slice(HANDSHAKE);
        tagged.extend_from_slice(&self.own.encode());
        tagged.extend_from_slice(secret.as_str().as_bytes());
        tagged.extend_from_slice(rest);
        Some(tagged)
    }

    async fn open_websocket(
        &self,
        stream: &Arc<StreamState>,
        mut request: Request<Incoming>,
    ) -> Answer<S> {
        let client = Arc::new(Client::fresh_websocket(stream.clone()));
        self.prepare_opening(&mut request, &client);
        let request = request.map(RequestBody::incoming);
        let response = self.application(request).await;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return mend(response).response;
        }
        self.sessions.websocket_opened(&client, stream);
        response.map(ResponseBody::app)
    }

    async fn in_session(
        &self,
        secret: Secret,
        websocket: bool,
        stream: &Arc<StreamState>,
        mut request: Request<Incoming>,
    ) -> Answer<S> {
        let Some(session) = self.sessions.request(secret) else {
            return Refusal::SessionUnknown.response();
        };
        if websocket && !asks_websocket(request.headers()) {
            return Refusal::BadRequest.response();
        }
        match engine_request::with_sid(request.uri(), session.engine_sid()) {
            Some(uri) => *request.uri_mut() = uri,
            None => return Refusal::SessionUnknown.response(),
        }
        if websocket {
            // socketioxide holds this head for as long as the WebSocket lives.
            engine_request::own_headers(request.headers_mut());
        }
        let is_poll = request.method() == Method::GET && !websocket;
        let (request, closes) = match looked_at(request).await {
            Ok(both) => both,
            Err(refusal) => return refusal.response(),
        };
        let response = self.application(request).await;
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS if websocket => {
                stream.upgrade_began(self.upgrade_timeout);
                session.websocket_accepted(stream);
                response.map(ResponseBody::app)
            }
            StatusCode::OK if is_poll => {
                let (mut parts, body) = response.into_parts();
                let body = match ResponseBody::take_ready(body, POLL_LIMIT) {
                    Taken::Partly(body) => {
                        session.count_polled(None);
                        body
                    }
                    Taken::Whole(body) => {
                        let read = body.len();
                        let body = session.fill_in(body);
                        if body.len() != read {
                            parts.headers.insert(CONTENT_LENGTH, body.len().into());
                        }
                        // Nothing at all: the session ended while polling.
                        if body.is_empty() || body == CLOSE || body.ends_with(LAST_CLOSE) {
                            session.session_gone();
                        }
                        session.count_polled(Some(&body));
                        ResponseBody::full(body)
                    }
                };
                Response::from_parts(parts, body)
            }
            StatusCode::OK if closes => {
                session.session_gone();
                response.map(ResponseBody::app)
            }
            _ => {
                let Mended {
                    response,
                    session_unknown,
                } = mend(response);
                if session_unknown {
                    session.session_gone();
                }
                response
            }
        }
    }

    /// The application may keep this head for as long as the client lives.
    fn prepare_opening(&self, request: &mut Request<Incoming>, client: &Arc<Client>) {
        engine_request::own_headers(request.headers_mut());
        if let Some(uri) = engine_request::own_uri(request.uri()) {
            *request.uri_mut() = uri;
        }
        let handle = ClientHandle::new(client.clone(), &self.sessions);
        request.extensions_mut().insert(handle);
    }

    async fn application(&self, request: Request<RequestBody>) -> Response<S::Body> {
        answer(self.application.clone(), request).await
    }
}

/// Whether the request is the client's farewell: a POST of the close packet
/// and nothing else, which is why only bodies of one byte are looked at.
async fn looked_at(request: Request<Incoming>) -> Result<(Request<RequestBody>, bool), Refusal> {
    if request.method() != Method::POST || request.body().size_hint().exact() != Some(1) {
        return Ok((request.map(RequestBody::incoming), false));
    }
    let (parts, body) = request.into_parts();
    // Fails when the client is gone: nobody reads the answer.
    let body = RequestBody::incoming(body)
        .collect()
        .await
        .map_err(|_| Refusal::BadRequest)?;
    let body = body.to_bytes();
    let closes = body == CLOSE;
    let request = Request::from_parts(parts, RequestBody::full(body));
    Ok((request, closes))
}
