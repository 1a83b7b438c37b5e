//! Requests and responses recorded from the JavaScript adapter and emitter, read and written.

use bytes::Bytes;
use redis_adapter::broadcast::{self, Header};
use redis_adapter::request::{self, Ask, Request};
use redis_adapter::response::{self, Answer, Response};
use redis_adapter::{Ack, channel};
use serde_json::{Value as Json, json};
use socketioxide_core::Value;
use socketioxide_core::packet::{Packet, PacketData};

use crate::golden::{Vector, text, vectors_on};

/// A recorded message of any kind, read and written again.
pub(crate) fn written_by_us(vector: &Vector) -> Bytes {
    let bytes = &vector.bytes;
    if vector.channel.starts_with("socket.io-request#") {
        let Request { uid, id, ask } = Request::read(bytes).unwrap();
        return request::encode(uid.as_deref().unwrap_or("us"), id.as_deref(), &ask).unwrap();
    }
    if vector.channel.starts_with("socket.io-response#") {
        let response = Response::read(bytes).unwrap();
        return response::encode("us", &response.id, &response.answer).unwrap();
    }
    let header = Header::read(bytes).unwrap();
    let uid = std::str::from_utf8(broadcast::uid(bytes).unwrap()).unwrap();
    let (rooms, except) = (&header.rooms, &header.except);
    broadcast::encode(
        uid,
        &header.packet().unwrap(),
        rooms,
        except,
        header.volatile,
    )
    .unwrap()
}

/// Acknowledged data in the words of the file.
fn decoded_ack(ack: &Ack) -> &Json {
    assert!(ack.attachments.is_empty());
    &ack.data
}

fn event_of(packet: &Packet) -> Json {
    match &packet.inner {
        PacketData::Event(Value::Str(json, None), None) => {
            let data: Json = serde_json::from_str(json).unwrap();
            json!({"type": 2, "data": data, "nsp": packet.ns.to_string()})
        }
        other => panic!("not an event: {other:?}"),
    }
}

/// What was read, in the words of the file.
fn decoded(request: &Request) -> Json {
    let mut out = match &request.ask {
        Ask::AllRooms => json!({"type": 1}),
        Ask::Join { target, rooms } => json!({
            "type": 2, "opts": {"rooms": target.rooms, "except": target.except}, "rooms": rooms,
        }),
        Ask::Leave { target, rooms } => json!({
            "type": 3, "opts": {"rooms": target.rooms, "except": target.except}, "rooms": rooms,
        }),
        Ask::Disconnect { target, close } => json!({
            "type": 4, "opts": {"rooms": target.rooms, "except": target.except}, "close": close,
        }),
        Ask::Fetch { target } => json!({
            "type": 5, "opts": {"rooms": target.rooms, "except": target.except},
        }),
        Ask::ServerSideEmit { args } => json!({"type": 6, "data": args}),
        Ask::Broadcast {
            packet,
            target,
            timeout,
        } => json!({
            "type": 7,
            "packet": event_of(packet),
            "opts": {
                "rooms": target.rooms,
                "except": target.except,
                "flags": {"timeout": timeout.unwrap().as_millis() as u64},
            },
        }),
        other => panic!("not in the file: {other:?}"),
    };
    if let Some(uid) = &request.uid {
        out["uid"] = json!(uid);
    }
    if let Some(id) = &request.id {
        out["requestId"] = json!(id);
    }
    out
}

#[test]
fn each_request_is_read_as_it_was_meant_and_written_byte_for_byte() {
    let mut read = 0;
    for vector in vectors_on("socket.io-request#") {
        let Vector {
            what,
            channel,
            bytes,
            decoded: expected,
        } = &vector;
        assert_eq!(*channel, channel::request_channel("socket.io", "/"));
        let request = Request::read(bytes).unwrap();
        assert_eq!(decoded(&request), *expected, "{what}");
        if let Some(uid) = &request.uid {
            let written = request::encode(uid, request.id.as_deref(), &request.ask).unwrap();
            assert_eq!(written, *bytes, "{what}");
        }
        read += 1;
    }
    assert_eq!(read, 11, "the file has changed");
}

#[test]
fn each_response_is_read_as_it_was_meant_and_written_for_javascript() {
    let mut read = 0;
    for vector in vectors_on("socket.io-response#") {
        let Vector {
            what,
            bytes,
            decoded: expected,
            ..
        } = &vector;
        let response = Response::read(bytes).unwrap();
        assert_eq!(response.id, text(&expected["requestId"]), "{what}");
        assert_eq!(response.uid, None);
        match &response.answer {
            Answer::Sockets(sockets) => assert_eq!(json!(sockets), expected["sockets"]),
            Answer::Rooms(rooms) => assert_eq!(json!(rooms), expected["rooms"]),
            Answer::Emitted(Some(data)) => assert_eq!(*data, expected["data"]),
            Answer::ClientCount(count) => assert_eq!(json!(count), expected["clientCount"]),
            Answer::Acked(ack) => assert_eq!(*decoded_ack(ack), expected["packet"]),
            other => panic!("{what}: {other:?}"),
        }
        // Ours say who answers, and are otherwise the same.
        let written = response::encode("abcdef", &response.id, &response.answer).unwrap();
        let again = Response::read(&written).unwrap();
        assert_eq!(again.uid.as_deref(), Some("abcdef"));
        assert_eq!(again.answer, response.answer);
        if written[0] == b'{' {
            let mut written: Json = serde_json::from_slice(&written).unwrap();
            written.as_object_mut().unwrap().remove("uid");
            assert_eq!(written, *expected, "{what}");
        }
        read += 1;
    }
    assert_eq!(read, 5, "the file has changed");
}

#[test]
fn the_old_forms_for_one_socket_are_read() {
    let read = |text: &str| Request::read(&Bytes::copy_from_slice(text.as_bytes())).unwrap();
    let join = read(r#"{"requestId":"i","type":2,"sid":"abc","room":7}"#);
    assert!(matches!(join.ask, Ask::JoinOne { sid, room } if sid == "abc" && room == "7"));
    let leave = read(r#"{"requestId":"i","type":3,"sid":"abc","room":"r"}"#);
    assert!(matches!(leave.ask, Ask::LeaveOne { room, .. } if room == "r"));
    let disconnect = read(r#"{"requestId":"i","type":4,"sid":"abc","close":true}"#);
    assert!(matches!(
        disconnect.ask,
        Ask::DisconnectOne { close: true, .. }
    ));
    let sockets = read(r#"{"requestId":"i","type":0,"rooms":["r",1]}"#);
    assert!(matches!(sockets.ask, Ask::Sockets { rooms } if rooms == ["r", "1"]));
}

#[test]
fn what_is_no_request_and_no_response_is_refused() {
    let requests: [&[u8]; 12] = [
        b"",
        b"\x07",
        b"{",
        b"[]",
        br#"{"type":11}"#,
        br#"{"type":"1"}"#,
        br#"{"type":2,"rooms":["r"]}"#,
        br#"{"type":5}"#,
        br#"{"type":6,"data":{"0":"ping"}}"#,
        br#"{"type":7,"opts":{},"packet":{"type":2,"data":[1]}}"#,
        br#"{"type":0,"rooms":[{}]}"#,
        b"\x81\xa4type\xc1",
    ];
    for bytes in requests {
        assert!(
            Request::read(&Bytes::from_static(bytes)).is_err(),
            "{bytes:?}"
        );
    }
    let many = format!(r#"{{"type":0,"rooms":[{}""]}}"#, r#""","#.repeat(70_000));
    assert!(Request::read(&many.into()).is_err());
    let deep = format!(r#"{{"type":6,"data":{}"#, "[".repeat(100_000));
    assert!(Request::read(&deep.into()).is_err());
    let responses: [&[u8]; 4] = [
        b"{}",
        br#"{"requestId":1}"#,
        br#"{"requestId":"a","sockets":[{}]}"#,
        br#"{"requestId":"a","type":8}"#,
    ];
    for bytes in responses {
        assert!(
            Response::read(&Bytes::from_static(bytes)).is_err(),
            "{bytes:?}"
        );
    }
}

#[test]
fn no_cut_and_no_change_of_a_byte_does_harm() {
    for prefix in ["socket.io-request#", "socket.io-response#"] {
        for vector in vectors_on(prefix) {
            let read = |bytes: &[u8]| {
                let bytes = Bytes::copy_from_slice(bytes);
                // Whatever comes of it; what is still a message can be written.
                if let Ok(Request { uid, id, ask }) = Request::read(&bytes) {
                    let uid = uid.unwrap_or_default();
                    let _ = request::encode(&uid, id.as_deref(), &ask);
                }
                if let Ok(response) = Response::read(&bytes) {
                    let _ = response::encode("us", &response.id, &response.answer);
                }
            };
            for end in 0..vector.bytes.len() {
                read(&vector.bytes[..end]);
            }
            for at in 0..vector.bytes.len() {
                for change in [0x01, 0x20, 0x80, 0xff] {
                    let mut bytes = vector.bytes.to_vec();
                    bytes[at] ^= change;
                    read(&bytes);
                }
            }
        }
    }
}
