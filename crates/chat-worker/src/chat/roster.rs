//! The `users` event: everyone, each with the messages of my conversation with them.

use std::collections::HashMap;

use serde::Serialize;

use super::message::Message;

/// A user as the store knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The id that messages are addressed to.
    pub id: String,
    /// The name that is shown.
    pub name: String,
    /// Whether a socket of theirs lives anywhere in the cluster.
    pub connected: bool,
}

/// One element of `users`, and the payload of `user connected`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// The user's id.
    #[serde(rename = "userID")]
    pub user_id: String,
    /// The name that is shown.
    pub username: String,
    /// Whether a socket of theirs lives anywhere in the cluster.
    pub connected: bool,
    /// My conversation with them, oldest first.
    pub messages: Vec<Message>,
}

impl Entry {
    /// What the others are told of a user who has come.
    pub fn arrived(user_id: &str, username: &str) -> Self {
        Self {
            user_id: user_id.into(),
            username: username.into(),
            connected: true,
            messages: Vec::new(),
        }
    }
}

/// One user per id out of the records of several sessions: connected when one of them is.
///
/// Ordered by name, then id, so that two reads of the same state agree.
pub fn merge_sessions(records: impl IntoIterator<Item = User>) -> Vec<User> {
    let mut by_id: HashMap<String, User> = HashMap::new();
    for record in records {
        match by_id.get_mut(&record.id) {
            Some(user) => user.connected |= record.connected,
            None => {
                by_id.insert(record.id.clone(), record);
            }
        }
    }
    let mut users: Vec<User> = by_id.into_values().collect();
    users.sort_unstable_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    users
}

/// The `users` event for `me`: every user with our conversation. Messages with somebody whose
/// session has expired are not shown, as in the original.
pub fn roster(me: &str, users: Vec<User>, messages: Vec<Message>) -> Vec<Entry> {
    let mut conversations: HashMap<String, Vec<Message>> = HashMap::new();
    for message in messages {
        let peer = message.peer_of(me);
        match conversations.get_mut(peer) {
            Some(conversation) => conversation.push(message),
            None => {
                conversations.insert(peer.to_owned(), vec![message]);
            }
        }
    }
    users
        .into_iter()
        .map(|user| Entry {
            messages: conversations.remove(&user.id).unwrap_or_default(),
            user_id: user.id,
            username: user.name,
            connected: user.connected,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str, connected: bool) -> User {
        User {
            id: id.into(),
            name: id.to_uppercase(),
            connected,
        }
    }

    fn message(id: &str, from: &str, to: &str) -> Message {
        Message {
            id: Some(id.into()),
            content: id.into(),
            from: from.into(),
            to: to.into(),
            at: Some(1),
        }
    }

    #[test]
    fn several_sessions_of_one_user_are_one_user() {
        let users = merge_sessions([user("b", false), user("a", false), user("b", true)]);
        assert_eq!(users, [user("a", false), user("b", true)]);
    }

    #[test]
    fn each_user_has_our_conversation_oldest_first() {
        let messages = vec![
            message("1", "me", "b"),
            message("2", "c", "me"),
            message("3", "b", "me"),
            message("4", "me", "me"),
            message("5", "gone", "me"),
        ];
        let entries = roster(
            "me",
            vec![user("me", true), user("b", false), user("c", true)],
            messages,
        );
        let ids: Vec<Vec<&str>> = entries
            .iter()
            .map(|e| e.messages.iter().filter_map(|m| m.id.as_deref()).collect())
            .collect();
        assert_eq!(ids, [vec!["4"], vec!["1", "3"], vec!["2"]]);
    }

    #[test]
    fn an_entry_has_the_names_of_the_protocol() {
        let entry = serde_json::to_string(&Entry::arrived("u1", "ada")).unwrap();
        assert_eq!(
            entry,
            r#"{"userID":"u1","username":"ada","connected":true,"messages":[]}"#
        );
    }
}
