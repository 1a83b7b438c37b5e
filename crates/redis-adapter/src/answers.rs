//! What a namespace does when another server asks, or tells it to do something.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::value::RawValue;
use socketioxide::extract::SocketRef;
use socketioxide_core::adapter::Room;
use socketioxide_core::packet::Packet;
use socketioxide_core::{Sid, Value};

use crate::adapter::Adapter;
use crate::broadcast::EncodeError;
use crate::channel;
use crate::cluster::ServerSideEvent;
use crate::handshake::{Description, Handshake};
use crate::msgpack::DecodeError;
use crate::namespace::{HELD_ROOM, Namespace};
use crate::request::{Ask, Request, Target};
use crate::response::{self, Answer, RemoteSocket};

/// Nobody is made to wait for acknowledgements any longer, whatever they ask for.
const MAX_ACK_TIMEOUT: Duration = Duration::from_secs(600);

/// Where an answer goes.
#[derive(Clone)]
pub(crate) struct ReplyTo {
    namespace: Arc<Namespace>,
    /// The asking server, if it has said so.
    uid: Option<String>,
    id: String,
}

impl ReplyTo {
    pub(crate) fn answer(&self, answer: &Answer) -> Result<(), EncodeError> {
        let message = response::encode(&self.namespace.shared.uid, &self.id, answer)?;
        self.publish(message);
        Ok(())
    }

    /// Answers; what cannot be said is not, and the asking server finds one answer missing.
    fn answer_or_log(&self, answer: &Answer) {
        if let Err(error) = self.answer(answer) {
            let ns = &**self.namespace.path();
            tracing::warn!(ns, %error, "another server's request cannot be answered");
        }
    }

    fn publish(&self, message: Bytes) {
        let shared = &self.namespace.shared;
        let path = self.namespace.path();
        let specific = self.uid.as_deref().filter(|uid| shared.answers_to_one(uid));
        let channel = match specific {
            Some(uid) => channel::specific_response_channel(&shared.prefix, path, uid),
            None => channel::response_channel(&shared.prefix, path),
        };
        // Nobody here could do anything about one that is lost.
        drop(shared.bus.publish(channel, message));
    }
}

impl Namespace {
    /// Does what another server asks.
    pub(crate) fn on_request(self: &Arc<Self>, request: Request) -> Result<(), DecodeError> {
        let Request { uid, id, ask } = request;
        let namespace = self.clone();
        let reply = id.map(|id| ReplyTo { namespace, uid, id });
        match (ask, reply) {
            (Ask::Sockets { rooms }, Some(reply)) => {
                let except = Vec::new();
                reply.answer_or_log(&Answer::Ids(self.ids(&Target { rooms, except })));
            }
            (Ask::AllRooms, Some(reply)) => reply.answer_or_log(&Answer::Rooms(self.all_rooms())),
            (Ask::Fetch { target }, Some(reply)) => {
                let namespace = self.clone();
                // Of many sockets it takes a while.
                tokio::task::spawn_blocking(move || namespace.answer_fetch(&target, &reply));
            }
            (Ask::Join { target, rooms }, _) => {
                // Nobody waits for it; what is not confirmed in time stays wanted.
                drop(self.join_now(&self.local.sockets(target.options()), &rooms));
            }
            (Ask::Leave { target, rooms }, _) => self.leave_all(&target, &rooms),
            (Ask::Disconnect { target, close }, _) => self.disconnect_all(&target, close),
            (Ask::JoinOne { sid, room }, reply) => {
                if let Some(sid) = self.known(&sid) {
                    let subscribed = self.join_now(&[sid], &[room]);
                    tokio::spawn(async move {
                        if subscribed.await.is_ok() {
                            done(reply);
                        }
                    });
                }
            }
            (Ask::LeaveOne { sid, room }, reply) => {
                if let Some(sid) = self.known(&sid) {
                    self.leave(sid, &[room]);
                    done(reply);
                }
            }
            (Ask::DisconnectOne { sid, close }, reply) => {
                if let Some(sid) = self.known(&sid) {
                    self.disconnect(&[sid], close);
                    done(reply);
                }
            }
            (Ask::ServerSideEmit { args }, reply) => self.server_side_event(args, reply)?,
            (
                Ask::Broadcast {
                    packet,
                    target,
                    timeout,
                },
                Some(reply),
            ) => self.broadcast_for(packet, &target, timeout, reply)?,
            (
                Ask::Sockets { .. } | Ask::AllRooms | Ask::Fetch { .. } | Ask::Broadcast { .. },
                None,
            ) => {
                return Err(DecodeError::Unexpected("a request without an id"));
            }
        }
        Ok(())
    }

    // What is known here.

    fn known(&self, sid: &str) -> Option<Sid> {
        let sid: Sid = sid.parse().ok()?;
        self.socket(sid).is_some().then_some(sid)
    }

    pub(crate) fn ids(&self, target: &Target) -> Vec<String> {
        let sids = self.local.sockets(target.options());
        sids.iter().map(Sid::to_string).collect()
    }

    pub(crate) fn all_rooms(&self) -> Vec<String> {
        let everyone = Target::default().options();
        names(self.local.rooms(everyone))
    }

    /// The local sockets, with what is to be told of them.
    pub(crate) fn fetch(&self, target: &Target) -> Vec<RemoteSocket> {
        let sids = self.local.sockets(target.options());
        sids.into_iter().map(|sid| self.describe(sid)).collect()
    }

    fn describe(&self, sid: Sid) -> RemoteSocket {
        let rooms = names(self.local.socket_rooms(sid));
        let id = sid.to_string();
        let Some((socket, connected)) = self.socket(sid) else {
            // Just gone, or never introduced.
            return RemoteSocket {
                id,
                handshake: serde_json::Value::Null,
                rooms,
                data: serde_json::json!({}),
            };
        };
        let mut description = Description {
            handshake: Handshake::new(socket.req_parts(), connected),
            data: serde_json::json!({}),
        };
        if let Some(describe) = self.shared.describe() {
            describe(&socket, &mut description);
        }
        RemoteSocket {
            id,
            // A struct of texts and numbers is always JSON.
            handshake: serde_json::to_value(description.handshake).unwrap_or_default(),
            rooms,
            data: description.data,
        }
    }

    fn answer_fetch(&self, target: &Target, reply: &ReplyTo) {
        let mut sockets = self.fetch(target);
        match reply.answer(&Answer::Sockets(sockets.clone())) {
            Err(EncodeError::TooLarge) => {
                // Who they are is worth more than how they came.
                for socket in &mut sockets {
                    socket.handshake = serde_json::Value::Null;
                }
                reply.answer_or_log(&Answer::Sockets(sockets));
            }
            Err(error) => tracing::warn!(%error, "another server's request cannot be answered"),
            Ok(()) => {}
        }
    }

    // What is done.

    pub(crate) fn leave_all(&self, target: &Target, rooms: &[String]) {
        for sid in self.local.sockets(target.options()) {
            self.leave(sid, rooms);
        }
    }

    pub(crate) fn disconnect_all(&self, target: &Target, close: bool) {
        self.disconnect(&self.local.sockets(target.options()), close);
    }

    fn disconnect(&self, sids: &[Sid], close: bool) {
        for sid in sids {
            let sockets: Vec<SocketRef<Adapter>> = match close {
                true => self.shared.sockets_of(*sid),
                false => self
                    .socket(*sid)
                    .map(|(socket, _)| socket)
                    .into_iter()
                    .collect(),
            };
            for socket in sockets {
                let overflow = socket.clone();
                if socket.disconnect().is_err() {
                    // Its queue is full: it cannot be told.
                    self.shared.overflow(&overflow);
                }
            }
        }
    }

    fn server_side_event(
        self: &Arc<Self>,
        mut args: Vec<serde_json::Value>,
        reply: Option<ReplyTo>,
    ) -> Result<(), DecodeError> {
        if args.is_empty() {
            return Err(DecodeError::Unexpected("an event without a name"));
        }
        let serde_json::Value::String(event) = args.remove(0) else {
            return Err(DecodeError::Unexpected("the event's name"));
        };
        // Without a handler it is dropped, which answers.
        let event = ServerSideEvent::new(self.path().to_string(), event, args, reply);
        if let Some(handler) = self.shared.server_side_handler(self.path()) {
            handler(event);
        }
        Ok(())
    }

    /// Asks the local sockets that are meant for acknowledgements, and passes them on.
    fn broadcast_for(
        self: &Arc<Self>,
        packet: Packet,
        target: &Target,
        timeout: Option<Duration>,
        reply: ReplyTo,
    ) -> Result<(), DecodeError> {
        if *packet.ns != **self.path() {
            return Err(DecodeError::Unexpected("the namespace"));
        }
        let timeout = timeout.unwrap_or_else(|| self.local.ack_timeout());
        let timeout = Some(timeout.min(MAX_ACK_TIMEOUT));
        let (acks, count) = self.deliver_with_ack(packet, target.options(), timeout);
        reply.answer_or_log(&Answer::ClientCount(count.into()));
        if count == 0 {
            return Ok(());
        }
        tokio::spawn(async move {
            let mut acks = std::pin::pin!(acks);
            while let Some((_, ack)) = acks.next().await {
                // One that did not come is not told: who asked knows how many there are to be.
                let Ok(ack) = ack else { continue };
                let message = first_argument(&ack).and_then(|(data, attachments)| {
                    let uid = &reply.namespace.shared.uid;
                    response::encode_ack(uid, &reply.id, data, attachments)
                });
                match message {
                    Ok(message) => reply.publish(message),
                    Err(error) => tracing::debug!(%error, "an acknowledgement cannot be passed on"),
                }
            }
        });
        Ok(())
    }

    // Sockets by their ids.

    pub(crate) fn introduce(&self, socket: &SocketRef<Adapter>) {
        self.sockets()
            .insert(socket.id, (socket.clone(), SystemTime::now()));
    }

    pub(crate) fn socket(&self, sid: Sid) -> Option<(SocketRef<Adapter>, SystemTime)> {
        self.sockets().get(&sid).cloned()
    }
}

/// The JSON text of an acknowledgement's first argument, the only one that goes over the wire,
/// and the attachments.
pub(crate) fn first_argument(
    ack: &Value,
) -> Result<(Option<&str>, Option<&std::collections::VecDeque<Bytes>>), EncodeError> {
    let Value::Str(json, attachments) = ack else {
        return Err(EncodeError::NotAnEvent);
    };
    let args: Vec<&RawValue> = serde_json::from_str(json).map_err(EncodeError::Json)?;
    Ok((args.first().map(|data| data.get()), attachments.as_ref()))
}

fn done(reply: Option<ReplyTo>) {
    if let Some(reply) = reply {
        reply.answer_or_log(&Answer::Done);
    }
}

fn names(rooms: impl IntoIterator<Item = Room>) -> Vec<String> {
    let rooms = rooms.into_iter().filter(|room| *room != HELD_ROOM);
    let mut names: Vec<String> = rooms.map(Room::into_owned).collect();
    names.sort();
    names
}
