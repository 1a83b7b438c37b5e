//! The broadcast message of `@socket.io/redis-adapter` 8, written and read:
//! MessagePack `[uid, {type, data, nsp}, {rooms, except, flags}]`. Pure.
//!
//! Reading is in steps, so that a message costs no more than it is worth: whose
//! it is ([`uid`]), for whom ([`Header::read`]), and the packet itself
//! ([`Header::packet`]) only when some local socket wants it.

use std::borrow::Cow;
use std::collections::VecDeque;

use bytes::Bytes;
use rmp::encode::{write_array_len, write_bool, write_map_len, write_str, write_uint};
use socketioxide_core::adapter::Room;
use socketioxide_core::packet::{Packet, PacketData};
use socketioxide_core::{Str, Value};

use crate::msgpack::{DecodeError, Reader, Token};
use crate::payload;

/// The largest message that is sent or accepted, in bytes. Sixteen times what a
/// client may send by default, and small enough that a few of them do no harm.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Rooms of one message, in each list: bounds what a small message of short
/// names can grow to in memory.
pub(crate) const MAX_ROOMS: u32 = 65_536;

/// Socket.IO's packet type of an event, and of one whose attachments JavaScript
/// found before it encoded it (older emitters).
const EVENT: u64 = 2;
const BINARY_EVENT: u64 = 5;

/// Why a packet cannot be put on the wire.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Only events are broadcast, and only the common parser's are JSON text.
    #[error("not an event of the common parser")]
    NotAnEvent,
    /// The packet's JSON text is broken or nests deeper than 127 levels.
    #[error("the packet's JSON cannot be read")]
    Json(#[source] serde_json::Error),
    /// A name or list longer than MessagePack allows.
    #[error("the message cannot be written")]
    Write(#[from] rmp::encode::ValueWriteError),
    /// The message would exceed [`MAX_MESSAGE`].
    #[error("the message is larger than {MAX_MESSAGE} bytes")]
    TooLarge,
}

/// Writes a broadcast. `rooms` empty means everyone in the packet's namespace.
pub fn encode(
    uid: &str,
    packet: &Packet,
    rooms: &[impl AsRef<str>],
    except: &[impl AsRef<str>],
    volatile: bool,
) -> Result<Bytes, EncodeError> {
    let (json, attachments) = json_of(packet).ok_or(EncodeError::NotAnEvent)?;
    let binary: usize = attachments.into_iter().flatten().map(Bytes::len).sum();
    if json.len() + binary > MAX_MESSAGE {
        return Err(EncodeError::TooLarge);
    }
    let mut out = Vec::with_capacity(json.len() + binary + 128);
    write_array_len(&mut out, 3)?;
    write_str(&mut out, uid)?;

    write_packet(&mut out, &packet.ns, json, attachments)?;

    write_map_len(&mut out, 3)?;
    write_names(&mut out, "rooms", rooms)?;
    write_names(&mut out, "except", except)?;
    write_str(&mut out, "flags")?;
    write_map_len(&mut out, volatile.into())?;
    if volatile {
        write_str(&mut out, "volatile")?;
        write_bool(&mut out, true).map_err(rmp::encode::ValueWriteError::InvalidMarkerWrite)?;
    }
    if out.len() > MAX_MESSAGE {
        return Err(EncodeError::TooLarge);
    }
    Ok(out.into())
}

/// Writes an event, as [`json_of`] has it, as `{type, data, nsp}`.
pub(crate) fn write_packet(
    out: &mut Vec<u8>,
    namespace: &str,
    json: &str,
    attachments: Option<&VecDeque<Bytes>>,
) -> Result<(), EncodeError> {
    write_map_len(out, 3)?;
    write_str(out, "type")?;
    // JavaScript too writes 2 when there are attachments: its parser finds them later.
    write_uint(out, EVENT)?;
    write_str(out, "data")?;
    payload::json_to_msgpack(json, attachments, out).map_err(EncodeError::Json)?;
    write_str(out, "nsp")?;
    Ok(write_str(out, namespace)?)
}

pub(crate) fn write_names(
    out: &mut Vec<u8>,
    key: &str,
    names: &[impl AsRef<str>],
) -> Result<(), rmp::encode::ValueWriteError> {
    write_str(out, key)?;
    // More than MAX_ROOMS does not fit MAX_MESSAGE or is refused by the reader.
    write_array_len(out, u32::try_from(names.len()).unwrap_or(u32::MAX))?;
    names
        .iter()
        .try_for_each(|name| write_str(out, name.as_ref()))
}

/// The JSON text `["event", args...]` of an event packet of the common parser,
/// and its attachments.
pub(crate) fn json_of(packet: &Packet) -> Option<(&str, Option<&VecDeque<Bytes>>)> {
    match &packet.inner {
        PacketData::Event(Value::Str(json, attachments), _)
        | PacketData::BinaryEvent(Value::Str(json, attachments), _) => {
            Some((json, attachments.as_ref()))
        }
        _ => None,
    }
}

/// Whether it is an event without attachments that wants no acknowledgement.
pub(crate) fn is_whole_event(packet: &Packet) -> bool {
    match &packet.inner {
        PacketData::Event(Value::Str(_, attachments), None) => {
            attachments.as_ref().is_none_or(VecDeque::is_empty)
        }
        _ => false,
    }
}

/// Such an event as the Engine.IO packet that clients get: `4`, then the Socket.IO packet as the
/// common parser writes it (Socket.IO protocol 5).
pub(crate) fn engine_packet(event: &Packet) -> String {
    let json = json_of(event).map_or("", |(json, _)| json);
    match &*event.ns {
        "/" => ["42", json].concat(),
        namespace => ["42", namespace, ",", json].concat(),
    }
}

/// The sender of a broadcast: looks at its first bytes only.
pub fn uid(message: &[u8]) -> Result<&[u8], DecodeError> {
    read_uid(&mut Reader::new(message)).map(|(uid, _)| uid)
}

/// The sender, and how many values follow it.
fn read_uid<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], u32), DecodeError> {
    match (reader.token()?, reader.token()?) {
        // Later versions may append values; JavaScript's reader ignores them as well.
        (Token::Array(count @ 3..), Token::Str(uid)) => Ok((uid, count - 1)),
        _ => Err(DecodeError::Unexpected("the sender")),
    }
}

/// Whom a broadcast is for, with its packet not read yet.
#[derive(Debug)]
pub struct Header {
    /// The rooms; none means everyone in the namespace.
    pub rooms: Vec<Room>,
    /// The rooms whose members do not get it.
    pub except: Vec<Room>,
    /// Clients that are not ready may be passed over.
    pub volatile: bool,
    message: Bytes,
    packet: Bytes,
}

impl Header {
    /// Reads all but the packet.
    pub fn read(message: &Bytes) -> Result<Self, DecodeError> {
        if message.len() > MAX_MESSAGE {
            return Err(DecodeError::TooMany("bytes"));
        }
        let mut reader = Reader::new(message);
        let (_, values) = read_uid(&mut reader)?;
        let packet = message.slice_ref(reader.skip()?);
        let mut header = Self {
            rooms: Vec::new(),
            except: Vec::new(),
            volatile: false,
            message: message.clone(),
            packet,
        };
        let Token::Map(count) = reader.token()? else {
            return Err(DecodeError::Unexpected("the options"));
        };
        for _ in 0..count {
            match reader.token()? {
                Token::Str(b"rooms") => header.rooms = read_names(&mut reader)?,
                Token::Str(b"except") => header.except = read_names(&mut reader)?,
                Token::Str(b"flags") => header.volatile = read_volatile(&mut reader)?,
                Token::Str(_) => drop(reader.skip()?),
                _ => return Err(DecodeError::Unexpected("an option")),
            }
        }
        for _ in 2..values {
            reader.skip()?;
        }
        reader.finish()?;
        Ok(header)
    }

    /// Reads the packet: an event, whose namespace is `/` unless it says otherwise.
    pub fn packet(&self) -> Result<Packet, DecodeError> {
        let mut reader = Reader::new(&self.packet);
        let Token::Map(count) = reader.token()? else {
            return Err(DecodeError::Unexpected("the packet"));
        };
        let mut namespace = Str::from("/");
        let mut data = None;
        let mut is_event = false;
        for _ in 0..count {
            match reader.token()? {
                Token::Str(b"type") => {
                    is_event = matches!(reader.token()?, Token::UInt(EVENT | BINARY_EVENT));
                }
                Token::Str(b"nsp") => {
                    namespace = Str::from(read_name(reader.token()?)?.into_owned())
                }
                Token::Str(b"data") => {
                    // `["event", ...]`: clients take nothing else as an event.
                    let mut ahead = reader;
                    let (Token::Array(1..), Token::Str(_)) = (ahead.token()?, ahead.token()?)
                    else {
                        return Err(DecodeError::Unexpected("the event"));
                    };
                    data = Some(payload::msgpack_to_json(&mut reader, &self.message)?);
                }
                Token::Str(_) => drop(reader.skip()?),
                _ => return Err(DecodeError::Unexpected("a field of the packet")),
            }
        }
        if !is_event {
            return Err(DecodeError::Unexpected("the packet's type"));
        }
        let (json, attachments) = data.ok_or(DecodeError::Unexpected("the event"))?;
        let attachments = Some(attachments).filter(|attachments| !attachments.is_empty());
        Ok(Packet::event(
            namespace,
            Value::Str(json.into(), attachments),
        ))
    }
}

fn read_names(reader: &mut Reader<'_>) -> Result<Vec<Room>, DecodeError> {
    match reader.token()? {
        Token::Nil => Ok(Vec::new()),
        Token::Array(count) if count <= MAX_ROOMS => {
            (0..count).map(|_| read_name(reader.token()?)).collect()
        }
        Token::Array(_) => Err(DecodeError::TooMany("rooms")),
        _ => Err(DecodeError::Unexpected("a list of rooms")),
    }
}

/// JavaScript allows numbers as rooms; in a channel's name they are text anyway.
fn read_name(token: Token<'_>) -> Result<Room, DecodeError> {
    match token {
        Token::Str(name) => std::str::from_utf8(name)
            .map(|name| Cow::Owned(name.to_owned()))
            .map_err(|_| DecodeError::Unexpected("a name")),
        Token::UInt(number) => Ok(Cow::Owned(number.to_string())),
        Token::Int(number) => Ok(Cow::Owned(number.to_string())),
        Token::Float(number) => Ok(Cow::Owned(number.to_string())),
        _ => Err(DecodeError::Unexpected("a name")),
    }
}

fn read_volatile(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    let count = match reader.token()? {
        Token::Nil => 0,
        Token::Map(count) => count,
        _ => return Err(DecodeError::Unexpected("the flags")),
    };
    let mut volatile = false;
    for _ in 0..count {
        match reader.token()? {
            Token::Str(b"volatile") => volatile = reader.token()? == Token::Bool(true),
            // `compress` and others are the sender's transport's business.
            Token::Str(_) => drop(reader.skip()?),
            _ => return Err(DecodeError::Unexpected("a flag")),
        }
    }
    Ok(volatile)
}
