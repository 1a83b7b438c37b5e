//! A private message: what a client may send, what is stored, and how a stored one is read.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::identity::is_id;
use super::reply::Refusal;

/// A message as it is stored and shown: `{id, content, from, to, at}`.
///
/// An entry that a Node server stored has no `id` and no `at`, and its content may be any JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Unique for its sender; made by the client, or by the server when the client gave none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The text.
    pub content: Value,
    /// The sender's user id.
    pub from: String,
    /// The recipient's user id.
    pub to: String,
    /// When it was stored, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
}

/// What a message has as JSON beside its content, about.
const FIELDS_BYTES: usize = 150;

impl Message {
    /// How long it is as JSON, about: in bytes, without what has to be escaped.
    pub fn about_bytes(&self) -> usize {
        let content = match &self.content {
            Value::String(text) => text.len(),
            // Of another program.
            other => other.to_string().len(),
        };
        content + FIELDS_BYTES
    }

    /// The message in a list's entry, or `None` for an entry that is no message: other programs
    /// write to these lists too.
    pub fn from_entry(entry: &[u8]) -> Option<Self> {
        serde_json::from_slice(entry).ok()
    }

    /// The other side of the conversation, seen by `user`.
    pub fn peer_of(&self, user: &str) -> &str {
        peer(user, &self.from, &self.to)
    }
}

/// The other side of a message from one to another, seen by `user`.
pub fn peer<'a>(user: &str, from: &'a str, to: &'a str) -> &'a str {
    if from == user { to } else { from }
}

/// A valid message that is not stored yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// Unique for its sender.
    pub id: String,
    /// The text.
    pub content: String,
    /// The sender's user id.
    pub from: String,
    /// The recipient's user id.
    pub to: String,
}

impl NewMessage {
    /// Whose history it is in: the sender's first, and the recipient's unless that is the same.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        let to_another = (self.to != self.from).then_some(&*self.to);
        std::iter::once(&*self.from).chain(to_another)
    }

    /// The stored form, with the time at which it was stored.
    pub fn stored(self, at: u64) -> Message {
        Message {
            id: Some(self.id),
            content: Value::String(self.content),
            from: self.from,
            to: self.to,
            at: Some(at),
        }
    }
}

/// What the client sent with `private message`, checked: `{content, to, id?}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The text.
    pub content: String,
    /// The recipient's user id.
    pub to: String,
    /// The client's id for it, if it gave one.
    pub id: Option<String>,
}

impl Draft {
    /// Checks the payload. `message_max` is the largest content in bytes.
    ///
    /// # Errors
    /// The refusal to acknowledge the event with.
    pub fn from_payload(payload: Value, message_max: usize) -> Result<Self, Refusal> {
        let Value::Object(mut fields) = payload else {
            return Err(Refusal::invalid("expected {content, to, id?}"));
        };
        let Some(Value::String(content)) = fields.remove("content") else {
            return Err(Refusal::invalid("content must be a string"));
        };
        if content.len() > message_max {
            return Err(Refusal::too_large(message_max));
        }
        let to = match fields.remove("to") {
            Some(Value::String(to)) if is_id(&to) => to,
            _ => return Err(Refusal::invalid("to must be a user id")),
        };
        let id = match fields.remove("id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) if is_id(&id) => Some(id),
            Some(_) => return Err(Refusal::bad_id()),
        };
        Ok(Self { content, to, id })
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply::Code;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_payload_is_taken_or_refused_with_its_code() {
        let max = 8;
        let table = [
            (json!({"content": "hi", "to": "bob"}), Ok(None)),
            (json!({"content": "", "to": "bob", "id": null}), Ok(None)),
            (
                json!({"content": "12345678", "to": "b", "id": "m-1"}),
                Ok(Some("m-1")),
            ),
            (
                json!({"content": "123456789", "to": "bob"}),
                Err(Code::TooLarge),
            ),
            (
                json!({"content": "üüüüü", "to": "bob"}),
                Err(Code::TooLarge),
            ),
            (json!({"content": 5, "to": "bob"}), Err(Code::Invalid)),
            (json!({"to": "bob"}), Err(Code::Invalid)),
            (json!({"content": "hi"}), Err(Code::Invalid)),
            (json!({"content": "hi", "to": "a b"}), Err(Code::Invalid)),
            (json!({"content": "hi", "to": ["bob"]}), Err(Code::Invalid)),
            (
                json!({"content": "hi", "to": "bob", "id": ""}),
                Err(Code::Invalid),
            ),
            (
                json!({"content": "hi", "to": "bob", "id": 7}),
                Err(Code::Invalid),
            ),
            (json!("hi"), Err(Code::Invalid)),
            (json!(null), Err(Code::Invalid)),
        ];
        for (payload, expected) in table {
            let got = Draft::from_payload(payload.clone(), max);
            let got = got.as_ref().map(|d| d.id.as_deref()).map_err(|r| r.code);
            assert_eq!(got, expected, "{payload}");
        }
    }

    #[test]
    fn an_entry_of_a_node_server_is_shown_without_id_and_time() {
        let entry = br#"{"content":"hi","from":"a","to":"b"}"#;
        let message = Message::from_entry(entry).unwrap();
        assert_eq!(serde_json::to_vec(&message).unwrap(), entry);
        assert_eq!(message.peer_of("a"), "b");
        assert_eq!(message.peer_of("b"), "a");
    }

    #[test]
    fn what_is_no_message_is_no_message() {
        for entry in ["", "x", "[]", "{}", r#"{"content":"hi","from":1,"to":"b"}"#] {
            assert_eq!(Message::from_entry(entry.as_bytes()), None, "{entry}");
        }
    }

    #[test]
    fn the_fields_keep_the_order_of_the_protocol() {
        let new = NewMessage {
            id: "m1".into(),
            content: "grüße".into(),
            from: "a".into(),
            to: "b".into(),
        };
        assert_eq!(
            serde_json::to_string(&new.stored(5)).unwrap(),
            r#"{"id":"m1","content":"grüße","from":"a","to":"b","at":5}"#
        );
    }
}
