//! A page of history: what a client may ask for, and which entries answer it.

use serde_json::{Map, Value};

use super::identity::is_id;
use super::message::Message;
use super::reply::Refusal;

/// Messages of each conversation that a login brings, unless configured.
pub const HISTORY_DEFAULT: usize = 50;

/// Messages that are kept for a user, unless configured.
pub const HISTORY_MAX_DEFAULT: usize = 10_000;

/// Messages in a page when the client names no limit.
pub const PAGE_DEFAULT: usize = 50;

/// Most messages in a page: with the largest messages a page is then still below 13 MiB.
pub const PAGE_MAX: usize = 200;

/// What the client asked for with `messages`, checked: `{with, before?, limit?}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// The user id of the other side.
    pub with: String,
    /// The id of a message: the page ends just before it.
    pub before: Option<String>,
    /// Most messages wanted, 1 to [`PAGE_MAX`].
    pub limit: usize,
}

impl PageRequest {
    /// Checks the payload. A limit beyond [`PAGE_MAX`] is read as [`PAGE_MAX`].
    ///
    /// # Errors
    /// The refusal to acknowledge the event with.
    pub fn from_payload(payload: &Value) -> Result<Self, Refusal> {
        let Value::Object(fields) = payload else {
            return Err(Refusal::invalid("expected {with, before?, limit?}"));
        };
        let with = match fields.get("with") {
            Some(Value::String(with)) if is_id(with) => with.clone(),
            _ => return Err(Refusal::invalid("with must be a user id")),
        };
        let before = match fields.get("before") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) if is_id(id) => Some(id.clone()),
            Some(_) => return Err(Refusal::invalid("before must be a message id")),
        };
        let limit = page_limit(fields, PAGE_DEFAULT, PAGE_MAX)?;
        Ok(Self {
            with,
            before,
            limit,
        })
    }
}

/// How many a page is to have at most: the field `limit`; a larger one than `max` is read as that.
pub(super) fn page_limit(
    fields: &Map<String, Value>,
    default: usize,
    max: usize,
) -> Result<usize, Refusal> {
    match fields.get("limit") {
        None | Some(Value::Null) => Ok(default),
        Some(limit) => match limit.as_u64() {
            Some(n) if n > 0 => Ok(usize::try_from(n).unwrap_or(max).min(max)),
            _ => Err(Refusal::invalid("limit must be a number above 0")),
        },
    }
}

/// Collects a page from entries that are given newest first.
#[derive(Debug)]
pub struct PageBuilder<'a> {
    user: &'a str,
    request: &'a PageRequest,
    waiting_for_before: bool,
    newest_first: Vec<Message>,
}

impl<'a> PageBuilder<'a> {
    /// A page of `user`'s history.
    pub fn new(user: &'a str, request: &'a PageRequest) -> Self {
        Self {
            user,
            request,
            waiting_for_before: request.before.is_some(),
            newest_first: Vec::new(),
        }
    }

    /// Takes the next older message. Returns whether the page is full.
    pub fn push(&mut self, message: Message) -> bool {
        if message.peer_of(self.user) == self.request.with {
            if self.waiting_for_before {
                // Two sides may use one id: the newer of the two ends the page, so that nothing
                // is left out.
                self.waiting_for_before = message.id != self.request.before;
            } else {
                self.newest_first.push(message);
            }
        }
        self.newest_first.len() >= self.request.limit
    }

    /// The page, newest last. Empty when `before` named no message of the conversation.
    pub fn finish(mut self) -> Vec<Message> {
        self.newest_first.reverse();
        self.newest_first
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply::Code;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_is_taken_or_refused() {
        let table = [
            (json!({"with": "b"}), Ok((None, PAGE_DEFAULT))),
            (
                json!({"with": "b", "before": null, "limit": 3}),
                Ok((None, 3)),
            ),
            (
                json!({"with": "b", "before": "m1", "limit": 9e9 as u64}),
                Ok((Some("m1"), PAGE_MAX)),
            ),
            (json!({"with": "b", "limit": 0}), Err(Code::Invalid)),
            (json!({"with": "b", "limit": -1}), Err(Code::Invalid)),
            (json!({"with": "b", "limit": "3"}), Err(Code::Invalid)),
            (json!({"with": "b", "before": "a b"}), Err(Code::Invalid)),
            (json!({"with": "b c"}), Err(Code::Invalid)),
            (json!({}), Err(Code::Invalid)),
            (json!([]), Err(Code::Invalid)),
        ];
        for (payload, expected) in table {
            let got = PageRequest::from_payload(&payload);
            let got = got
                .as_ref()
                .map(|p| (p.before.as_deref(), p.limit))
                .map_err(|r| r.code);
            assert_eq!(got, expected, "{payload}");
        }
    }

    fn page(before: Option<&str>, limit: usize) -> Vec<String> {
        let message = |id: &str, from: &str, to: &str| Message {
            id: Some(id.into()),
            content: id.into(),
            from: from.into(),
            to: to.into(),
            at: Some(1),
        };
        let newest_first = [
            message("5", "b", "a"),
            message("4", "a", "c"),
            message("3", "a", "b"),
            message("2", "c", "a"),
            message("1", "b", "a"),
        ];
        let request = PageRequest {
            with: "b".into(),
            before: before.map(Into::into),
            limit,
        };
        let mut builder = PageBuilder::new("a", &request);
        for message in newest_first {
            if builder.push(message) {
                break;
            }
        }
        builder.finish().into_iter().filter_map(|m| m.id).collect()
    }

    #[test]
    fn a_page_holds_one_conversation_newest_last() {
        assert_eq!(page(None, 10), ["1", "3", "5"]);
        assert_eq!(page(None, 2), ["3", "5"]);
        assert_eq!(page(Some("5"), 10), ["1", "3"]);
        assert_eq!(page(Some("3"), 1), ["1"]);
        assert!(page(Some("1"), 10).is_empty());
        assert!(page(Some("4"), 10).is_empty(), "of another conversation");
    }
}
