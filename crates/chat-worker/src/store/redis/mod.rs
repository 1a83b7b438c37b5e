//! The store in Redis: the keys of the original Node example, and our own under `cc:`.
//!
//! | key | type | content |
//! |---|---|---|
//! | `session:<sessionID>` | hash | `userID`, `username`, `connected`; `ended` for `userID` after its end |
//! | `messages:<userID>` | list | JSON of each message from or to the user, oldest first |
//! | `cc:ids:{messages:<userID>}` | sorted set | `<from> <id>` by time: what was stored lately |
//! | `cc:{lobby}:log` | list | JSON of the lobby's last messages, oldest first |
//! | `cc:{lobby}:ids` | sorted set | `<from> <id>` by time: what was said lately |
//! | `cc:workspace:<workspaceId>` | set | user ids of its members; written by others, read here |
//! | `cc:presence:{<userID>}` | hash | `<instance> <socket>` → sessionID: the user's live sockets |
//! | `cc:user:{<userID>}` | string | `1`, or `n` (sockets of another program), or `0`, and the user's name |
//! | `cc:{users}:version` | string | the number of the last change of a user |
//! | `cc:{users}:by-change` | sorted set | `<userID> <name>` of all users by the number of their last change |
//! | `cc:{users}:by-name` | sorted set | `<key>`, a zero byte, `<userID>`: all users by name; see [`user_index`](crate::chat::user_index) |
//! | `cc:{users}:lookout` | string | who looks for users of other programs, and for expired ones |
//! | `cc:sockets:<instance>` | hash | socket → `<userID> <sessionID>`: a process's live sockets |
//! | `cc:instance:<instance>` | string | the lease of a process, by which others on its machine know it; expires when it is silent |
//! | `cc:instances` | set | every process that may have left something behind |
//! | `cc:repair:<instance>` | string | who repairs that dead process now |
//!
//! No command touches two keys of different hash slots, and nothing is read in the same round
//! trip as a write that it depends on in another slot.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use self::link::Link;
use self::lookout::Lookout;
use self::presence::Presence;
use self::replicas::Replicas;
use self::together::Together;
use super::{
    Announce, Connected, Health, Position, PresenceChange, Replay, Session, Store, StoreError,
    StoreFuture, Stored,
};
use crate::chat::history::{HISTORY_MAX_DEFAULT, PageRequest};
use crate::chat::identity::NoRandomness;
use crate::chat::lobby::{NewLine, Said};
use crate::chat::message::{Message, NewMessage};
use crate::chat::recent_users::{Change, Recent};
use crate::chat::roster::User;
use crate::chat::user_index::UsersPage;
use crate::redis_url::RedisUrl;

mod link;
mod lobby;
mod lookout;
mod messages;
mod presence;
mod process_mark;
mod repair;
mod replicas;
mod roster;
mod send;
mod sessions;
mod together;

pub(crate) use lobby::LOG as LOBBY_LOG;
pub(crate) use roster::{ENROL, ask_whether_listed, enrolment, write_absent};
pub(crate) use send::DEDUPE_WINDOW;

/// How a [`RedisStore`] behaves.
#[derive(Debug, Clone)]
pub struct RedisStoreConfig {
    /// How long a session lives without a socket. Default 24 h.
    pub session_ttl: Duration,
    /// How long a user's messages live after the last one. Default 24 h.
    pub message_ttl: Duration,
    /// The most messages that are kept of a user. Default 10,000.
    pub history_max: usize,
    /// How long one operation may take. Default 2 s.
    pub operation_timeout: Duration,
    /// After how much silence a process counts as dead, which is noticed within
    /// [`tend_interval`](Self::tend_interval) more. Default 10 s.
    pub lease: Duration,
    /// How long the users of a process that has left or died count as connected, unless its lease
    /// ends sooner. Default 5 s.
    pub grace: Duration,
    /// How often a process says that it lives, and looks for dead ones. Default 5 s.
    pub tend_interval: Duration,
    /// How many replicas must have a message before it is acknowledged. Default none.
    pub replicas: Option<NonZeroU32>,
    /// What is announced goes over sharded pub/sub of a Redis Cluster. Default false.
    pub sharded_pubsub: bool,
}

impl Default for RedisStoreConfig {
    fn default() -> Self {
        Self {
            session_ttl: Duration::from_secs(24 * 60 * 60),
            message_ttl: Duration::from_secs(24 * 60 * 60),
            history_max: HISTORY_MAX_DEFAULT,
            operation_timeout: Duration::from_secs(2),
            lease: Duration::from_secs(10),
            grace: Duration::from_secs(5),
            tend_interval: Duration::from_secs(5),
            replicas: None,
            sharded_pubsub: false,
        }
    }
}

/// A store in Redis, over one connection that mends itself.
pub struct RedisStore {
    link: Arc<Link>,
    config: RedisStoreConfig,
    presence: Presence,
    is_cluster: bool,
    /// When replicas are waited for.
    replicas: Option<Replicas>,
    send: redis::Script,
    append: redis::Script,
    say: redis::Script,
    write_session: redis::Script,
    end_session: redis::Script,
    set_connected: redis::Script,
    arrive: redis::Script,
    depart: redis::Script,
    enrol: redis::Script,
    note: redis::Script,
    read: redis::Script,
    lookout: Lookout,
    together: Arc<Together>,
}

impl RedisStore {
    /// Starts to connect, and returns at once: a Redis that is away is waited for. Must be called
    /// inside a runtime.
    ///
    /// # Errors
    /// When the system has no randomness for the id of this process.
    pub fn start(url: RedisUrl, config: RedisStoreConfig) -> Result<Arc<Self>, NoRandomness> {
        let timeout = config.operation_timeout;
        let replicas = config
            .replicas
            .map(|count| Replicas::start(url.clone(), count, timeout));
        Ok(Arc::new(Self {
            is_cluster: url.is_cluster(),
            replicas,
            link: Arc::new(Link::start(url, timeout)),
            together: Arc::default(),
            send: redis::Script::new(send::SEND),
            presence: Presence::new()?,
            append: redis::Script::new(send::APPEND),
            say: redis::Script::new(lobby::SAY),
            write_session: redis::Script::new(sessions::WRITE),
            end_session: redis::Script::new(sessions::END),
            set_connected: redis::Script::new(sessions::SET_CONNECTED),
            arrive: redis::Script::new(presence::ARRIVE),
            depart: redis::Script::new(presence::DEPART),
            enrol: redis::Script::new(roster::ENROL),
            note: redis::Script::new(lookout::NOTE),
            read: redis::Script::new(messages::READ),
            lookout: Lookout::default(),
            config,
        }))
    }

    /// Sends a pipeline with scripts in it, which a server that has started anew does not know yet.
    /// All of its commands may be sent twice.
    async fn with_scripts<T: redis::FromRedisValue>(
        &self,
        pipe: &redis::Pipeline,
    ) -> redis::RedisResult<T> {
        let mut connection = self.link.connection().await;
        match pipe.query_async(&mut connection).await {
            Err(error) if is_unknown_script(&error) => {}
            other => return other,
        }
        for script in [&self.write_session, &self.arrive, &self.enrol] {
            script.load_async(&mut connection).await?;
        }
        pipe.query_async(&mut connection).await
    }

    /// Runs an operation within the bound of time. While Redis has not answered for that long, none
    /// is begun: it would only wait, and take memory. Of a cluster most servers may answer while one
    /// does not, so there each operation finds out.
    fn bounded<'a, T>(
        &'a self,
        operation: impl Future<Output = redis::RedisResult<T>> + Send + 'a,
    ) -> StoreFuture<'a, T> {
        Box::pin(async move {
            if !self.is_cluster
                && let Some(why) = self.link.is_away_for(self.config.operation_timeout)
            {
                return Err(StoreError::Unavailable(why));
            }
            match tokio::time::timeout(self.config.operation_timeout, operation).await {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) => {
                    self.link.failed(&error);
                    Err(StoreError::Unavailable(error.to_string()))
                }
                Err(_) => Err(StoreError::Unavailable("no answer in time".into())),
            }
        })
    }
}

impl Store for RedisStore {
    fn health(&self) -> watch::Receiver<Health> {
        self.link.health()
    }

    fn find_session<'a>(&'a self, id: &'a str) -> StoreFuture<'a, Option<Session>> {
        self.bounded(self.read_session(id))
    }

    fn recent(&self, since: u64, limit: usize) -> StoreFuture<'_, Recent> {
        self.bounded(self.read_recent(since, limit))
    }

    fn look_up<'a>(&'a self, users: &'a [String]) -> StoreFuture<'a, Vec<User>> {
        self.bounded(self.read_users(users))
    }

    fn users_page<'a>(&'a self, page: &'a UsersPage) -> StoreFuture<'a, Option<Vec<User>>> {
        self.bounded(self.read_users_page(page))
    }

    fn announce<'a>(&'a self, user: &'a str, name: &'a str, news: bool) -> StoreFuture<'a, Change> {
        self.bounded(self.enrol_as_is(user, name, news))
    }

    fn heard_of<'a>(&'a self, user: &'a User) -> StoreFuture<'a, ()> {
        self.bounded(self.take_note_of(user))
    }

    fn look_around(&self) -> StoreFuture<'_, Duration> {
        // Each step of it is bounded by itself.
        Box::pin(self.look_around_once())
    }

    fn append(&self, message: NewMessage, announce: Announce) -> StoreFuture<'_, Stored> {
        self.bounded(self.append_to_lists(message, announce))
    }

    fn replay<'a>(&'a self, user: &'a str, from: Position) -> StoreFuture<'a, Replay> {
        self.bounded(self.read_messages(user, from))
    }

    fn replay_young<'a>(
        &'a self,
        user: &'a str,
        from: Position,
        age: Duration,
    ) -> StoreFuture<'a, Replay> {
        self.bounded(self.read_young_messages(user, from, age))
    }

    fn page<'a>(
        &'a self,
        user: &'a str,
        request: &'a PageRequest,
    ) -> StoreFuture<'a, Vec<Message>> {
        self.bounded(self.read_page(user, request))
    }

    fn say(&self, line: NewLine) -> StoreFuture<'_, Stored> {
        self.bounded(self.append_to_lobby(line))
    }

    fn said(&self) -> StoreFuture<'_, Said> {
        self.bounded(self.read_lobby())
    }

    fn begin_session<'a>(&'a self, session: &'a Session) -> StoreFuture<'a, ()> {
        self.bounded(self.begin(session))
    }

    fn end_session<'a>(&'a self, id: &'a str) -> StoreFuture<'a, bool> {
        self.bounded(self.write_end(id))
    }

    fn has_ended<'a>(&'a self, id: &'a str) -> StoreFuture<'a, bool> {
        self.bounded(self.read_ended(id))
    }

    fn connect<'a>(&'a self, session: &'a Session, socket: &'a str) -> StoreFuture<'a, Connected> {
        self.bounded(self.add_socket(session, socket))
    }

    fn disconnect<'a>(&'a self, session: &'a Session, socket: &'a str) -> StoreFuture<'a, bool> {
        let removal = self.bounded(self.remove_socket(session, socket));
        Box::pin(async move {
            let removed = removal.await;
            if removed.is_err() {
                self.presence.lost_track_of(socket);
            }
            removed
        })
    }

    fn still_connected<'a>(&'a self, session: &'a Session) -> StoreFuture<'a, ()> {
        self.bounded(self.keep_connected(session))
    }

    fn connected_name<'a>(&'a self, user: &'a str) -> StoreFuture<'a, Option<String>> {
        self.bounded(self.read_connected_name(user))
    }

    fn is_in_workspace<'a>(&'a self, user: &'a str, workspace: &'a str) -> StoreFuture<'a, bool> {
        self.bounded(self.read_workspace_member(user, workspace))
    }

    fn tend(&self) -> StoreFuture<'_, Vec<PresenceChange>> {
        // Each step is bounded by itself: after an outage thousands of sockets may have to be put
        // back, which is more than one operation's time.
        Box::pin(self.tend_all())
    }

    fn tend_interval(&self) -> Duration {
        // Sessions shorter than a few rounds have to be renewed within their life.
        let renewal = (self.config.session_ttl / 4).max(Duration::from_millis(100));
        self.config.tend_interval.min(renewal)
    }

    fn leave_behind(&self, socket: &str) {
        self.presence.leave_behind(socket);
    }

    fn leave(&self) -> StoreFuture<'_, ()> {
        // Each step is bounded by itself.
        Box::pin(async {
            if self.bounded(self.end_lease()).await? {
                self.repair_if_last().await?;
            }
            Ok(())
        })
    }
}

fn is_unknown_script(error: &redis::RedisError) -> bool {
    let unknown = redis::ErrorKind::Server(redis::ServerErrorKind::NoScript);
    error.kind() == unknown
}
