//! What the chat asks of a store, whatever keeps it. The store is the truth: a message counts as
//! sent when it is stored, and pub/sub is only a hint.
//!
//! Every operation is bounded in time by the store (2 s unless configured) and ends in
//! [`StoreError::Unavailable`] when that is not enough. Unless it says
//! otherwise, an operation may be tried again after an error: messages are known by sender and
//! id, sockets by their id.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use redis_adapter::Publication;
use tokio::sync::watch;

use crate::chat::history::PageRequest;
use crate::chat::lobby::{NewLine, Said};
use crate::chat::message::{Message, NewMessage};
use crate::chat::recent_users::{Change, Recent};
use crate::chat::roster::User;
use crate::chat::user_index::UsersPage;

pub mod redis;
pub mod sqlite;

/// The future of a store operation; boxed, so that the store can be chosen at run time.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Makes what is published of a stored message, given when it was stored, in milliseconds since
/// the epoch. Owned, because a store may call it on a thread of its own, after its caller has given
/// up waiting. A store may also call it with another time, and put the right one in its place.
pub type Announce = Box<dyn Fn(u64) -> Vec<Publication> + Send + Sync>;

/// Why a store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store did not answer in time, or answered with an error. What was asked for may or may
    /// not have been done; asking again is safe unless the operation says otherwise.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}

/// Whether the store can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Up,
    /// It can be read, and why not written.
    ReadOnly(String),
    /// It does not answer, and why.
    Down(String),
}

/// A login session: what a client that knows `id` may come back as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The session's secret id.
    pub id: String,
    /// The user's public id, which messages are addressed to.
    pub user: String,
    /// The name that is shown.
    pub name: String,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// When it was stored, in milliseconds since the epoch; the first time, if it was sent again.
    pub at: u64,
    /// Whether it was not (completely) stored before, and so has to be delivered.
    pub fresh: bool,
}

/// A place in a user's messages, made by [`Store::replay`]. The default is the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// How many entries lie before it.
    pub(crate) index: u64,
    /// A fingerprint of the entry just before it: the list may have expired and begun anew.
    pub(crate) mark: u64,
}

impl Position {
    /// The later of two places, for a store that has one order over all users.
    pub(crate) fn later(self, other: Position) -> Position {
        if other.index > self.index {
            other
        } else {
            self
        }
    }
}

/// What [`Store::replay`] read.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// Whether all that is there was asked for: from the beginning, or from a position that is not
    /// valid any more.
    pub is_whole: bool,
    /// Where to go on from.
    pub next: Position,
    /// The store's clock before it was read, in milliseconds since the epoch: what the times of
    /// the messages are measured by.
    pub as_of: u64,
}

impl Replay {
    /// With what was read from [`next`](Self::next) on.
    pub(crate) fn followed_by(self, newer: Replay) -> Replay {
        if newer.is_whole {
            return newer;
        }
        let mut messages = self.messages;
        messages.extend(newer.messages);
        Replay {
            messages,
            is_whole: self.is_whole,
            ..newer
        }
    }
}

/// The time `age` before `as_of`, both by the store's clock, in milliseconds since the epoch.
pub(crate) fn oldest(as_of: u64, age: Duration) -> u64 {
    as_of.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

/// What [`Store::tend`] found out about users, for the others to be told. Each change is reported
/// by one process of the cluster only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PresenceChange {
    /// No socket of the user is left: the last was on a process that has died, or its end could
    /// not be stored at the time.
    Gone {
        /// The user's id.
        user: String,
        /// The user's name, as far as it is known still.
        name: String,
    },
    /// The user was taken for gone while this process was silent, and is not.
    Back {
        /// The user's id.
        user: String,
        /// The user's name.
        name: String,
    },
}

/// What became of a socket's [arrival](Store::connect).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connected {
    /// The user is connected; it is news when this is their first socket.
    Here(Change),
    /// It may stay, but cannot be written at present. Once it is, the user is reported as
    /// [back](PresenceChange::Back).
    Unwritten,
    /// Its session has ended: it may not stay, and its [end](Store::disconnect) is to follow.
    Ended,
}

/// Sessions, messages and presence.
///
/// **Users.** A user is known from their first session on until the last has expired, and each of
/// their comings and goings is a numbered change, which the store publishes on
/// [`recent_users::CHANNEL`](crate::chat::recent_users::CHANNEL).
pub trait Store: Send + Sync + 'static {
    /// Whether the store answers, as it changes.
    fn health(&self) -> watch::Receiver<Health>;

    /// The session with this id, if there is one.
    fn find_session<'a>(&'a self, id: &'a str) -> StoreFuture<'a, Option<Session>>;

    /// The users who changed after the change with the number `since`, at most `limit`, and how many
    /// users there are.
    fn recent(&self, since: u64, limit: usize) -> StoreFuture<'_, Recent>;

    /// Those of the users that are known, in any order.
    fn look_up<'a>(&'a self, users: &'a [String]) -> StoreFuture<'a, Vec<User>>;

    /// A page of all users by name, or of those whose name has a word that begins as asked for. None
    /// when the user after whom it is to begin is not known, or not among them.
    fn users_page<'a>(&'a self, page: &'a UsersPage) -> StoreFuture<'a, Option<Vec<User>>>;

    /// Makes a change of whether the user is connected just now, for all to hear. With `news` others
    /// are told, unless they know.
    fn announce<'a>(&'a self, user: &'a str, name: &'a str, news: bool) -> StoreFuture<'a, Change>;

    /// A program whose sockets this store does not know says that one of its users came or went. To
    /// be called in every process; one of them takes note.
    fn heard_of<'a>(&'a self, _user: &'a User) -> StoreFuture<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// A step of finding users whom other programs made, and of forgetting those whose sessions have
    /// expired, where that does not come by itself. To be called in every process; one of them acts.
    /// Returns after which pause the next step is due.
    fn look_around(&self) -> StoreFuture<'_, Duration> {
        Box::pin(std::future::ready(Ok(Duration::from_secs(60))))
    }

    /// Stores a message for its sender and its recipient. The same sender and id within ten
    /// minutes store nothing twice, whoever the second one is for.
    ///
    /// What `announce` makes of the time at which it was stored is published together with the
    /// recipient's copy, once. Whatever dies in between, nobody misses it: what is stored was
    /// announced, or the bus tells the others of a gap.
    fn append(&self, message: NewMessage, announce: Announce) -> StoreFuture<'_, Stored>;

    /// The messages from and to `user` behind `from`, oldest first; of more than 4 MiB the newest.
    fn replay<'a>(&'a self, user: &'a str, from: Position) -> StoreFuture<'a, Replay>;

    /// The same, but only what was stored within the last `age` by the store's clock. Entries without
    /// a time are left out: nobody knows how old they are.
    fn replay_young<'a>(
        &'a self,
        user: &'a str,
        from: Position,
        age: Duration,
    ) -> StoreFuture<'a, Replay> {
        let replay = self.replay(user, from);
        Box::pin(async move {
            let mut replay = replay.await?;
            let oldest = oldest(replay.as_of, age);
            let is_young = |message: &Message| message.at.is_some_and(|at| at >= oldest);
            replay.messages.retain(is_young);
            Ok(replay)
        })
    }

    /// A position, for every user, before all that was stored within the last `age`; none when the
    /// store has no order over all users. It spares [`Store::replay`] what is known to be older.
    fn position(&self, _age: Duration) -> StoreFuture<'_, Option<Position>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// A page of `user`'s conversation with somebody, newest last.
    fn page<'a>(&'a self, user: &'a str, request: &'a PageRequest)
    -> StoreFuture<'a, Vec<Message>>;

    /// Stores a message of the lobby. The same sender and id within ten minutes store nothing
    /// twice. What is stored is published on the [lobby's channel](crate::chat::lobby::CHANNEL).
    fn say(&self, line: NewLine) -> StoreFuture<'_, Stored>;

    /// What was said in the lobby lately, oldest first; see [`look_back`].
    ///
    /// [`look_back`]: crate::chat::lobby::look_back
    fn said(&self) -> StoreFuture<'_, Said>;

    /// Begins a session that has no socket yet. One that has ended stays so.
    fn begin_session<'a>(&'a self, session: &'a Session) -> StoreFuture<'a, ()>;

    /// Ends a session for good: nobody comes in under this id any more. Its user is still listed
    /// for as long as a session lives without a socket, so that the others keep their
    /// conversations. False when there is no such session, not even an ended one.
    fn end_session<'a>(&'a self, id: &'a str) -> StoreFuture<'a, bool>;

    /// Whether the session was ended, and not just forgotten.
    fn has_ended<'a>(&'a self, id: &'a str) -> StoreFuture<'a, bool>;

    /// A socket of the session is here: creates or renews the session, and the user is connected.
    /// `socket` must be unique in this process and made of id characters.
    fn connect<'a>(&'a self, session: &'a Session, socket: &'a str) -> StoreFuture<'a, Connected>;

    /// A socket is gone. True when no socket of the user was left in the whole cluster, for one
    /// caller only: it [announces](Store::announce) that, unless the user is back by then. Not to be called again
    /// after an error: the next [`Store::tend`] that succeeds makes it good, and reports the user
    /// as gone.
    fn disconnect<'a>(&'a self, session: &'a Session, socket: &'a str) -> StoreFuture<'a, bool>;

    /// Instead of [`disconnect`](Store::disconnect), for a socket that goes because this process is
    /// about to [leave](Store::leave): its client is expected at another process. The user counts as
    /// connected for the grace period after the end of this one, and whoever removes the socket then
    /// reports the user as gone, unless they are back.
    fn leave_behind(&self, socket: &str);

    /// After [`disconnect`](Store::disconnect): a server whose sockets this store does not know
    /// still has one of the session's user. The session counts as connected until that server says
    /// otherwise. A store that is shared with no such server has nothing to do.
    fn still_connected<'a>(&'a self, _session: &'a Session) -> StoreFuture<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// The user's name, if a socket of theirs is anywhere in the cluster just now.
    fn connected_name<'a>(&'a self, user: &'a str) -> StoreFuture<'a, Option<String>>;

    /// Whether the user is in the set of the workspace's members. A store that has no such sets
    /// knows none.
    fn is_in_workspace<'a>(&'a self, _user: &'a str, _workspace: &'a str) -> StoreFuture<'a, bool> {
        Box::pin(std::future::ready(Ok(false)))
    }

    /// To be called every [`Store::tend_interval`]: says that this process lives, renews the
    /// sessions of its sockets, and repairs what dead processes left.
    fn tend(&self) -> StoreFuture<'_, Vec<PresenceChange>>;

    /// How often [`Store::tend`] wants to be called.
    fn tend_interval(&self) -> Duration;

    /// This process is about to end. What it still has connected, or has [left
    /// behind](Store::leave_behind), is removed by another one after the grace period; by this one
    /// at once when there is no other.
    fn leave(&self) -> StoreFuture<'_, ()>;
}
