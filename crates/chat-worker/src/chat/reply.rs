//! What an acknowledgement says: the one place where a failure becomes an answer to the client.

use serde::Serialize;

/// Why an event was refused, as the client reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The payload has not the form that the event asks for.
    Invalid,
    /// The content is larger than the server takes.
    TooLarge,
    /// More events wait in this connection's queue than it may hold.
    RateLimited,
    /// Not known to be stored: send it again with the same id.
    Unavailable,
}

/// A refusal: the code, and a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// What a program decides on.
    pub code: Code,
    /// What a person reads.
    pub message: String,
}

impl Refusal {
    /// The payload has not the form that the event asks for; `message` says what was expected.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::Invalid, message)
    }

    /// The id is none.
    pub fn bad_id() -> Self {
        Self::invalid("id must be 1 to 64 characters of A-Z a-z 0-9 _ -")
    }

    /// The content has more than `max` bytes.
    pub fn too_large(max: usize) -> Self {
        Self::new(Code::TooLarge, format!("content has more than {max} bytes"))
    }

    /// This connection's queue is full.
    pub fn rate_limited() -> Self {
        Self::new(Code::RateLimited, "too many events are waiting; slow down")
    }

    /// The store could not be asked in time.
    pub fn unavailable() -> Self {
        Self::new(
            Code::Unavailable,
            "the message store cannot be reached; try again with the same id",
        )
    }

    fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The refusal as an acknowledgement: `{ok: false, error: {code, message}}`.
    pub fn ack(&self) -> RefusalAck<'_> {
        RefusalAck {
            ok: false,
            error: self,
        }
    }
}

/// The acknowledgement of an event that was refused.
#[derive(Debug, Serialize)]
pub struct RefusalAck<'a> {
    ok: bool,
    error: &'a Refusal,
}

/// The acknowledgement of a message that is stored.
#[derive(Debug, Serialize)]
pub struct StoredAck<'a> {
    ok: bool,
    id: &'a str,
    at: u64,
}

impl<'a> StoredAck<'a> {
    /// `id` is the message's id, `at` when it was stored, in milliseconds since the epoch.
    pub fn new(id: &'a str, at: u64) -> Self {
        Self { ok: true, id, at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_codes_have_their_names_on_the_wire() {
        let codes = [
            (Refusal::invalid("why"), "invalid"),
            (Refusal::too_large(65_536), "too_large"),
            (Refusal::rate_limited(), "rate_limited"),
            (Refusal::unavailable(), "unavailable"),
        ];
        for (refusal, code) in codes {
            let ack = serde_json::to_value(refusal.ack()).unwrap();
            assert_eq!(ack["ok"], false);
            assert_eq!(ack["error"]["code"], code);
            assert!(ack["error"]["message"].is_string());
        }
    }

    #[test]
    fn a_stored_message_is_acked_with_its_id_and_time() {
        let ack = serde_json::to_string(&StoredAck::new("m1", 5)).unwrap();
        assert_eq!(ack, r#"{"ok":true,"id":"m1","at":5}"#);
    }
}
