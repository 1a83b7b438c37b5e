//! A socket arrives at the private messages, and what is registered for any socket.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use redis_adapter::Adapter;
use serde_json::Value as Json;
use socketioxide::extract::{SocketRef, TryData};
use socketioxide::handler::{
    ConnectHandler, DisconnectHandler, FromConnectParts, MessageHandler, Value,
};
use socketioxide::socket::{DisconnectReason, Socket};
use sticky_worker::{ClientAddress, ClientHandle};
use tokio::time::Instant;

use super::Sockets;
use super::authenticate::{ConnectError, Credentials, by_credentials};
use super::lane::{Event, Kind, Lane};
use crate::store::Session;

/// The connect handler of the namespace.
#[derive(Clone)]
pub(super) struct Connect(pub(super) Arc<Sockets>);

impl ConnectHandler<Adapter, Connect> for Connect {
    /// Runs before the connection's next packet is read. Nothing here may wait.
    fn call(&self, socket: Arc<Socket<Adapter>>, _auth: Option<Value>) {
        let Some(session) = socket.extensions.remove::<Session>() else {
            // The middleware put it there; without it nobody is connected.
            return;
        };
        let lane = Lane::new(self.0.clone(), session);
        let events = [
            ("private message", Kind::PrivateMessage),
            ("messages", Kind::Messages),
        ];
        attach(&lane, &socket, &events);
        lane.login(socket);
    }

    fn call_middleware<'a>(
        &'a self,
        socket: Arc<Socket<Adapter>>,
        auth: &'a Option<Value>,
    ) -> Pin<Box<dyn Future<Output = Result<(), ConnectError>> + Send + 'a>> {
        let Ok(TryData(auth)) = TryData::<Json>::from_connect_parts(&socket, auth);
        let credentials = auth.as_ref().map(Credentials::read).unwrap_or_default();
        Box::pin(async move {
            let session = by_credentials(&self.0, &socket, credentials).await?;
            socket.extensions.insert(session);
            Ok(())
        })
    }
}

/// Registers what every socket of a session needs, and the events that it may send.
pub(super) fn attach(
    lane: &Arc<Lane>,
    socket: &Arc<Socket<Adapter>>,
    events: &[(&'static str, Kind)],
) {
    let (sid, ns, user) = (socket.id, socket.ns(), &lane.session.user);
    tracing::debug!(%sid, ns, user, "connected");
    bound(&lane.sockets, socket);
    // Before the store is asked whether the session has ended.
    lane.sockets.sessions.add(&lane.session.id, socket);
    for (name, kind) in events {
        let (lane, kind) = (lane.clone(), *kind);
        socket.on(*name, OnEvent { lane, kind });
    }
    socket.on_disconnect(OnDisconnect { lane: lane.clone() });
}

/// Lets the adapter know the socket, and bounds what may wait for it.
pub(super) fn bound(sockets: &Sockets, socket: &Arc<Socket<Adapter>>) {
    let extensions = &socket.req_parts().extensions;
    let address = extensions.get::<ClientAddress>();
    let address = address.and_then(|address| address.0);
    tracing::debug!(sid = %socket.id, ns = socket.ns(), ?address, "a socket");
    let reference = SocketRef::from(socket.clone());
    sockets.adapter.connected(&reference);
    if let Some(client) = extensions.get::<ClientHandle>().cloned() {
        let (metered, max) = (client.clone(), sockets.max_buffered);
        let fits = move |bytes| metered.queued(bytes) <= max;
        sockets.adapter.meter(&reference, fits);
        // What is kept of what it missed comes when it is back.
        sockets
            .adapter
            .on_overflow(&reference, move || client.cut());
    }
}

struct OnEvent {
    lane: Arc<Lane>,
    kind: Kind,
}

impl MessageHandler<Adapter, OnEvent> for OnEvent {
    fn call(&self, socket: Arc<Socket<Adapter>>, value: Value, ack: Option<i64>) {
        self.lane.event(Event {
            socket,
            kind: self.kind,
            value,
            ack,
            arrived: Instant::now(),
            deadline: None,
        });
    }
}

struct OnDisconnect {
    lane: Arc<Lane>,
}

impl DisconnectHandler<Adapter, OnDisconnect> for OnDisconnect {
    fn call_with_defer(
        &self,
        socket: Arc<Socket<Adapter>>,
        reason: DisconnectReason,
        remove: fn(Arc<Socket<Adapter>>),
    ) {
        let Lane {
            sockets, session, ..
        } = &*self.lane;
        let (sid, ns) = (socket.id, socket.ns());
        tracing::debug!(%sid, ns, user = session.user, ?reason, "disconnected");
        // Out of its rooms at once: the client may come back under the same id.
        sockets.adapter.disconnected(ns, sid);
        sockets.sessions.remove(&session.id, &socket);
        remove(socket);
        self.lane.leave();
    }
}
