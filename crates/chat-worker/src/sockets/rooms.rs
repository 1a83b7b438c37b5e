//! Rooms by their code: namespace `/rooms`. Who knows a room's code may join it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use common::pace::Pace;
use redis_adapter::Adapter;
use serde::Serialize;
use socketioxide::extract::{SocketRef, TryData};
use socketioxide::handler::{
    ConnectHandler, DisconnectHandler, FromMessageParts, MessageHandler, Value,
};
use socketioxide::socket::{DisconnectReason, Socket};
use tokio::time::Instant;

use super::client::{self, Answer};
use super::{Sockets, connect};
use crate::chat::outside::{ROOM_CODE_MAX, room_code};
use crate::chat::reply::{Code, Refusal};

/// The namespace of rooms by code.
pub(super) const NAMESPACE: &str = "/rooms";

/// Rooms of one socket: each costs a subscription.
const MAX_ROOMS: usize = 1_000;

/// Joins of one socket that may be under way.
const MAX_JOINING: usize = 64;

/// The connect handler of the namespace.
#[derive(Clone)]
pub(super) struct Connect(pub(super) Arc<Sockets>);

impl ConnectHandler<Adapter, Connect> for Connect {
    /// Runs before the connection's next packet is read. Nothing here may wait.
    fn call(&self, socket: Arc<Socket<Adapter>>, _auth: Option<Value>) {
        let visitor = Arc::new(Visitor {
            sockets: self.0.clone(),
            rooms: Mutex::default(),
        });
        let client = connect::address(&socket);
        tracing::debug!(client, sid = %socket.id, ns = NAMESPACE, "connected");
        client::connected(&self.0, &socket);
        for (name, action) in [("join", Action::Join), ("leave", Action::Leave)] {
            let visitor = visitor.clone();
            socket.on(name, OnEvent { visitor, action });
        }
        socket.on_disconnect(OnDisconnect(self.0.clone()));
    }
}

#[derive(Clone, Copy)]
enum Action {
    Join,
    Leave,
}

struct Visitor {
    sockets: Arc<Sockets>,
    rooms: Mutex<Rooms>,
}

/// What one socket has asked for.
#[derive(Default)]
struct Rooms {
    names: HashSet<String>,
    joining: usize,
    pace: Pace,
}

struct OnEvent {
    visitor: Arc<Visitor>,
    action: Action,
}

/// `{ok: true}`
#[derive(Serialize)]
struct Done {
    ok: bool,
}

impl MessageHandler<Adapter, OnEvent> for OnEvent {
    fn call(&self, socket: Arc<Socket<Adapter>>, mut value: Value, ack: Option<i64>) {
        let Ok(TryData(payload)) =
            TryData::<serde_json::Value>::from_message_parts(&socket, &mut value, &ack);
        let answer = Answer::to(&socket, &mut value, &ack);
        let payload = payload.unwrap_or_default();
        let code = payload.get("roomCode").and_then(|code| code.as_str());
        let Some(room) = code.and_then(room_code) else {
            let expected =
                format!("roomCode must be 1 to {ROOM_CODE_MAX} characters of plain text");
            answer.send(&socket, &Refusal::invalid(expected).ack());
            return;
        };
        let allowed = self.visitor.sockets.events;
        if !self.visitor.rooms().pace.admits(allowed, Instant::now()) {
            answer.send(&socket, &Refusal::rate_limited().ack());
            return;
        }
        let socket = SocketRef::from(socket);
        match self.action {
            Action::Join => self.visitor.join(&socket, room, answer),
            Action::Leave => self.visitor.leave(&socket, room, answer),
        }
    }
}

impl Visitor {
    fn rooms(&self) -> std::sync::MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acknowledged once the socket hears the room on every process's word.
    fn join(self: &Arc<Self>, socket: &SocketRef<Adapter>, room: &str, answer: Answer) {
        let mut rooms = self.rooms();
        let is_new = !rooms.names.contains(room);
        if (is_new && rooms.names.len() >= MAX_ROOMS) || rooms.joining >= MAX_JOINING {
            drop(rooms);
            answer.send(socket, &Refusal::rate_limited().ack());
            return;
        }
        rooms.names.insert(room.to_owned());
        rooms.joining += 1;
        drop(rooms);
        // At the call: a leave that comes next undoes it.
        let joined = self.sockets.adapter.join(socket, &[room]);
        let (visitor, socket) = (self.clone(), socket.clone());
        let room = room.to_owned();
        self.sockets.tasks.spawn(async move {
            let joined = joined.await;
            let mut rooms = visitor.rooms();
            rooms.joining -= 1;
            if joined.is_err() {
                rooms.names.remove(&room);
            }
            drop(rooms);
            match joined {
                Ok(()) => answer.send(&socket, &Done { ok: true }),
                Err(error) => {
                    tracing::debug!(%error, "a room could not be joined");
                    answer.send(&socket, &unheard().ack());
                }
            }
        });
    }

    fn leave(&self, socket: &SocketRef<Adapter>, room: &str, answer: Answer) {
        self.sockets.adapter.leave(socket, &[room]);
        self.rooms().names.remove(room);
        answer.send(socket, &Done { ok: true });
    }
}

/// The bus did not confirm a room's subscription.
pub(super) fn unheard() -> Refusal {
    Refusal {
        code: Code::Unavailable,
        message: "the server cannot hear the room just now; try again".to_owned(),
    }
}

struct OnDisconnect(Arc<Sockets>);

impl DisconnectHandler<Adapter, OnDisconnect> for OnDisconnect {
    fn call_with_defer(
        &self,
        socket: Arc<Socket<Adapter>>,
        reason: DisconnectReason,
        remove: fn(Arc<Socket<Adapter>>),
    ) {
        let client = connect::address(&socket);
        tracing::debug!(client, sid = %socket.id, ns = NAMESPACE, ?reason, "disconnected");
        self.0.adapter.disconnected(NAMESPACE, socket.id);
        remove(socket);
    }
}
