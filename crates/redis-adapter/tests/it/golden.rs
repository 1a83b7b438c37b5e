//! Messages recorded from the JavaScript adapter and emitter, read and written.

use bytes::Bytes;
use redis_adapter::broadcast::{self, Header};
use redis_adapter::channel;
use serde_json::{Value as Json, json};
use socketioxide_core::Value;
use socketioxide_core::packet::{Packet, PacketData};

/// A recorded message.
pub(crate) struct Vector {
    pub(crate) what: String,
    pub(crate) channel: String,
    pub(crate) bytes: Bytes,
    pub(crate) decoded: Json,
}

/// The recorded messages on channels whose names begin so.
pub(crate) fn vectors_on(prefix: &str) -> Vec<Vector> {
    let file: Json = serde_json::from_str(include_str!("../golden/js-redis-adapter.json")).unwrap();
    let vectors = file["vectors"].as_array().unwrap().iter();
    let vectors = vectors.filter(|vector| text(&vector["channel"]).starts_with(prefix));
    vectors
        .map(|vector| Vector {
            what: text(&vector["what"]).to_owned(),
            channel: text(&vector["channel"]).to_owned(),
            bytes: unhex(text(&vector["hex"])),
            decoded: vector["decoded"].clone(),
        })
        .collect()
}

/// The recorded messages on broadcast channels.
fn vectors() -> Vec<Vector> {
    let broadcasts = vectors_on("socket.io#");
    assert_eq!(broadcasts.len(), 9, "the file has changed");
    broadcasts
}

pub(crate) fn text(json: &Json) -> &str {
    json.as_str().unwrap()
}

fn unhex(hex: &str) -> Bytes {
    let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digits).collect()
}

/// The event's JSON with each attachment as JavaScript shows a buffer.
fn event(packet: &Packet) -> Json {
    let (PacketData::Event(Value::Str(json, attachments), None)
    | PacketData::BinaryEvent(Value::Str(json, attachments), None)) = &packet.inner
    else {
        panic!("not an event: {packet:?}");
    };
    let mut event = serde_json::from_str(json).unwrap();
    for (number, bytes) in attachments.iter().flatten().enumerate() {
        let placeholder = json!({"_placeholder": true, "num": number});
        let buffer = json!({"type": "Buffer", "data": bytes.to_vec()});
        replace(&mut event, &placeholder, &buffer);
    }
    event
}

fn replace(json: &mut Json, old: &Json, new: &Json) {
    if json == old {
        *json = new.clone();
    } else if let Json::Array(values) = json {
        values.iter_mut().for_each(|value| replace(value, old, new));
    } else if let Json::Object(entries) = json {
        entries
            .values_mut()
            .for_each(|value| replace(value, old, new));
    }
}

#[test]
fn each_message_is_read_as_it_was_meant() {
    for vector in vectors() {
        let [uid, packet, opts] = [0, 1, 2].map(|at| &vector.decoded[at]);
        assert_eq!(broadcast::uid(&vector.bytes).unwrap(), text(uid).as_bytes());
        let header = Header::read(&vector.bytes).unwrap();
        assert_eq!(json!(header.rooms), opts["rooms"], "{}", vector.what);
        assert_eq!(json!(header.except), opts["except"], "{}", vector.what);
        let volatile = opts["flags"]["volatile"] == json!(true);
        assert_eq!(header.volatile, volatile, "{}", vector.what);
        let read = header.packet().unwrap();
        assert_eq!(*read.ns, *text(&packet["nsp"]), "{}", vector.what);
        assert_eq!(event(&read), packet["data"], "{}", vector.what);
        let channel = match &header.rooms[..] {
            [room] => channel::room_channel("socket.io", &read.ns, room),
            _ => channel::base_channel("socket.io", &read.ns),
        };
        assert_eq!(channel, vector.channel, "{}", vector.what);
    }
}

#[test]
fn what_the_adapter_wrote_is_written_byte_for_byte() {
    let mut compared = 0;
    for vector in vectors() {
        let uid = text(&vector.decoded[0]);
        let has_flags = vector.decoded[2]["flags"] != json!({});
        // The emitter has its options in another order, and flags are not all ours.
        if uid == "emitter" || has_flags {
            continue;
        }
        let header = Header::read(&vector.bytes).unwrap();
        let packet = header.packet().unwrap();
        let written = broadcast::encode(uid, &packet, &header.rooms, &header.except, false);
        assert_eq!(written.unwrap(), vector.bytes, "{}", vector.what);
        compared += 1;
    }
    assert_eq!(compared, 5);
}

#[test]
fn every_cut_of_a_message_is_refused() {
    for vector in vectors() {
        for cut in 0..vector.bytes.len() {
            assert!(Header::read(&vector.bytes.slice(..cut)).is_err());
        }
    }
}

#[test]
fn no_change_of_a_byte_does_harm() {
    for vector in vectors() {
        for at in 0..vector.bytes.len() {
            for value in 0..=255 {
                let mut bytes = vector.bytes.to_vec();
                bytes[at] = value;
                // Whatever it says now, it is read or refused, and what is read can be written.
                if let Ok(header) = Header::read(&bytes.into())
                    && let Ok(packet) = header.packet()
                {
                    let written =
                        broadcast::encode("x", &packet, &header.rooms, &header.except, false);
                    let read = Header::read(&written.unwrap()).unwrap();
                    assert_eq!(read.rooms, header.rooms);
                    assert_eq!(event(&read.packet().unwrap()), event(&packet));
                }
            }
        }
    }
}

#[test]
fn older_emitters_numbers_and_omissions_are_understood() {
    // ["x", {type: 5, data: ["e", <ff>]}, {rooms: [7, -1], other: {}}, "more"]
    let message = Bytes::from_static(
        b"\x94\xa1x\x82\xa4type\x05\xa4data\x92\xa1e\xc4\x01\xff\x82\xa5rooms\x92\x07\xff\xa5other\x80\xa4more",
    );
    let header = Header::read(&message).unwrap();
    assert_eq!(header.rooms, ["7", "-1"]);
    assert!(header.except.is_empty() && !header.volatile);
    let packet = header.packet().unwrap();
    assert_eq!(&*packet.ns, "/");
    assert_eq!(
        event(&packet),
        json!(["e", {"type": "Buffer", "data": [255]}])
    );
}

#[test]
fn what_is_not_an_event_or_too_large_is_not_written() {
    let none: [&str; 0] = [];
    let disconnect = Packet::disconnect("/");
    assert!(broadcast::encode("x", &disconnect, &none, &none, false).is_err());
    let large = format!("[\"e\",\"{}\"]", "x".repeat(broadcast::MAX_MESSAGE));
    let large = Packet::event("/", Value::Str(large.into(), None));
    let written = broadcast::encode("x", &large, &none, &none, false);
    assert!(matches!(written, Err(broadcast::EncodeError::TooLarge)));
}
