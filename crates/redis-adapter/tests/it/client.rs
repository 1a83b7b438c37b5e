//! A Socket.IO client that polls a server in process.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request};
use http_body_util::Full;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::soon;

/// Answers a request with its body.
pub(crate) type Svc = Arc<dyn Fn(Request<Full<Bytes>>) -> BoxFuture<'static, Bytes> + Send + Sync>;

/// Disconnects when dropped.
pub(crate) struct Client {
    svc: Svc,
    sid: String,
    received: mpsc::UnboundedReceiver<Received>,
    polling: JoinHandle<()>,
}

#[derive(Debug)]
enum Received {
    /// The text of a Socket.IO packet.
    Packet(String),
    Attachment(Vec<u8>),
}

/// An event as the client got it.
#[derive(Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) namespace: String,
    /// `["event", args...]`
    pub(crate) json: String,
    pub(crate) attachments: Vec<Vec<u8>>,
}

impl Client {
    pub(crate) async fn connect(svc: &Svc, namespace: &str) -> Self {
        let svc = svc.clone();
        let open = request(&svc, Method::GET, "", "").await;
        let open: serde_json::Value = serde_json::from_str(&open[1..]).unwrap();
        let sid = open["sid"].as_str().unwrap().to_owned();
        let (sender, received) = mpsc::unbounded_channel();
        let polling = tokio::spawn(poll(svc.clone(), sid.clone(), sender));
        let mut client = Self {
            svc,
            sid,
            received,
            polling,
        };
        client.enter(namespace).await;
        client
    }

    /// Connects to one more namespace.
    pub(crate) async fn enter(&mut self, namespace: &str) {
        self.post(&format!("40{}", prefix(namespace))).await;
        match soon(self.received.recv()).await {
            Some(Received::Packet(packet)) if packet.starts_with('0') => {}
            other => panic!("not connected to {namespace}: {other:?}"),
        }
    }

    /// Asks for nothing any more: what comes stays in the socket's queue.
    pub(crate) fn stall(&self) {
        self.polling.abort();
    }

    /// Leaves a namespace.
    pub(crate) async fn leave(&self, namespace: &str) {
        self.post(&format!("41{}", prefix(namespace))).await;
    }

    async fn post(&self, body: &str) {
        let answer = request(&self.svc, Method::POST, &self.sid, body).await;
        assert_eq!(answer, "ok");
    }

    pub(crate) async fn event(&mut self) -> Event {
        let Some(Received::Packet(packet)) = soon(self.received.recv()).await else {
            panic!("no packet");
        };
        let (kind, rest) = packet.split_at(1);
        let (count, rest) = match kind {
            "2" => (0, rest),
            "5" => {
                let (count, rest) = rest.split_once('-').unwrap();
                (count.parse().unwrap(), rest)
            }
            _ => panic!("not an event: {packet}"),
        };
        let (namespace, json) = match rest.starts_with('/') {
            true => rest.split_once(',').unwrap(),
            false => ("/", rest),
        };
        let mut attachments = Vec::new();
        while attachments.len() < count {
            match soon(self.received.recv()).await {
                Some(Received::Attachment(bytes)) => attachments.push(bytes),
                other => panic!("no attachment: {other:?}"),
            }
        }
        Event {
            namespace: namespace.to_owned(),
            json: json.to_owned(),
            attachments,
        }
    }

    /// The next event, which wants to be acknowledged: with what number, and its JSON text.
    pub(crate) async fn asked(&mut self) -> (u64, String) {
        let event = self.event().await;
        let start = event.json.find('[').unwrap();
        let (id, json) = event.json.split_at(start);
        (id.parse().unwrap(), json.to_owned())
    }

    /// Acknowledges in `/`, with the JSON text of a list.
    pub(crate) async fn acknowledge(&self, id: u64, args: &str) {
        self.post(&format!("43{id}{args}")).await;
    }

    /// The next event's JSON text.
    pub(crate) async fn json(&mut self) -> String {
        self.event().await.json
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.polling.abort();
    }
}

fn prefix(namespace: &str) -> String {
    match namespace {
        "/" => String::new(),
        _ => format!("{namespace},"),
    }
}

async fn poll(svc: Svc, sid: String, received: mpsc::UnboundedSender<Received>) {
    loop {
        let payload = request(&svc, Method::GET, &sid, "").await;
        for packet in payload.split('\u{1e}') {
            let packet = match packet.as_bytes().first() {
                Some(b'2') => {
                    request(&svc, Method::POST, &sid, "3").await;
                    continue;
                }
                Some(b'4') => Received::Packet(packet[1..].to_owned()),
                Some(b'b') => Received::Attachment(STANDARD.decode(&packet[1..]).unwrap()),
                Some(b'6') => continue,
                // Closed.
                _ => return,
            };
            if received.send(packet).is_err() {
                return;
            }
        }
    }
}

async fn request(svc: &Svc, method: Method, sid: &str, body: &str) -> String {
    let session = match sid {
        "" => String::new(),
        _ => format!("&sid={sid}"),
    };
    let request = Request::builder()
        .method(method)
        .uri(format!(
            "http://localhost/socket.io/?EIO=4&transport=polling{session}"
        ))
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap();
    String::from_utf8(svc(request).await.to_vec()).unwrap()
}
