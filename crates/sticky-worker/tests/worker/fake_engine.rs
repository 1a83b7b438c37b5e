//! An application that speaks as much Engine.IO as the worker looks at. Its
//! WebSockets carry no frames: bytes come back as they are.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, UPGRADE};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use sticky_worker::{ClientAddress, ClientHandle, ClientScheme, RequestBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tower_service::Service;

type Message = mpsc::UnboundedSender<Option<String>>;

#[derive(Clone, Default)]
pub(crate) struct FakeEngine(Arc<Shared>);

#[derive(Default)]
struct Shared {
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    made: Mutex<Vec<String>>,
    closed: Mutex<Vec<String>>,
    handles: Mutex<Vec<ClientHandle>>,
    websockets_ended: Mutex<usize>,
    polls: Mutex<usize>,
    uploaded: Mutex<usize>,
    /// Handshakes wait while this is some.
    gate: Mutex<Option<Arc<Notify>>>,
}

struct Session {
    messages: Message,
    waiting: tokio::sync::Mutex<mpsc::UnboundedReceiver<Option<String>>>,
}

/// Counts a poll that waits, however it ends.
struct Waiting(Arc<Shared>);

impl Drop for Waiting {
    fn drop(&mut self) {
        *self.0.polls.lock().unwrap() -= 1;
    }
}

impl FakeEngine {
    /// The engine sids of all sessions, in order.
    pub(crate) fn made(&self) -> Vec<String> {
        self.0.made.lock().unwrap().clone()
    }

    /// The engine sids of the sessions that ended, in order.
    pub(crate) fn closed(&self) -> Vec<String> {
        self.0.closed.lock().unwrap().clone()
    }

    /// The handles of all clients, in order.
    pub(crate) fn handles(&self) -> Vec<ClientHandle> {
        self.0.handles.lock().unwrap().clone()
    }

    pub(crate) fn websockets_ended(&self) -> usize {
        *self.0.websockets_ended.lock().unwrap()
    }

    /// Polls that wait now.
    pub(crate) fn polls(&self) -> usize {
        *self.0.polls.lock().unwrap()
    }

    /// Bytes of `/upload` bodies seen so far.
    pub(crate) fn uploaded(&self) -> usize {
        *self.0.uploaded.lock().unwrap()
    }

    /// Ends a session as a server does; a waiting poll gets the close packet.
    pub(crate) fn end(&self, engine_sid: &str) {
        let session = self.0.sessions.lock().unwrap().remove(engine_sid).unwrap();
        session.messages.send(None).unwrap();
    }

    /// Handshakes wait until the gate is notified.
    pub(crate) fn hold_handshakes(&self) -> Arc<Notify> {
        let gate = Arc::new(Notify::new());
        *self.0.gate.lock().unwrap() = Some(gate.clone());
        gate
    }

    async fn answer(self, mut request: Request<RequestBody>) -> Response<Full<Bytes>> {
        let uri = request.uri().clone();
        let query = |name: &str| {
            let pairs = uri.query().unwrap_or_default().split('&');
            pairs
                .filter_map(|pair| pair.split_once('='))
                .find_map(|(key, value)| (key == name).then(|| value.to_owned()))
        };
        match uri.path() {
            "/socket.io/" => {}
            "/client" => {
                let address = request.extensions().get::<ClientAddress>().unwrap();
                let scheme = request.extensions().get::<ClientScheme>().unwrap();
                return text(200, format!("{address:?} {scheme:?}"));
            }
            path => return text(404, format!("nothing at {path}")),
        }
        if query("EIO").as_deref() != Some("4") {
            return error("5", "Unsupported protocol version");
        }
        let websocket = query("transport").as_deref() == Some("websocket");
        let Some(sid) = query("sid") else {
            if let Some(handle) = request.extensions().get::<ClientHandle>() {
                self.0.handles.lock().unwrap().push(handle.clone());
            }
            return match *request.method() {
                Method::GET if websocket => self.accept_websocket(&mut request, None),
                Method::GET => self.open().await,
                _ => error("2", "Bad handshake method"),
            };
        };
        let Some(session) = self.0.sessions.lock().unwrap().get(&sid).cloned() else {
            return error("1", "Session ID unknown");
        };
        match *request.method() {
            _ if websocket => self.accept_websocket(&mut request, Some(sid)),
            Method::GET => self.poll(&session).await,
            Method::POST => self.post(&sid, &session, request.into_body()).await,
            _ => text(400, ""),
        }
    }

    async fn open(&self) -> Response<Full<Bytes>> {
        let gate = self.0.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.notified().await;
        }
        let (messages, waiting) = mpsc::unbounded_channel();
        let session = Session {
            messages,
            waiting: waiting.into(),
        };
        let mut made = self.0.made.lock().unwrap();
        let sid = format!("engine-{}", made.len());
        made.push(sid.clone());
        self.0
            .sessions
            .lock()
            .unwrap()
            .insert(sid.clone(), session.into());
        text(
            200,
            format!(r#"0{{"sid":"{sid}","upgrades":["websocket"]}}"#),
        )
    }

    async fn poll(&self, session: &Session) -> Response<Full<Bytes>> {
        *self.0.polls.lock().unwrap() += 1;
        let _waiting = Waiting(self.0.clone());
        let Ok(mut waiting) = session.waiting.try_lock() else {
            return text(400, "");
        };
        match waiting.recv().await {
            Some(Some(message)) => text(200, message),
            _ => text(200, "1"),
        }
    }

    async fn post(
        &self,
        sid: &str,
        session: &Session,
        mut body: RequestBody,
    ) -> Response<Full<Bytes>> {
        let mut first = None;
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.unwrap().into_data() else {
                continue;
            };
            length += data.len();
            *self.0.uploaded.lock().unwrap() += data.len();
            first.get_or_insert(data);
        }
        if length == 1 && first.as_deref() == Some(b"1") {
            self.0.sessions.lock().unwrap().remove(sid);
            self.0.closed.lock().unwrap().push(sid.to_owned());
            session.messages.send(None).unwrap();
        } else {
            session.messages.send(Some(format!("4{length}"))).unwrap();
        }
        text(200, "ok")
    }

    fn accept_websocket(
        &self,
        request: &mut Request<RequestBody>,
        sid: Option<String>,
    ) -> Response<Full<Bytes>> {
        let upgrade = hyper::upgrade::on(request);
        let engine = self.clone();
        tokio::spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let mut stream = TokioIo::new(upgraded);
            let mut buffer = vec![0; 64 << 10];
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..length]).await.is_err() {
                    break;
                }
            }
            drop(stream);
            *engine.0.websockets_ended.lock().unwrap() += 1;
            if let Some(sid) = sid {
                engine.0.sessions.lock().unwrap().remove(&sid);
                engine.0.closed.lock().unwrap().push(sid);
            }
        });
        Response::builder()
            .status(101)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .body(Full::default())
            .unwrap()
    }
}

impl Service<Request<RequestBody>> for FakeEngine {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let engine = self.clone();
        Box::pin(async move { Ok(engine.answer(request).await) })
    }
}

fn text(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let body = body.into();
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "text/plain; charset=UTF-8")
        .header(CONTENT_LENGTH, body.len())
        .body(Full::new(body))
        .unwrap()
}

fn error(code: &str, message: &str) -> Response<Full<Bytes>> {
    let body = format!(r#"{{"code":"{code}","message":"{message}"}}"#);
    Response::builder()
        .status(400)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body.into()))
        .unwrap()
}
