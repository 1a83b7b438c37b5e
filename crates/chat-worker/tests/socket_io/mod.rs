//! As much of a Socket.IO client as the tests need, over a WebSocket: shows each packet as it is.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Client {
    stream: WebSocketStream<TcpStream>,
    /// Events that came while something else was awaited.
    waiting: VecDeque<(String, Value)>,
    next_ack: u64,
    pub(crate) session: Value,
    pub(crate) users: Value,
}

impl Client {
    /// Opens the transport, and no more.
    pub(crate) async fn open(addr: SocketAddr) -> Self {
        let tcp = TcpStream::connect(addr).await.expect("it listens");
        let url = format!("ws://{addr}/socket.io/?EIO=4&transport=websocket");
        let (stream, _) = client_async(url, tcp).await.expect("an upgrade");
        let mut client = Self {
            stream,
            waiting: VecDeque::new(),
            next_ack: 0,
            session: Value::Null,
            users: Value::Null,
        };
        let open = client.packet().await.expect("an open packet");
        assert!(open.starts_with("0{"), "{open}");
        client
    }

    /// Logs in, and waits until it is done.
    pub(crate) async fn login(addr: SocketAddr, auth: Value) -> Self {
        let mut client = Self::open(addr).await;
        client.send(format!("40{auth}")).await;
        client.until_logged_in().await;
        client
    }

    pub(crate) async fn named(addr: SocketAddr, name: &str) -> Self {
        Self::login(addr, json!({"username": name})).await
    }

    /// Another socket of the same session.
    pub(crate) async fn again(&self, addr: SocketAddr) -> Self {
        Self::login(addr, json!({"sessionID": self.session["sessionID"]})).await
    }

    pub(crate) async fn until_logged_in(&mut self) {
        let connected = self.packet().await.expect("an answer");
        assert!(connected.starts_with("40{"), "{connected}");
        self.session = self.event("session").await;
        self.users = self.event("users").await;
    }

    /// The message of the `connect_error` that `auth` is answered with.
    pub(crate) async fn refused(addr: SocketAddr, auth: Value) -> String {
        let mut client = Self::open(addr).await;
        client.send(format!("40{auth}")).await;
        let packet = client.packet().await.expect("an answer");
        let error: Value = packet
            .strip_prefix("44")
            .and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_else(|| panic!("no connect error: {packet}"));
        error["message"].as_str().expect("a message").into()
    }

    pub(crate) fn user_id(&self) -> &str {
        self.session["userID"].as_str().expect("a user id")
    }

    /// What `users` said of a user.
    pub(crate) fn user(&self, id: &str) -> Option<&Value> {
        let users = self.users.as_array().expect("an array");
        users.iter().find(|user| user["userID"] == id)
    }

    pub(crate) async fn send(&mut self, packet: String) {
        self.stream
            .send(Message::text(packet))
            .await
            .expect("it reads");
    }

    pub(crate) async fn emit(&mut self, event: &str, data: Value) {
        self.send(format!("42{}", json!([event, data]))).await;
    }

    /// Emits without waiting; the number of the ack to expect.
    pub(crate) async fn ask(&mut self, event: &str, data: Value) -> u64 {
        self.next_ack += 1;
        let id = self.next_ack;
        self.send(format!("42{id}{}", json!([event, data]))).await;
        id
    }

    pub(crate) async fn call(&mut self, event: &str, data: Value) -> Value {
        let asked = self.ask(event, data).await;
        let (id, answer) = self.ack().await;
        assert_eq!(id, asked);
        answer
    }

    pub(crate) async fn message(&mut self, to: &str, id: &str, content: &str) -> Value {
        let data = json!({"to": to, "id": id, "content": content});
        self.call("private message", data).await
    }

    /// The next acknowledgement; events before it are kept for later.
    pub(crate) async fn ack(&mut self) -> (u64, Value) {
        loop {
            let packet = self.packet().await.expect("still connected");
            if let Some(rest) = packet.strip_prefix("43") {
                let digits = rest.find('[').expect("arguments");
                let args: Value = serde_json::from_str(&rest[digits..]).expect("JSON");
                return (rest[..digits].parse().expect("a number"), args[0].clone());
            }
            self.keep(&packet);
        }
    }

    /// The next event of this name; others before it are dropped.
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        loop {
            let (event, data) = self.next_event().await;
            if event == name {
                return data;
            }
        }
    }

    pub(crate) async fn next_event(&mut self) -> (String, Value) {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return event;
            }
            let packet = self.packet().await.expect("still connected");
            self.keep(&packet);
        }
    }

    /// All events of this name that came before the answer to a question asked now.
    pub(crate) async fn events_so_far(&mut self, name: &str) -> Vec<Value> {
        self.call("messages", json!({"with": "nobody"})).await;
        let waiting = std::mem::take(&mut self.waiting);
        let named = waiting.into_iter().filter(|(event, _)| event == name);
        named.map(|(_, data)| data).collect()
    }

    fn keep(&mut self, packet: &str) {
        let json = packet
            .strip_prefix("42")
            .unwrap_or_else(|| panic!("no event: {packet}"));
        let args: Vec<Value> = serde_json::from_str(json).expect("JSON");
        let name = args[0].as_str().expect("a name").to_owned();
        self.waiting
            .push_back((name, args.get(1).cloned().unwrap_or_default()));
    }

    /// The next packet that is no ping; nothing when the server closed.
    pub(crate) async fn packet(&mut self) -> Option<String> {
        // Over all, since pings would prolong it for ever.
        tokio::time::timeout(PATIENCE, self.packet_sometime())
            .await
            .expect("a packet in time")
    }

    async fn packet_sometime(&mut self) -> Option<String> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) if text == "2" => self.send("3".into()).await,
                Some(Ok(Message::Text(text))) => return Some(text.to_string()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// Closes, and reads to the end: closing over unread bytes would be a reset, which may
    /// overtake what was sent.
    pub(crate) async fn close(mut self) {
        if self.stream.close(None).await.is_ok() {
            while let Some(Ok(_)) = self.stream.next().await {}
        }
    }
}
