//! The `users` event: me, my conversation partners and others who were active lately, each with the
//! newest messages of my conversation with them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use super::message::Message;

/// Users in a roster, unless configured.
pub const ROSTER_DEFAULT: usize = 500;

/// A user as the store knows them; in JSON as clients are told of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The id that messages are addressed to.
    #[serde(rename = "userID")]
    pub id: String,
    /// The name that is shown.
    #[serde(rename = "username")]
    pub name: String,
    /// Whether a socket of theirs lives anywhere in the cluster.
    pub connected: bool,
}

/// One element of `users` and of a page of users, and the payload of `user connected`.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry<'a> {
    /// The user.
    pub user: &'a User,
    /// My conversation with them, oldest first.
    pub messages: &'a [Message],
}

/// By hand: serde's `flatten` takes twice the time, and a log-in has hundreds of these.
impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entry = serializer.serialize_struct("Entry", 4)?;
        entry.serialize_field("userID", &self.user.id)?;
        entry.serialize_field("username", &self.user.name)?;
        entry.serialize_field("connected", &self.user.connected)?;
        entry.serialize_field("messages", self.messages)?;
        entry.end()
    }
}

impl<'a> Entry<'a> {
    /// Of a user without the conversation.
    pub fn bare(user: &'a User) -> Self {
        Self {
            user,
            messages: &[],
        }
    }
}

/// What is told of a user who came or went: an event, and its payload.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Told<'a> {
    /// They are here, as in `users`.
    Came(Entry<'a>),
    /// No socket of theirs is left; their id.
    Went(&'a str),
}

impl<'a> Told<'a> {
    /// As the user is now.
    pub fn of(user: &'a User) -> Self {
        match user.connected {
            true => Told::Came(Entry::bare(user)),
            false => Told::Went(&user.id),
        }
    }

    /// The name of the event.
    pub fn event(&self) -> &'static str {
        match self {
            Told::Came(_) => "user connected",
            Told::Went(_) => "user disconnected",
        }
    }
}

/// My messages by the other side, with whom I wrote last first.
#[derive(Debug, Default)]
pub struct Conversations {
    by_partner: HashMap<String, Vec<Message>>,
    newest_first: Vec<String>,
}

impl Conversations {
    /// The newest `limit` messages of each conversation of `me`; `messages` are the oldest first.
    pub fn of(me: &str, messages: Vec<Message>, limit: usize) -> Self {
        let mut conversations = Self::default();
        for message in messages.into_iter().rev() {
            conversations.push_older(me, message, limit);
        }
        for messages in conversations.by_partner.values_mut() {
            messages.reverse();
        }
        conversations
    }

    fn push_older(&mut self, me: &str, message: Message, limit: usize) {
        let partner = message.peer_of(me);
        let messages = match self.by_partner.get_mut(partner) {
            Some(messages) => messages,
            None => {
                self.newest_first.push(partner.to_owned());
                self.by_partner.entry(partner.to_owned()).or_default()
            }
        };
        if messages.len() < limit {
            messages.push(message);
        }
    }

    /// The ids of those with whom I have exchanged messages, maybe mine among them.
    pub fn partners(&self) -> &[String] {
        &self.newest_first
    }

    /// The messages with a user, oldest first.
    pub fn with(&self, user: &str) -> &[Message] {
        self.by_partner.get(user).map_or(&[], Vec::as_slice)
    }

    /// How long all of it is as JSON, about, in bytes.
    pub fn about_bytes(&self) -> usize {
        let messages = self.by_partner.values().flatten();
        messages.map(Message::about_bytes).sum()
    }
}

/// Who is in the roster of one client.
#[derive(Debug, PartialEq, Eq)]
pub struct Roster {
    /// Me first, then my partners, then others.
    pub users: Vec<Arc<User>>,
    /// How many of them are me and my partners.
    acquainted: usize,
    /// Of those who were active lately, who had no place in it.
    pub left_out: HashSet<Arc<str>>,
}

impl Roster {
    /// `partners` are each there once, maybe I am among them; `recent` are those who were active last,
    /// the newest first, maybe with me and partners among them. All partners are in it, others up to `limit`.
    pub fn new<'a>(
        me: Arc<User>,
        partners: impl IntoIterator<Item = Arc<User>>,
        recent: impl IntoIterator<Item = &'a Arc<User>>,
        limit: usize,
    ) -> Self {
        let mut users = vec![me];
        for partner in partners {
            // Among them may be myself.
            if partner.id != users[0].id {
                users.push(partner);
            }
        }
        let acquainted = users.len();
        // Mostly so few that looking at each is quicker than hashing every other user.
        let mut known: Vec<String> = users.iter().map(|user| user.id.clone()).collect();
        known.sort_unstable();
        let mut left_out = HashSet::new();
        for user in recent {
            if known.binary_search(&user.id).is_ok() {
                continue;
            }
            if users.len() < limit {
                users.push(user.clone());
            } else {
                left_out.insert(user.id.as_str().into());
            }
        }
        Self {
            users,
            acquainted,
            left_out,
        }
    }

    /// The elements of the `users` event.
    pub fn entries<'a>(&'a self, conversations: &'a Conversations) -> Vec<Entry<'a>> {
        let (acquainted, others) = self.users.split_at(self.acquainted);
        let acquainted = acquainted.iter().map(|user| Entry {
            user,
            messages: conversations.with(&user.id),
        });
        let others = others.iter().map(|user| Entry::bare(user));
        acquainted.chain(others).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str) -> Arc<User> {
        Arc::new(User {
            id: id.into(),
            name: id.to_uppercase(),
            connected: true,
        })
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

    fn ids(roster: &Roster) -> Vec<&str> {
        roster.users.iter().map(|user| &*user.id).collect()
    }

    #[test]
    fn each_conversation_has_its_newest_messages_oldest_first() {
        let messages = vec![
            message("1", "me", "b"),
            message("2", "c", "me"),
            message("3", "b", "me"),
            message("4", "me", "me"),
            message("5", "me", "b"),
        ];
        let conversations = Conversations::of("me", messages, 2);
        let with = |user| -> Vec<&str> {
            let messages = conversations.with(user).iter();
            messages.filter_map(|m| m.id.as_deref()).collect()
        };
        assert_eq!(conversations.partners(), ["b", "me", "c"]);
        assert_eq!(with("b"), ["3", "5"]);
        assert_eq!(with("c"), ["2"]);
        assert_eq!(with("me"), ["4"]);
        assert!(with("nobody").is_empty());
        let none = Conversations::of("me", vec![message("1", "me", "b")], 0);
        assert_eq!(none.partners(), ["b"]);
        assert!(none.with("b").is_empty());
    }

    #[test]
    fn a_roster_has_me_my_partners_and_the_most_recent_others() {
        let recent = ["a", "me", "p", "b", "c"].map(user);
        let roster = Roster::new(user("me"), [user("me"), user("p"), user("q")], &recent, 4);
        assert_eq!(roster.acquainted, 3);
        assert_eq!(ids(&roster), ["me", "p", "q", "a"]);
        assert_eq!(roster.left_out, HashSet::from(["b".into(), "c".into()]));
        let everybody = Roster::new(user("me"), [], &recent, 9);
        assert_eq!(ids(&everybody), ["me", "a", "p", "b", "c"]);
        assert!(everybody.left_out.is_empty());
        // Partners are in it beyond the limit.
        let partners = Roster::new(user("me"), [user("p"), user("q")], &recent, 0);
        assert_eq!(ids(&partners), ["me", "p", "q"]);
    }

    #[test]
    fn whom_one_wrote_with_comes_with_our_messages() {
        let roster = Roster::new(user("me"), [user("p")], &[user("a"), user("p")], 9);
        let conversations = Conversations::of("me", vec![message("1", "p", "me")], 9);
        let entries = roster.entries(&conversations);
        let counts = entries
            .iter()
            .map(|entry| (&*entry.user.id, entry.messages.len()));
        assert_eq!(counts.collect::<Vec<_>>(), [("me", 0), ("p", 1), ("a", 0)]);
    }

    #[test]
    fn an_entry_has_the_names_of_the_protocol() {
        let ada = user("ada");
        let entry = serde_json::to_string(&Entry::bare(&ada)).unwrap();
        assert_eq!(
            entry,
            r#"{"userID":"ada","username":"ADA","connected":true,"messages":[]}"#
        );
    }
}
