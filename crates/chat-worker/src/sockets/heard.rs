//! Which messages a socket has lately been told of, so that none comes twice: not when a login's
//! snapshot contains one whose event is still on its way, and not when what may have been missed
//! is delivered again.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use serde_json::Value as Json;

/// Messages remembered for a socket, 8 bytes each. They have to reach back over the time that is
/// caught up after a gap, less the gap itself.
const REMEMBERED: usize = 1024;

/// The messages that one socket has, by sender and id.
#[derive(Default)]
pub(super) struct Heard {
    keys: RandomState,
    recent: Mutex<VecDeque<u64>>,
}

/// As much of an event as tells which message it carries.
#[derive(Deserialize)]
struct Carried<'a> {
    from: Cow<'a, str>,
    id: Option<Cow<'a, str>>,
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

    /// Whether an event, `["event", args...]`, is news to the socket; it counts as heard from now
    /// on. A message without an id (of a Node server) always is: it cannot be told from another of
    /// the same text.
    pub(super) fn is_news(&self, event: &str) -> bool {
        let Ok((name, data)) = serde_json::from_str::<(Json, Carried<'_>)>(event) else {
            return true;
        };
        match data.id {
            Some(id) if name == "private message" => self.note(&data.from, &id),
            _ => true,
        }
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
            assert_eq!(heard.is_news(event), expected, "{event}");
        }
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
