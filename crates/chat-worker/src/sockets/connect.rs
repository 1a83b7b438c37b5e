//! A socket arrives: who it is, and what is registered for it.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use redis_adapter::Adapter;
use serde_json::Value as Json;
use socketioxide::extract::TryData;
use socketioxide::handler::{
    ConnectHandler, DisconnectHandler, FromConnectParts, MessageHandler, Value,
};
use socketioxide::socket::{DisconnectReason, Socket};
use sticky_worker::ClientAddress;
use tokio::time::Instant;

use super::Sockets;
use super::authenticate::{ConnectError, Credentials, by_credentials, by_login};
use super::client::{self, busy, handle};
use super::introduction::User;
use super::lane::{Event, Kind, Lane};
use crate::store::Session;

/// A namespace whose sockets have a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entrance {
    /// Private messages: whoever gives a name, has a session, or is logged in.
    PrivateMessages,
    /// The lobby: browsers that are logged in.
    Lobby,
    /// Workspace rooms: browsers that are logged in.
    Workspaces,
}

impl Entrance {
    /// The events that a socket may send.
    fn events(self) -> &'static [(&'static str, Kind)] {
        match self {
            Entrance::PrivateMessages => &[
                ("private message", Kind::PrivateMessage),
                ("messages", Kind::Messages),
                ("users_page", Kind::UsersPage),
            ],
            Entrance::Lobby => &[("join", Kind::LobbyJoin), ("chat", Kind::LobbyChat)],
            Entrance::Workspaces => &[("application", Kind::Application)],
        }
    }

    async fn authenticate(
        self,
        sockets: &Sockets,
        socket: &Arc<Socket<Adapter>>,
        auth: &Option<Value>,
    ) -> Result<Session, ConnectError> {
        if self != Entrance::PrivateMessages {
            return by_login(sockets, socket).await;
        }
        let Ok(TryData(auth)) = TryData::<Json>::from_connect_parts(socket, auth);
        let credentials = auth.as_ref().map(Credentials::read).unwrap_or_default();
        if credentials.wants_batches {
            socket.extensions.insert(WantsBatches);
        }
        by_credentials(sockets, socket, credentials).await
    }
}

/// On a socket whose client has asked in `auth` to be told of others in batches.
#[derive(Clone)]
struct WantsBatches;

/// The connect handler of such a namespace.
#[derive(Clone)]
pub(super) struct Connect {
    pub(super) sockets: Arc<Sockets>,
    pub(super) entrance: Entrance,
}

impl ConnectHandler<Adapter, Connect> for Connect {
    /// Runs before the connection's next packet is read. Nothing here may wait.
    fn call(&self, socket: Arc<Socket<Adapter>>, _auth: Option<Value>) {
        let Some(session) = socket.extensions.remove::<Session>() else {
            // The middleware put it there; without it nobody is connected.
            return;
        };
        let client = handle(&socket).cloned();
        let wants_batches = socket.extensions.remove::<WantsBatches>().is_some();
        let lane = Lane::new(self.sockets.clone(), session, wants_batches, client);
        attach(&lane, &socket, self.entrance.events());
        match self.entrance {
            Entrance::PrivateMessages => lane.login(socket),
            Entrance::Lobby | Entrance::Workspaces => lane.enter(socket),
        }
    }

    fn call_middleware<'a>(
        &'a self,
        socket: Arc<Socket<Adapter>>,
        auth: &'a Option<Value>,
    ) -> Pin<Box<dyn Future<Output = Result<(), ConnectError>> + Send + 'a>> {
        Box::pin(async move {
            let Self { sockets, entrance } = self;
            let session = entrance.authenticate(sockets, &socket, auth).await?;
            socket.extensions.insert(session);
            Ok(())
        })
    }
}

/// Registers what every socket of a session needs, and the events that it may send.
fn attach(lane: &Arc<Lane>, socket: &Arc<Socket<Adapter>>, events: &[(&'static str, Kind)]) {
    let (sid, ns, user) = (socket.id, socket.ns(), &lane.session.user);
    tracing::debug!(client = address(socket), %sid, ns, user, "connected");
    // Before others can hear of the socket.
    socket.extensions.insert(User::of(&lane.session));
    client::connected(&lane.sockets, socket);
    // Before the store is asked whether the session has ended.
    lane.sockets.sessions.add(&lane.session.id, socket);
    for (name, kind) in events {
        let (lane, kind) = (lane.clone(), *kind);
        socket.on(*name, OnEvent { lane, kind });
    }
    socket.on_disconnect(OnDisconnect { lane: lane.clone() });
}

/// Whose it is, for the log; nothing of a client that came by a Unix socket.
pub(super) fn address(
    socket: &Socket<Adapter>,
) -> Option<tracing::field::DisplayValue<SocketAddr>> {
    let address = socket.req_parts().extensions.get::<ClientAddress>()?;
    address.0.map(tracing::field::display)
}

struct OnEvent {
    lane: Arc<Lane>,
    kind: Kind,
}

impl MessageHandler<Adapter, OnEvent> for OnEvent {
    fn call(&self, socket: Arc<Socket<Adapter>>, value: Value, ack: Option<i64>) {
        self.lane.event(Event {
            _busy: busy(&socket),
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
        tracing::debug!(client = address(&socket), %sid, ns, user = session.user, ?reason, "disconnected");
        // Out of its rooms at once: the client may come back under the same id.
        sockets.adapter.disconnected(ns, sid);
        sockets.sessions.remove(&session.id, &socket);
        remove(socket);
        self.lane.leave();
    }
}
