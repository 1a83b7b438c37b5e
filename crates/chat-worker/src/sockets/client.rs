//! The client behind a socket, as the server in front of us knows it: without one (in tests, or
//! served by something else) clients are left alone.

use redis_adapter::Adapter;
use serde::Serialize;
use socketioxide::socket::Socket;
use socketioxide::{SendError, SocketError};
use sticky_worker::{Busy, ClientHandle};

/// What is smaller goes as it is, in bytes: the application's buffers have that size anyway.
const LARGE: usize = 1_024;

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

/// Takes note of bytes that were queued for a client beside broadcasts; how many wait now, about.
pub(super) fn queued(socket: &Socket<Adapter>, bytes: usize) -> u64 {
    handle(socket).map_or(0, |client| client.queued(bytes))
}

/// The same as [`ask_to_return`] for one that does not read, and would not see that.
pub(super) fn cut(socket: &Socket<Adapter>) {
    if let Some(client) = handle(socket) {
        client.cut();
    }
}

/// Sends away a client whose queue had no room for an answer: it would wait for that for ever.
pub(super) fn cut_if_full(socket: &Socket<Adapter>, sent: Result<(), SendError>) {
    if let Err(SendError::Socket(SocketError::InternalChannelFull)) = sent {
        cut(socket);
    }
}
