//! A socket arrives: who it is, and what is registered for it.

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis_adapter::Adapter;
use serde_json::Value as Json;
use socketioxide::extract::{SocketRef, TryData};
use socketioxide::handler::{
    ConnectHandler, DisconnectHandler, FromConnectParts, MessageHandler, Value,
};
use socketioxide::socket::{DisconnectReason, Socket};
use sticky_worker::{ClientAddress, ClientHandle};
use tokio::time::Instant;

use super::lane::{Event, Kind, Lane};
use super::{NAMESPACE, Sockets};
use crate::chat::identity::{random_id, username};
use crate::store::Session;

/// How long a client waits for a store that is away before it is asked to come back.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks at a store that answers with errors.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// How long after it was asked to come back a client may still be there.
const RETURN_GRACE: Duration = Duration::from_secs(5);

type ConnectError = Box<dyn Display + Send>;

/// The connect handler of the namespace.
#[derive(Clone)]
pub(super) struct Connect(Arc<Sockets>);

impl Connect {
    pub(super) fn new(sockets: Arc<Sockets>) -> Self {
        Self(sockets)
    }

    async fn authenticate(
        &self,
        socket: &Socket<Adapter>,
        auth: Credentials,
    ) -> Result<Session, ConnectError> {
        if let Some(id) = auth.session {
            match self.find_session(&id).await {
                Some(Some(session)) => return Ok(session),
                Some(None) => {}
                None => {
                    ask_to_return(socket);
                    // A `connect_error` would make the client give up for good; by the time this
                    // one is sent its transport is gone.
                    tokio::time::sleep(RETURN_GRACE).await;
                    return Err(Box::new("unavailable"));
                }
            }
        }
        let name = auth.username.as_deref().and_then(username);
        let name = name.ok_or_else(|| Box::new("invalid username") as ConnectError)?;
        let new_id = || random_id().map_err(|error| Box::new(error) as ConnectError);
        Ok(Session {
            id: new_id()?,
            user: new_id()?,
            name: name.to_owned(),
        })
    }

    /// Nothing when the store could not be asked in time.
    async fn find_session(&self, id: &str) -> Option<Option<Session>> {
        let deadline = Instant::now() + STORE_PATIENCE;
        loop {
            match self.0.store.find_session(id).await {
                Ok(found) => return Some(found),
                Err(error) if Instant::now() + RETRY_DELAY >= deadline => {
                    tracing::debug!(%error, "no session could be looked up; asking a client to come back");
                    return None;
                }
                Err(_) => tokio::time::sleep(RETRY_DELAY).await,
            }
        }
    }
}

/// Closes the client's transport, so that its library reconnects by itself.
pub(super) fn ask_to_return(socket: &Socket<Adapter>) {
    if let Some(client) = socket.req_parts().extensions.get::<ClientHandle>() {
        client.ask_to_return();
    }
}

/// Takes note of bytes that were queued for a client beside broadcasts; how many wait now, about.
pub(super) fn queued(socket: &Socket<Adapter>, bytes: usize) -> u64 {
    let client = socket.req_parts().extensions.get::<ClientHandle>();
    client.map_or(0, |client| client.queued(bytes))
}

/// The same for one that does not read, and would not see that.
pub(super) fn cut(socket: &Socket<Adapter>) {
    if let Some(client) = socket.req_parts().extensions.get::<ClientHandle>() {
        client.cut();
    }
}

/// What a client says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Credentials {
    session: Option<String>,
    username: Option<String>,
}

impl Credentials {
    /// Fields of a wrong type count as missing.
    fn read(auth: &Json) -> Self {
        let text = |field| auth.get(field).and_then(Json::as_str).map(str::to_owned);
        Self {
            session: text("sessionID"),
            username: text("username"),
        }
    }
}

impl ConnectHandler<Adapter, Connect> for Connect {
    /// Runs before the connection's next packet is read. Nothing here may wait.
    fn call(&self, socket: Arc<Socket<Adapter>>, _auth: Option<Value>) {
        let Some(session) = socket.extensions.remove::<Session>() else {
            // The middleware put it there; without it nobody is connected.
            return;
        };
        let address = socket.req_parts().extensions.get::<ClientAddress>();
        let address = address.and_then(|address| address.0);
        tracing::debug!(sid = %socket.id, user = session.user, ?address, "connected");
        let reference = SocketRef::from(socket.clone());
        self.0.adapter.connected(&reference);
        if let Some(client) = socket.req_parts().extensions.get::<ClientHandle>().cloned() {
            let (metered, max) = (client.clone(), self.0.max_buffered);
            let fits = move |bytes| metered.queued(bytes) <= max;
            self.0.adapter.meter(&reference, fits);
            // What it missed is in the store, and comes with `users`.
            self.0.adapter.on_overflow(&reference, move || client.cut());
        }
        let lane = Lane::new(self.0.clone(), session);
        for (name, kind) in [
            ("private message", Kind::PrivateMessage),
            ("messages", Kind::Messages),
        ] {
            let lane = lane.clone();
            socket.on(name, OnEvent { lane, kind });
        }
        socket.on_disconnect(OnDisconnect { lane: lane.clone() });
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
            let session = self.authenticate(&socket, credentials).await?;
            socket.extensions.insert(session);
            Ok(())
        })
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
        tracing::debug!(sid = %socket.id, user = self.lane.session.user, ?reason, "disconnected");
        // Out of its rooms at once: the client may come back under the same id.
        self.lane.sockets.adapter.disconnected(NAMESPACE, socket.id);
        remove(socket);
        self.lane.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_no_string_is_missing() {
        let table = [
            (
                json!({"sessionID": "s", "username": "u"}),
                Some("s"),
                Some("u"),
            ),
            (json!({"username": "u"}), None, Some("u")),
            (json!({"sessionID": 5, "username": ["u"]}), None, None),
            (json!("u"), None, None),
            (json!(null), None, None),
        ];
        for (auth, session, username) in table {
            let read = Credentials::read(&auth);
            assert_eq!(read.session.as_deref(), session, "{auth}");
            assert_eq!(read.username.as_deref(), username, "{auth}");
        }
    }
}
