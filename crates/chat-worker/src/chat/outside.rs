//! Events that come from outside, for a room: `{namespace, roomCode, event?, msg}`, by HTTP or on a
//! channel of Redis.

use serde::Deserialize;
use serde_json::Value;

/// The channel in Redis on which other programs publish such events.
pub const CHANNEL: &str = "livechat";

/// The event's name when none is given.
pub const DEFAULT_EVENT: &str = "MSG_TO_CLIENTS";

/// Longest room code, in characters.
pub const ROOM_CODE_MAX: usize = 256;

/// Longest event name, in characters.
const EVENT_MAX: usize = 256;

/// What Socket.IO clients emit to themselves; they refuse such events.
const RESERVED: [&str; 6] = [
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
];

/// An event for the members of a room.
#[derive(Debug, Clone, PartialEq)]
pub struct OutsideEvent {
    /// The namespace, as `/rooms`.
    pub namespace: String,
    /// The room's name.
    pub room: String,
    /// The event's name.
    pub event: String,
    /// Its one argument.
    pub msg: Value,
}

#[derive(Deserialize)]
struct Fields {
    namespace: String,
    #[serde(rename = "roomCode")]
    room_code: String,
    event: Option<String>,
    // Else `null` would be a missing one.
    #[serde(default, deserialize_with = "present")]
    msg: Option<Value>,
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl OutsideEvent {
    /// Reads and checks the JSON text.
    ///
    /// # Errors
    /// What is wrong with it, for who wrote it.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let fields: Fields = serde_json::from_slice(text).map_err(|error| {
            format!("expected {{namespace, roomCode, event?, msg}} as JSON: {error}")
        })?;
        let room = room_code(&fields.room_code).ok_or_else(|| {
            format!(
                "roomCode must be 1 to {ROOM_CODE_MAX} characters, none of them a control character"
            )
        })?;
        let event = fields.event.unwrap_or_else(|| DEFAULT_EVENT.to_owned());
        let fits = (1..=EVENT_MAX).contains(&event.chars().count());
        if !fits || RESERVED.contains(&&*event) {
            return Err(format!(
                "event must be 1 to {EVENT_MAX} characters, and no name that clients keep for themselves"
            ));
        }
        Ok(Self {
            namespace: fields.namespace,
            room: room.to_owned(),
            event,
            msg: fields.msg.ok_or("msg is missing")?,
        })
    }
}

/// The room of that code, if it may be one.
pub fn room_code(code: &str) -> Option<&str> {
    let fits = (1..=ROOM_CODE_MAX).contains(&code.chars().count());
    // Names with control characters are the adapter's own.
    (fits && !code.chars().any(char::is_control)).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_read_or_refused_with_a_reason() {
        let event = |event: &str, msg| OutsideEvent {
            namespace: "/rooms".into(),
            room: "r 1#ü".into(),
            event: event.into(),
            msg,
        };
        let table = [
            (json!({}), Ok(event(DEFAULT_EVENT, json!("hi")))),
            (json!({"event": "note"}), Ok(event("note", json!("hi")))),
            (
                json!({"event": null}),
                Ok(event(DEFAULT_EVENT, json!("hi"))),
            ),
            (json!({"msg": null}), Ok(event(DEFAULT_EVENT, json!(null)))),
            (
                json!({"msg": {"a": [1]}}),
                Ok(event(DEFAULT_EVENT, json!({"a": [1]}))),
            ),
            (json!({"more": 1}), Ok(event(DEFAULT_EVENT, json!("hi")))),
            (json!({"event": ""}), Err("event")),
            (json!({"event": "disconnect"}), Err("event")),
            (json!({"event": "x".repeat(257)}), Err("event")),
            (json!({"roomCode": ""}), Err("roomCode")),
            (json!({"roomCode": "a\u{0}b"}), Err("roomCode")),
            (json!({"roomCode": "x".repeat(257)}), Err("roomCode")),
            (json!({"roomCode": 5}), Err("expected")),
            (json!({"namespace": null}), Err("expected")),
        ];
        for (change, expected) in table {
            let mut fields = json!({"namespace": "/rooms", "roomCode": "r 1#ü", "msg": "hi"});
            for (name, value) in change.as_object().unwrap() {
                fields[name] = value.clone();
            }
            match (
                OutsideEvent::from_json(fields.to_string().as_bytes()),
                expected,
            ) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected),
                (Err(why), Err(beginning)) => assert!(why.starts_with(beginning), "{why}"),
                (got, _) => panic!("{change}: {got:?}"),
            }
        }
        let missing = br#"{"namespace": "/", "roomCode": "r"}"#;
        assert_eq!(
            OutsideEvent::from_json(missing),
            Err("msg is missing".to_owned())
        );
        for text in ["", "{", "[]", "5", "\"x\""] {
            assert!(OutsideEvent::from_json(text.as_bytes()).is_err(), "{text}");
        }
    }
}
