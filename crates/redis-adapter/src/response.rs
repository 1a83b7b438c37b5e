//! What servers answer each other, written and read as `@socket.io/redis-adapter` 8 does. Pure.

use std::collections::VecDeque;

use bytes::Bytes;
use rmp::encode::{write_map_len, write_str, write_uint};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::broadcast::EncodeError;
use crate::msgpack::DecodeError;
use crate::payload;
use crate::request::{bounded, kind};
use crate::wire::{Names, Text};

/// A socket of any process, JavaScript's included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RemoteSocket {
    /// Its id: 16 characters here, 20 in JavaScript.
    pub id: String,
    /// How it came, in the shape of JavaScript's `socket.handshake`; see
    /// [`Handshake`](crate::Handshake) for what this crate writes.
    #[serde(default)]
    pub handshake: serde_json::Value,
    /// The rooms that it is in, the one of its id included.
    #[serde(default, deserialize_with = "names")]
    pub rooms: Vec<String>,
    /// What its application says of it, as JavaScript's `socket.data`.
    #[serde(default)]
    pub data: serde_json::Value,
}

fn names<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Names::deserialize(deserializer).map(|names| names.0)
}

/// A client's acknowledgement. Which client's, the wire does not say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ack {
    /// The first argument of the acknowledgement, or null when it has none.
    pub data: serde_json::Value,
    /// The binary inside of `data`, where each is `{"_placeholder":true,"num":N}` with its place
    /// in this list.
    pub attachments: Vec<Bytes>,
}

/// An answer, with what it answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// The request's id.
    pub id: String,
    /// The answering process; JavaScript does not say.
    pub uid: Option<String>,
    /// What is answered.
    pub answer: Answer,
}

/// What can be answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// To [`Ask::Sockets`](crate::request::Ask::Sockets): their ids.
    Ids(Vec<String>),
    /// To [`Ask::Fetch`](crate::request::Ask::Fetch).
    Sockets(Vec<RemoteSocket>),
    /// To [`Ask::AllRooms`](crate::request::Ask::AllRooms).
    Rooms(Vec<String>),
    /// To [`Ask::JoinOne`](crate::request::Ask::JoinOne) and its like: it is done.
    Done,
    /// To [`Ask::ServerSideEmit`](crate::request::Ask::ServerSideEmit): one value, or none.
    Emitted(Option<serde_json::Value>),
    /// To [`Ask::Broadcast`](crate::request::Ask::Broadcast): how many clients were asked.
    ClientCount(u64),
    /// To [`Ask::Broadcast`](crate::request::Ask::Broadcast): what one of them acknowledged.
    Acked(Ack),
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(rename = "type")]
    kind: Option<u64>,
    #[serde(rename = "requestId")]
    id: String,
    uid: Option<String>,
    #[serde(borrow)]
    sockets: Option<&'a RawValue>,
    rooms: Option<Names>,
    data: Option<serde_json::Value>,
    #[serde(rename = "clientCount")]
    client_count: Option<u64>,
    packet: Option<serde_json::Value>,
}

impl Response {
    /// Reads an answer in either form.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn read(message: &Bytes) -> Result<Self, DecodeError> {
        let Text { json, attachments } = Text::read(message)?;
        let none = |_| DecodeError::Unexpected("a response");
        let wire: Wire<'_> = serde_json::from_str(&json).map_err(none)?;
        let answer = match (wire.kind, wire.sockets, wire.rooms) {
            (Some(kind::SERVER_SIDE_EMIT), ..) => Answer::Emitted(wire.data),
            (Some(kind::BROADCAST_CLIENT_COUNT), ..) => {
                let count = wire.client_count;
                Answer::ClientCount(count.ok_or(DecodeError::Unexpected("a number of clients"))?)
            }
            (Some(kind::BROADCAST_ACK), ..) => Answer::Acked(Ack {
                data: wire.packet.unwrap_or_default(),
                attachments: attachments.into(),
            }),
            // Ids and whole sockets are told apart by what is in the list.
            (_, Some(sockets), _) => match serde_json::from_str(sockets.get()) {
                Ok(Names(ids)) if !ids.is_empty() => Answer::Ids(ids),
                _ => Answer::Sockets(serde_json::from_str(sockets.get()).map_err(none)?),
            },
            (_, _, Some(rooms)) => Answer::Rooms(rooms.0),
            _ => Answer::Done,
        };
        Ok(Self {
            id: wire.id,
            uid: wire.uid,
            answer,
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Out<'a> {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<u64>,
    request_id: &'a str,
    uid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sockets: Option<OutSockets<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rooms: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_count: Option<u64>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum OutSockets<'a> {
    Ids(&'a [String]),
    Whole(&'a [RemoteSocket]),
}

/// Writes an answer to the request `id` of any of the JavaScript adapters, which pass over the
/// answering process's `uid`. Acknowledgements are written by [`encode_ack`].
///
/// # Errors
/// When it cannot be put on the wire.
pub fn encode(uid: &str, id: &str, answer: &Answer) -> Result<Bytes, EncodeError> {
    let mut out = Out {
        kind: None,
        request_id: id,
        uid,
        sockets: None,
        rooms: None,
        data: None,
        client_count: None,
    };
    match answer {
        Answer::Ids(ids) => out.sockets = Some(OutSockets::Ids(ids)),
        Answer::Sockets(sockets) => out.sockets = Some(OutSockets::Whole(sockets)),
        Answer::Rooms(rooms) => out.rooms = Some(rooms),
        Answer::Done => {}
        Answer::Emitted(data) => {
            (out.kind, out.data) = (Some(kind::SERVER_SIDE_EMIT), data.as_ref());
        }
        Answer::ClientCount(count) => {
            (out.kind, out.client_count) = (Some(kind::BROADCAST_CLIENT_COUNT), Some(*count));
        }
        Answer::Acked(ack) => {
            let json = serde_json::to_string(&ack.data).map_err(EncodeError::Json)?;
            let attachments = ack.attachments.clone().into();
            return encode_ack(uid, id, Some(&json), Some(&attachments));
        }
    }
    bounded(serde_json::to_vec(&out).map_err(EncodeError::Json)?)
}

/// Writes one client's acknowledgement: the JSON text of its first argument, if it has one, and
/// the attachments that the text's placeholders mean.
///
/// # Errors
/// When it cannot be put on the wire.
pub fn encode_ack(
    uid: &str,
    id: &str,
    data: Option<&str>,
    attachments: Option<&VecDeque<Bytes>>,
) -> Result<Bytes, EncodeError> {
    let mut out = Vec::with_capacity(data.map_or(0, str::len) + 64);
    write_map_len(&mut out, 3 + u32::from(data.is_some()))?;
    write_str(&mut out, "type")?;
    write_uint(&mut out, kind::BROADCAST_ACK)?;
    write_str(&mut out, "requestId")?;
    write_str(&mut out, id)?;
    write_str(&mut out, "uid")?;
    write_str(&mut out, uid)?;
    if let Some(data) = data {
        write_str(&mut out, "packet")?;
        payload::json_to_msgpack(data, attachments, &mut out).map_err(EncodeError::Json)?;
    }
    bounded(out)
}
