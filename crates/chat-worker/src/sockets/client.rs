//! The client behind a socket, as the server in front of us knows it: without one (in tests, or
//! served by something else) clients are left alone.

use std::sync::Arc;

use redis_adapter::{Adapter, Outlet, WholeEvent};
use serde::Serialize;
use socketioxide::extract::{AckSender, SocketRef};
use socketioxide::handler::{FromMessageParts, Value};
use socketioxide::socket::Socket;
use socketioxide::{SendError, SocketError};
use sticky_worker::{Busy, ClientHandle, text_frame};

use super::Sockets;

/// What is smaller goes as it is, in bytes: the application's buffers have that size anyway.
const LARGE: usize = 1_024;

/// What an acknowledgement without a page has, about.
pub(super) const ACK_BYTES: usize = 100;

/// What the library's own answer to who connects to a namespace has, about.
const CONNECTED_BYTES: usize = 32;

/// The last argument of what is sent to a client, or what stands for it on its way.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Argument<'a, T> {
    Itself(&'a T),
    StandIn(String),
}

/// `value` as the last argument of a short event or acknowledgement; `bytes`: how long it is, about.
pub(super) fn argument<'a, T: Serialize>(
    socket: &Socket<Adapter>,
    value: &'a T,
    bytes: usize,
) -> Argument<'a, T> {
    match handle(socket).filter(|_| bytes >= LARGE) {
        Some(client) => match serde_json::to_vec(value) {
            Ok(json) => Argument::StandIn(client.stand_in(json.into())),
            // Who sends it finds the same.
            Err(_) => Argument::Itself(value),
        },
        None => Argument::Itself(value),
    }
}

/// The client, where it is known.
pub(super) fn handle(socket: &Socket<Adapter>) -> Option<&ClientHandle> {
    socket.req_parts().extensions.get::<ClientHandle>()
}

/// Lets the adapter know the client of a socket that has just connected to its namespace.
pub(super) fn connected(sockets: &Sockets, socket: &Arc<Socket<Adapter>>) {
    let reference = SocketRef::from(socket.clone());
    sockets.adapter.connected(&reference);
    if let Some(client) = handle(socket).cloned() {
        client.queued(CONNECTED_BYTES);
        let outlet = ClientOutlet {
            client,
            max_buffered: sockets.max_buffered,
        };
        sockets.adapter.outlet(&reference, outlet);
    }
}

/// Closes the client's transport, so that its library reconnects by itself.
pub(super) fn ask_to_return(socket: &Socket<Adapter>) {
    if let Some(client) = handle(socket) {
        client.ask_to_return();
    }
}

/// The client waits for an answer while that lives.
pub(super) fn busy(socket: &Socket<Adapter>) -> Option<Busy> {
    handle(socket).map(ClientHandle::busy)
}

/// Takes note of a packet of so many bytes, about, that was queued for a client beside broadcasts. Each
/// has to be: what is broadcast goes past the queue when nothing waits there.
pub(super) fn queued(socket: &Socket<Adapter>, bytes: usize) {
    if let Some(client) = handle(socket) {
        client.queued(bytes);
    }
}

/// How many bytes wait for a client now, about.
pub(super) fn waiting(socket: &Socket<Adapter>) -> u64 {
    handle(socket).map_or(0, ClientHandle::waiting)
}

/// The same as [`ask_to_return`] for one that does not read, and would not see that.
pub(super) fn cut(socket: &Socket<Adapter>) {
    if let Some(client) = handle(socket) {
        client.cut();
    }
}

/// Takes note of an answer of about so many bytes. A client whose queue had no room for it is sent
/// away: it would wait for that for ever.
pub(super) fn answered(socket: &Socket<Adapter>, bytes: usize, sent: Result<(), SendError>) {
    match sent {
        Ok(()) => queued(socket, bytes),
        Err(SendError::Socket(SocketError::InternalChannelFull)) => cut(socket),
        Err(_) => {}
    }
}

/// The acknowledgement of an event, if the client asked for one.
pub(super) struct Answer(Option<AckSender<Adapter>>);

impl Answer {
    pub(super) fn to(socket: &Arc<Socket<Adapter>>, value: &mut Value, ack: &Option<i64>) -> Self {
        let Ok(sender) = AckSender::from_message_parts(socket, value, ack);
        Self(ack.is_some().then_some(sender))
    }

    pub(super) fn send(self, socket: &Socket<Adapter>, answer: &impl Serialize) {
        if let Some(sender) = self.0 {
            answered(socket, ACK_BYTES, sender.send(answer));
        }
    }
}

/// The client, as the adapter may know and use it.
struct ClientOutlet {
    client: ClientHandle,
    /// Bytes that may wait for it.
    max_buffered: u64,
}

impl Outlet for ClientOutlet {
    fn queued(&self, bytes: usize) -> bool {
        self.client.queued(bytes) <= self.max_buffered
    }

    fn send_now(&self, event: &WholeEvent<'_>) -> bool {
        self.client.send_now(event.framed(text_frame))
    }

    fn overflowed(&self) {
        // What is kept of what it missed comes when it is back.
        self.client.cut();
    }
}
