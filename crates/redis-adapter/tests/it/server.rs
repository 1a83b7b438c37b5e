//! A socketioxide server with the adapter, as one process of a cluster.

use std::sync::Arc;

use http_body_util::BodyExt;
use redis_adapter::{Adapter, AdapterOptions, AdapterState, Bus, EventReceiver};
use socketioxide::SocketIo;
use socketioxide::extract::SocketRef;
use tokio::sync::mpsc;
use tower_service::Service;

use crate::client::{Client, Svc};
use crate::soon;
use crate::stub_bus::{Hub, StubBus};

pub(crate) type Socket = SocketRef<Adapter>;

pub(crate) struct Server {
    pub(crate) svc: Svc,
    pub(crate) io: SocketIo<Adapter>,
    pub(crate) state: AdapterState,
    sockets: mpsc::UnboundedReceiver<Socket>,
    gone: mpsc::UnboundedReceiver<Socket>,
}

impl Server {
    /// A server with the namespaces `/` and `/orders`.
    pub(crate) fn new(bus: Arc<dyn Bus>, events: EventReceiver) -> Self {
        Self::with(bus, events, AdapterOptions::default())
    }

    pub(crate) fn with(bus: Arc<dyn Bus>, events: EventReceiver, options: AdapterOptions) -> Self {
        let state = AdapterState::new(bus, events, options);
        let (svc, io) = SocketIo::builder()
            .with_adapter::<Adapter>(state.clone())
            // Clients of these tests may be slower than what is sent to them.
            .max_buffer_size(4096)
            .build_svc();
        let (connected, sockets) = mpsc::unbounded_channel();
        let (disconnected, gone) = mpsc::unbounded_channel();
        for namespace in ["/", "/orders"] {
            let (state, connected) = (state.clone(), connected.clone());
            let disconnected = disconnected.clone();
            io.ns(namespace, async move |socket: Socket| {
                state.connected(&socket);
                socket.on_disconnect(async move |socket: Socket| {
                    state.disconnected(socket.ns(), socket.id);
                    let _ = disconnected.send(socket);
                });
                let _ = connected.send(socket);
            });
        }
        Self {
            svc: Arc::new(move |request| {
                let mut svc = svc.clone();
                Box::pin(async move {
                    let response = svc.call(request).await.unwrap();
                    response.into_body().collect().await.unwrap().to_bytes()
                })
            }),
            io,
            state,
            sockets,
            gone,
        }
    }

    pub(crate) fn on_stub(hub: &Hub) -> (Self, Arc<StubBus>) {
        let (bus, events) = hub.bus();
        (Self::new(bus.clone(), events), bus)
    }

    /// A client in `/` and its socket.
    pub(crate) async fn client(&mut self) -> (Client, Socket) {
        self.client_in("/").await
    }

    pub(crate) async fn client_in(&mut self, namespace: &str) -> (Client, Socket) {
        let client = Client::connect(&self.svc, namespace).await;
        (client, self.socket().await)
    }

    /// A client that has joined `rooms` of `/`.
    pub(crate) async fn member(&mut self, rooms: &[&str]) -> (Client, Socket) {
        let (client, socket) = self.client().await;
        soon(self.state.join(&socket, rooms)).await.unwrap();
        (client, socket)
    }

    /// The socket that connected next.
    pub(crate) async fn socket(&mut self) -> Socket {
        soon(self.sockets.recv()).await.unwrap()
    }

    /// Waits until a socket's disconnect handler has run.
    pub(crate) async fn socket_gone(&mut self) -> Socket {
        soon(self.gone.recv()).await.unwrap()
    }

    /// Waits until socketioxide has forgotten a socket, a moment after its
    /// disconnect handler has run: its client may come back then.
    pub(crate) async fn forgotten(&self, socket: &Socket) {
        soon(async {
            while self.io.get_socket(socket.id).is_some() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// Sends `client` a mark directly and asserts that it is the next that it gets:
/// nothing else was on its way.
pub(crate) async fn assert_nothing_more(client: &mut Client, socket: &Socket) {
    socket.emit("mark", &0).unwrap();
    assert_eq!(client.json().await, r#"["mark",0]"#);
}
