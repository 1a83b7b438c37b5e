//! The lobby: what a client may say there, what is kept of it, and what everyone hears.

use std::borrow::Cow;

use redis_adapter::Publication;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::identity::is_id;
use super::reply::Refusal;

/// The channel that everything in the lobby is published on, as JSON text; other programs may
/// publish there, too.
pub const CHANNEL: &str = "chat";

/// Messages that are kept, for those who come later.
pub const KEPT: usize = 200;

/// Bytes of messages that one look back returns at most: of a lobby full of the largest ones, the
/// newest.
pub const LOOK_BACK_BYTES: usize = 4 * 1024 * 1024;

/// What a message has as JSON beside its text, about.
const FIELDS_BYTES: usize = 150;

/// What kind of line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Somebody says something. Kept.
    Message,
    /// Something happened, such as that somebody came. Told to those who are there, not kept.
    Control,
}

/// A line of the lobby as everyone hears it, and as it is kept: `{action, user, msg, id, at}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What kind of line it is.
    pub action: Action,
    /// The name of who says it, or whom it is about.
    pub user: String,
    /// The text.
    pub msg: String,
    /// Unique for its sender; made by the client, or by the server when the client gave none.
    pub id: String,
    /// When it was stored or, of a control, said; in milliseconds since the epoch.
    pub at: u64,
}

impl Line {
    /// How long it is as JSON, about: in bytes, without what has to be escaped.
    pub fn about_bytes(&self) -> usize {
        self.user.len() + self.msg.len() + FIELDS_BYTES
    }

    /// The line in an entry of the list, or `None` for an entry that is none.
    pub fn from_entry(entry: &[u8]) -> Option<Self> {
        serde_json::from_slice(entry).ok()
    }

    /// As it is published, and as an entry of the list.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers are JSON")
    }

    /// For the lobby's channel.
    pub fn publication(&self) -> Publication {
        Publication {
            channel: CHANNEL.to_owned(),
            payload: self.to_json().into(),
        }
    }
}

/// A message for the lobby that is not stored yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLine {
    /// The sender's user id.
    pub from: String,
    /// The sender's name.
    pub user: String,
    /// The text.
    pub msg: String,
    /// Unique for its sender.
    pub id: String,
}

impl NewLine {
    /// The stored form, with the time at which it was stored.
    pub fn stored(&self, at: u64) -> Line {
        Line {
            action: Action::Message,
            user: self.user.clone(),
            msg: self.msg.clone(),
            id: self.id.clone(),
            at,
        }
    }
}

/// What the client sent with `chat`, checked: `{msg, id?}`, or that as JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineDraft {
    /// The text.
    pub msg: String,
    /// The client's id for it, if it gave one.
    pub id: Option<String>,
}

impl LineDraft {
    /// Checks the payload. `message_max` is the largest text in bytes.
    ///
    /// # Errors
    /// The refusal to acknowledge the event with.
    pub fn from_payload(payload: Value, message_max: usize) -> Result<Self, Refusal> {
        let payload = match payload {
            Value::String(text) => serde_json::from_str(&text).unwrap_or_default(),
            other => other,
        };
        let Value::Object(mut fields) = payload else {
            return Err(Refusal::invalid(
                "expected {msg, id?}, or that as JSON text",
            ));
        };
        let Some(Value::String(msg)) = fields.remove("msg") else {
            return Err(Refusal::invalid("msg must be a string"));
        };
        if msg.len() > message_max {
            return Err(Refusal::too_large(message_max));
        }
        let id = match fields.remove("id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) if is_id(&id) => Some(id),
            Some(_) => return Err(Refusal::bad_id()),
        };
        Ok(Self { msg, id })
    }
}

/// What the client sent with `join`: anything, or `{after}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Join {
    /// Somebody comes: the others are told.
    New,
    /// Somebody is back, and has all up to the message of this id, if any: nobody is told.
    Back(Option<String>),
}

impl Join {
    /// Reads the payload. What is no text in `after` is no message.
    pub fn from_payload(payload: &Value) -> Self {
        match payload.get("after") {
            None => Join::New,
            Some(after) => Join::Back(after.as_str().map(str::to_owned)),
        }
    }

    /// What of `kept` (oldest first) is to be returned: all, or what comes after the message that
    /// the client has; all of it, too, where that one is not kept.
    ///
    /// Ids are unique for their sender only. The oldest with that id counts: a newer one of
    /// somebody else's making must not hide what lies between.
    pub fn missed(&self, mut kept: Vec<Line>) -> Vec<Line> {
        if let Join::Back(Some(after)) = self
            && let Some(known) = kept.iter().position(|line| line.id == *after)
        {
            kept.drain(..=known);
        }
        kept
    }
}

/// What a look back finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The lines, oldest first.
    pub lines: Vec<Line>,
    /// The store's clock when they were read, in milliseconds since the epoch: what their times are
    /// measured by.
    pub as_of: u64,
}

/// The newest of `newest_first` that one look back may return, oldest first.
pub fn look_back(newest_first: impl IntoIterator<Item = Line>) -> Vec<Line> {
    let mut bytes = 0;
    let fits = |line: &Line| {
        bytes += line.about_bytes();
        bytes <= LOOK_BACK_BYTES
    };
    let mut kept: Vec<Line> = newest_first
        .into_iter()
        .take(KEPT)
        .take_while(fits)
        .collect();
    kept.reverse();
    kept
}

/// What tells one line from another: its sender's name and its id. Publications of other programs
/// have no id.
pub fn key(line: &Value) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let text = |field| line.get(field).and_then(Value::as_str).map(Cow::from);
    Some((text("user")?, text("id")?))
}

#[cfg(test)]
mod tests {
    use super::super::reply::Code;
    use super::*;
    use serde_json::json;

    fn line(id: &str, user: &str) -> Line {
        Line {
            action: Action::Message,
            user: user.into(),
            msg: "hi".into(),
            id: id.into(),
            at: 5,
        }
    }

    fn ids(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.id.as_str()).collect()
    }

    #[test]
    fn a_line_has_the_fields_of_the_protocol_in_their_order() {
        let new = NewLine {
            from: "u1".into(),
            user: "ada".into(),
            msg: "\"grüße\"".into(),
            id: "m1".into(),
        };
        let text = r#"{"action":"message","user":"ada","msg":"\"grüße\"","id":"m1","at":5}"#;
        assert_eq!(new.stored(5).to_json(), text.as_bytes());
        assert_eq!(Line::from_entry(text.as_bytes()), Some(new.stored(5)));
        assert_eq!(Line::from_entry(b"{}"), None);
    }

    #[test]
    fn a_payload_is_taken_or_refused_with_its_code() {
        let table = [
            (json!({"msg": "hi"}), Ok(None)),
            (json!({"msg": "hi", "id": null, "user": "eve"}), Ok(None)),
            (json!({"msg": "12345678", "id": "m-1"}), Ok(Some("m-1"))),
            (json!(r#"{"msg": "hi"}"#), Ok(None)),
            (json!(r#"{"msg": "hi", "id": "m2"}"#), Ok(Some("m2"))),
            (json!({"msg": "123456789"}), Err(Code::TooLarge)),
            (json!({"msg": 5}), Err(Code::Invalid)),
            (json!({}), Err(Code::Invalid)),
            (json!({"msg": "hi", "id": "a b"}), Err(Code::Invalid)),
            (json!("hi"), Err(Code::Invalid)),
            (json!(r#""{}""#), Err(Code::Invalid)),
            (json!(null), Err(Code::Invalid)),
        ];
        for (payload, expected) in table {
            let got = LineDraft::from_payload(payload.clone(), 8);
            let got = got.as_ref().map(|d| d.id.as_deref()).map_err(|r| r.code);
            assert_eq!(got, expected, "{payload}");
        }
    }

    #[test]
    fn who_is_back_gets_what_came_after_and_who_is_new_gets_all() {
        let kept = || {
            vec![
                line("1", "a"),
                line("2", "b"),
                line("3", "c"),
                line("2", "d"),
            ]
        };
        let table = [
            (json!(null), vec!["1", "2", "3", "2"]),
            (json!({"room": 5}), vec!["1", "2", "3", "2"]),
            (json!({"after": "1"}), vec!["2", "3", "2"]),
            (json!({"after": "2"}), vec!["3", "2"]),
            (json!({"after": "gone"}), vec!["1", "2", "3", "2"]),
            (json!({"after": null}), vec!["1", "2", "3", "2"]),
            (json!({"after": 1}), vec!["1", "2", "3", "2"]),
        ];
        for (payload, expected) in table {
            let join = Join::from_payload(&payload);
            assert_eq!(ids(&join.missed(kept())), expected, "{payload}");
        }
        assert_eq!(Join::from_payload(&json!("x")), Join::New);
        assert_eq!(
            Join::from_payload(&json!({"after": null})),
            Join::Back(None)
        );
    }

    #[test]
    fn a_look_back_has_the_newest_that_fit() {
        let many = (0..KEPT + 5).rev().map(|n| line(&n.to_string(), "a"));
        let kept = look_back(many);
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].id, "5");
        let large = |id: &str| Line {
            msg: "x".repeat(LOOK_BACK_BYTES / 2),
            ..line(id, "a")
        };
        let kept = look_back([large("3"), large("2"), line("1", "a")]);
        assert_eq!(ids(&kept), ["3"]);
    }
}
