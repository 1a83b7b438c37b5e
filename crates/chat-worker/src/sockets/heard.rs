//! Which messages a socket has lately been told of, so that none comes twice: not when a login's
//! snapshot contains one whose event is still on its way, and not when what may have been missed
//! is delivered again.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

use crate::chat::message::peer;

/// Messages remembered for a socket, 8 bytes each. They have to reach back over the time that is
/// caught up after a gap, less the gap itself.
const REMEMBERED: usize = 1024;

/// The messages that one socket has, by sender and id.
#[derive(Default)]
pub(super) struct Heard {
    keys: RandomState,
    recent: Mutex<VecDeque<u64>>,
}

/// As much of a message in an event as tells which one it is.
#[derive(Deserialize)]
pub(super) struct Carried<'a> {
    from: Cow<'a, str>,
    to: Cow<'a, str>,
    id: Option<Cow<'a, str>>,
    /// When it was taken, in milliseconds since 1970; a Node server's may not say.
    pub(super) at: Option<u64>,
}

impl<'a> Carried<'a> {
    /// The message that an event, `["event", args...]`, carries, if it does.
    pub(super) fn read(event: &'a str) -> Option<Self> {
        let (name, message) = serde_json::from_str::<(Cow<'_, str>, Self)>(event).ok()?;
        (name == "private message").then_some(message)
    }

    /// The other side, seen by `user`.
    pub(super) fn peer_of(&self, user: &str) -> &str {
        peer(user, &self.from, &self.to)
    }
}

impl Heard {
    /// Takes note of a message. False when the socket had it already.
    pub(super) fn note(&self, from: &str, id: &str) -> bool {
        let message = self.keys.hash_one((from, id));
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.contains(&message) {
            return false;
        }
        if recent.len() == REMEMBERED {
            recent.pop_front();
        }
        recent.push_back(message);
        true
    }

    /// Whether a message is news to the socket; it counts as heard from now on. One without an id (of
    /// a Node server) always is: it cannot be told from another of the same text.
    pub(super) fn is_news(&self, message: &Carried<'_>) -> bool {
        let id = message.id.as_ref();
        id.is_none_or(|id| self.note(&message.from, id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_news_once_by_sender_and_id() {
        let heard = Heard::default();
        assert!(heard.note("a", "m1"));
        let table = [
            (
                r#"["private message",{"id":"m1","content":"hi","from":"a","to":"b","at":1}]"#,
                false,
            ),
            (
                r#"["private message",{"id":"m\u0031","content":"hi","from":"a","to":"b"}]"#,
                false,
            ),
            (
                r#"["private message",{"id":"m1","content":"hi","from":"b","to":"a","at":1}]"#,
                true,
            ),
            (
                r#"["private message",{"id":"m1","content":"hi","from":"b","to":"a","at":1}]"#,
                false,
            ),
            (
                r#"["private message",{"id":"m2","content":"hi","from":"a","to":"b","at":1}]"#,
                true,
            ),
            (
                r#"["private message",{"content":"hi","from":"a","to":"b"}]"#,
                true,
            ),
            (
                r#"["private message",{"content":"hi","from":"a","to":"b"}]"#,
                true,
            ),
            (r#"["user connected",{"userID":"a"}]"#, true),
            (r#"["user disconnected","a"]"#, true),
            (r#"["other",{"id":"m1","from":"a"}]"#, true),
            ("no json", true),
        ];
        for (event, expected) in table {
            let message = Carried::read(event);
            let news = message.is_none_or(|message| heard.is_news(&message));
            assert_eq!(news, expected, "{event}");
        }
    }

    #[test]
    fn a_message_has_another_side() {
        let message = Carried::read(r#"["private message",{"from":"a","to":"b"}]"#).unwrap();
        assert_eq!(message.peer_of("a"), "b");
        assert_eq!(message.peer_of("b"), "a");
    }

    #[test]
    fn the_oldest_is_forgotten_at_the_bound() {
        let heard = Heard::default();
        for number in 0..=REMEMBERED {
            assert!(heard.note("a", &number.to_string()));
        }
        assert!(!heard.note("a", "1"));
        assert!(heard.note("a", "0"));
    }
}
