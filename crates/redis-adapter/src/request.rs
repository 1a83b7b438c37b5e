//! What servers ask each other on the request channel of a namespace, written and read as
//! `@socket.io/redis-adapter` 8 does: JSON, and MessagePack where binary may be inside. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use rmp::encode::{write_map_len, write_str, write_uint};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use socketioxide_core::adapter::{BroadcastFlags, BroadcastOptions, Room};
use socketioxide_core::packet::Packet;
use socketioxide_core::{Str, Value};

use crate::broadcast::{EncodeError, MAX_MESSAGE, json_of, write_names, write_packet};
use crate::msgpack::DecodeError;
use crate::wire::{Name, Names, Text};

/// The values of `RequestType` in JavaScript's `lib/index.ts`.
pub(crate) mod kind {
    pub(crate) const SOCKETS: u64 = 0;
    pub(crate) const ALL_ROOMS: u64 = 1;
    pub(crate) const REMOTE_JOIN: u64 = 2;
    pub(crate) const REMOTE_LEAVE: u64 = 3;
    pub(crate) const REMOTE_DISCONNECT: u64 = 4;
    pub(crate) const REMOTE_FETCH: u64 = 5;
    pub(crate) const SERVER_SIDE_EMIT: u64 = 6;
    pub(crate) const BROADCAST: u64 = 7;
    pub(crate) const BROADCAST_CLIENT_COUNT: u64 = 8;
    pub(crate) const BROADCAST_ACK: u64 = 9;
}

/// Which sockets are meant: those in any of `rooms` (none: all), but not those in any of `except`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// The rooms; none means everyone in the namespace.
    pub rooms: Vec<String>,
    /// The rooms whose members are not meant.
    pub except: Vec<String>,
}

impl Target {
    pub(crate) fn new(rooms: &[&str], except: &[&str]) -> Self {
        Self {
            rooms: owned(rooms),
            except: owned(except),
        }
    }

    /// The same for socketioxide.
    pub(crate) fn options(&self) -> BroadcastOptions {
        let mut opts = BroadcastOptions::default();
        if self.rooms.is_empty() {
            opts.add_flag(BroadcastFlags::Broadcast);
        }
        opts.rooms
            .extend(self.rooms.iter().cloned().map(Room::Owned));
        opts.except
            .extend(self.except.iter().cloned().map(Room::Owned));
        opts
    }
}

pub(crate) fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A request with who asks it.
#[derive(Debug)]
pub struct Request {
    /// The asking server; emitters have none.
    pub uid: Option<String>,
    /// What answers have to carry; none when none is wanted.
    pub id: Option<String>,
    /// What is asked.
    pub ask: Ask,
}

/// What a server asks the others to do or to tell.
#[derive(Debug)]
pub enum Ask {
    /// The ids of the sockets in `rooms`.
    Sockets {
        /// None means all sockets.
        rooms: Vec<String>,
    },
    /// All rooms that have members.
    AllRooms,
    /// That sockets join rooms.
    Join {
        /// Which sockets.
        target: Target,
        /// What they join.
        rooms: Vec<String>,
    },
    /// That one socket joins a room, and an answer (before version 6).
    JoinOne {
        /// The socket's id.
        sid: String,
        /// What it joins.
        room: String,
    },
    /// That sockets leave rooms.
    Leave {
        /// Which sockets.
        target: Target,
        /// What they leave.
        rooms: Vec<String>,
    },
    /// That one socket leaves a room, and an answer (before version 6).
    LeaveOne {
        /// The socket's id.
        sid: String,
        /// What it leaves.
        room: String,
    },
    /// That sockets are disconnected.
    Disconnect {
        /// Which sockets.
        target: Target,
        /// From all namespaces, not only this one.
        close: bool,
    },
    /// That one socket is disconnected, and an answer (before version 6).
    DisconnectOne {
        /// The socket's id.
        sid: String,
        /// From all namespaces, not only this one.
        close: bool,
    },
    /// The sockets, with what is known of them.
    Fetch {
        /// Which sockets.
        target: Target,
    },
    /// Something of the application's; an answer is wanted when the request has an id.
    ServerSideEmit {
        /// The event's name and arguments.
        args: Vec<serde_json::Value>,
    },
    /// An event for sockets, whose acknowledgements are the answers.
    Broadcast {
        /// The event, with the namespace in it.
        packet: Packet,
        /// Which sockets.
        target: Target,
        /// How long acknowledgements are waited for.
        timeout: Option<Duration>,
    },
}

#[derive(Deserialize)]
struct Wire<'a> {
    uid: Option<String>,
    #[serde(rename = "requestId")]
    id: Option<String>,
    #[serde(rename = "type")]
    kind: u64,
    opts: Option<Opts>,
    #[serde(default)]
    rooms: Names,
    room: Option<Name>,
    sid: Option<String>,
    close: Option<bool>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    packet: Option<WirePacket<'a>>,
}

#[derive(Deserialize)]
struct Opts {
    #[serde(default)]
    rooms: Names,
    #[serde(default)]
    except: Names,
    flags: Option<Flags>,
}

#[derive(Deserialize)]
struct Flags {
    /// In ms.
    timeout: Option<f64>,
}

#[derive(Deserialize)]
struct WirePacket<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    nsp: Option<String>,
}

impl Request {
    /// Reads a request in either form.
    ///
    /// # Errors
    /// When the bytes are none, or what is asked is not known.
    pub fn read(message: &Bytes) -> Result<Self, DecodeError> {
        let Text { json, attachments } = Text::read(message)?;
        let wire: Wire<'_> =
            serde_json::from_str(&json).map_err(|_| DecodeError::Unexpected("a request"))?;
        let (uid, id) = (wire.uid.clone(), wire.id.clone());
        let ask = wire.ask(attachments)?;
        Ok(Self { uid, id, ask })
    }
}

impl Wire<'_> {
    fn ask(self, attachments: VecDeque<Bytes>) -> Result<Ask, DecodeError> {
        let close = self.close.unwrap_or(false);
        let timeout = self
            .opts
            .as_ref()
            .and_then(|opts| opts.flags.as_ref()?.timeout);
        let target = self.opts.map(|opts| Target {
            rooms: opts.rooms.0,
            except: opts.except.0,
        });
        let missing = |what| move || DecodeError::Unexpected(what);
        let rooms = self.rooms.0;
        Ok(match (self.kind, target) {
            (kind::SOCKETS, _) => Ask::Sockets { rooms },
            (kind::ALL_ROOMS, _) => Ask::AllRooms,
            (kind::REMOTE_JOIN, Some(target)) => Ask::Join { target, rooms },
            (kind::REMOTE_LEAVE, Some(target)) => Ask::Leave { target, rooms },
            (kind::REMOTE_DISCONNECT, Some(target)) => Ask::Disconnect { target, close },
            (kind::REMOTE_JOIN | kind::REMOTE_LEAVE, None) => {
                let sid = self.sid.ok_or_else(missing("a socket's id"))?;
                let room = self.room.ok_or_else(missing("a room"))?.0;
                match self.kind {
                    kind::REMOTE_JOIN => Ask::JoinOne { sid, room },
                    _ => Ask::LeaveOne { sid, room },
                }
            }
            (kind::REMOTE_DISCONNECT, None) => Ask::DisconnectOne {
                sid: self.sid.ok_or_else(missing("a socket's id"))?,
                close,
            },
            (kind::REMOTE_FETCH, Some(target)) => Ask::Fetch { target },
            (kind::SERVER_SIDE_EMIT, _) => {
                let args = self.data.map(|data| serde_json::from_str(data.get()));
                let args = args.and_then(Result::ok);
                Ask::ServerSideEmit {
                    args: args.ok_or_else(missing("the arguments"))?,
                }
            }
            (kind::BROADCAST, Some(target)) => Ask::Broadcast {
                packet: self
                    .packet
                    .ok_or_else(missing("the packet"))?
                    .event(attachments)?,
                target,
                timeout: timeout.map(duration_of_ms),
            },
            _ => return Err(DecodeError::Unexpected("the request's type")),
        })
    }
}

impl WirePacket<'_> {
    /// Whatever the type says: only events are asked to be acknowledged.
    fn event(self, attachments: VecDeque<Bytes>) -> Result<Packet, DecodeError> {
        let json = self.data.get();
        let args: Vec<&RawValue> =
            serde_json::from_str(json).map_err(|_| DecodeError::Unexpected("the event"))?;
        // `["event", ...]`: clients take nothing else as an event.
        if !args.first().is_some_and(|name| name.get().starts_with('"')) {
            return Err(DecodeError::Unexpected("the event"));
        }
        let namespace = Str::from(self.nsp.unwrap_or_else(|| "/".to_owned()));
        let attachments = Some(attachments).filter(|attachments| !attachments.is_empty());
        Ok(Packet::event(
            namespace,
            Value::Str(json.to_owned().into(), attachments),
        ))
    }
}

/// Anything that is no sensible time is none at all.
fn duration_of_ms(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default()
}

#[derive(Serialize)]
struct Out<'a> {
    uid: &'a str,
    #[serde(rename = "requestId", skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "type")]
    kind: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    opts: Option<OutOpts<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rooms: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    close: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a [serde_json::Value]>,
}

#[derive(Serialize)]
struct OutOpts<'a> {
    rooms: &'a [String],
    except: &'a [String],
}

/// Writes a request in the form in which JavaScript writes it; the old forms for one socket are
/// not written any more.
///
/// # Errors
/// When it cannot be put on the wire.
pub fn encode(uid: &str, id: Option<&str>, ask: &Ask) -> Result<Bytes, EncodeError> {
    let mut out = Out {
        uid,
        id,
        kind: kind::ALL_ROOMS,
        opts: None,
        rooms: None,
        close: None,
        data: None,
    };
    fn opts(Target { rooms, except }: &Target) -> Option<OutOpts<'_>> {
        Some(OutOpts { rooms, except })
    }
    match ask {
        Ask::Sockets { rooms } => (out.kind, out.rooms) = (kind::SOCKETS, Some(&rooms[..])),
        Ask::AllRooms => {}
        Ask::Join { target, rooms } => {
            (out.kind, out.opts, out.rooms) = (kind::REMOTE_JOIN, opts(target), Some(&rooms[..]));
        }
        Ask::Leave { target, rooms } => {
            (out.kind, out.opts, out.rooms) = (kind::REMOTE_LEAVE, opts(target), Some(&rooms[..]));
        }
        Ask::Disconnect { target, close } => {
            (out.kind, out.opts, out.close) = (kind::REMOTE_DISCONNECT, opts(target), Some(*close));
        }
        Ask::Fetch { target } => (out.kind, out.opts) = (kind::REMOTE_FETCH, opts(target)),
        Ask::ServerSideEmit { args } => {
            (out.kind, out.data) = (kind::SERVER_SIDE_EMIT, Some(&args[..]));
        }
        Ask::Broadcast {
            packet,
            target,
            timeout,
        } => return encode_broadcast(uid, id, packet, target, *timeout),
        Ask::JoinOne { .. } | Ask::LeaveOne { .. } | Ask::DisconnectOne { .. } => {
            return Err(EncodeError::NotAnEvent);
        }
    }
    let json = serde_json::to_vec(&out).map_err(EncodeError::Json)?;
    bounded(json)
}

pub(crate) fn bounded(message: Vec<u8>) -> Result<Bytes, EncodeError> {
    match message.len() {
        ..=MAX_MESSAGE => Ok(message.into()),
        _ => Err(EncodeError::TooLarge),
    }
}

fn encode_broadcast(
    uid: &str,
    id: Option<&str>,
    packet: &Packet,
    target: &Target,
    timeout: Option<Duration>,
) -> Result<Bytes, EncodeError> {
    let (json, attachments) = json_of(packet).ok_or(EncodeError::NotAnEvent)?;
    let mut out = Vec::with_capacity(json.len() + 192);
    write_map_len(&mut out, 4 + u32::from(id.is_some()))?;
    write_str(&mut out, "uid")?;
    write_str(&mut out, uid)?;
    if let Some(id) = id {
        write_str(&mut out, "requestId")?;
        write_str(&mut out, id)?;
    }
    write_str(&mut out, "type")?;
    write_uint(&mut out, kind::BROADCAST)?;

    write_str(&mut out, "packet")?;
    write_packet(&mut out, &packet.ns, json, attachments)?;

    write_str(&mut out, "opts")?;
    write_map_len(&mut out, 3)?;
    write_names(&mut out, "rooms", &target.rooms)?;
    write_names(&mut out, "except", &target.except)?;
    write_str(&mut out, "flags")?;
    write_map_len(&mut out, timeout.is_some().into())?;
    if let Some(timeout) = timeout {
        write_str(&mut out, "timeout")?;
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        write_uint(&mut out, ms)?;
    }
    bounded(out)
}
