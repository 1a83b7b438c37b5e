//! The Socket.IO side of the chat: who connects, what they send, what they are told.
//!
//! Each socket has a [lane]: its login, its events and its end, one after the other. All of
//! it is enqueued synchronously in socketioxide's handlers, because what is registered or done
//! after an await there misses events, and handlers of one socket run concurrently.

use std::collections::HashMap;
use std::fmt::Display;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use bytes::Bytes;
use common::pace::Rate;
use redis_adapter::{Adapter, AdapterState, Publication};
use serde::Serialize;
use socketioxide::{ParserConfig, SocketIo};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::connect::{Connect, Entrance};
use self::heard::Heard;
use self::lane::Event;
use self::roster::Roll;
use self::session_sockets::SessionSockets;
use crate::chat::message::Message;
use crate::chat::reply::Refusal;
use crate::chat::workspace::WorkspacePolicy;
use crate::store::{Position, Store, StoreFuture, Stored};
use crate::{ChatConfig, Happening};

mod authenticate;
mod catch_up;
mod client;
mod connect;
mod heard;
mod history;
mod introduction;
mod lane;
mod leave;
mod lobby;
mod log_out;
mod login;
pub(crate) mod outside;
mod presence;
mod private_message;
mod rooms;
mod roster;
mod session_sockets;
mod users_page;
mod workspaces;

pub(crate) use catch_up::keep_caught_up;
pub(crate) use introduction::introduce;
pub(crate) use presence::{keep_presence, keep_roll, look_around};

/// The namespace of the private messages.
const NAMESPACE: &str = "/";

/// Packets that wait for one client at most. A thousand log-ins while it polls fit (each tells
/// everyone). There is a bound in bytes as well: `ChatConfig::max_buffered`.
const MAX_PACKETS: usize = 1024;

/// Packets that may go out at once at the end of a login; the rest of the queue stays free for
/// what comes next to it.
pub(crate) const MAX_FLUSH: usize = 512;

/// How often the store is read for somebody, because more was broadcast meanwhile than could wait.
const MAX_READS: usize = 5;

/// Attachments of one packet, as in the JavaScript parser. The chat's events have none.
const MAX_ATTACHMENTS: usize = 10;

/// Read buffer of a WebSocket in bytes: a chat message fits, and it is kept per client.
const READ_BUFFER: usize = 1024;

/// What the handlers of all sockets share.
pub(crate) struct Sockets {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) adapter: AdapterState,
    /// Everything that is under way for a socket, and every socket whose end is not stored yet.
    pub(crate) tasks: TaskTracker,
    /// The largest content of a message in bytes.
    pub(crate) message_max: usize,
    /// Bytes that may wait for one client.
    pub(crate) max_buffered: u64,
    /// How fast the events of one socket are dealt with, if that is bounded.
    events: Option<Rate>,
    /// How long a client that was sent to another worker is expected there.
    presence_grace: Duration,
    observer: OnceLock<Box<dyn Fn(Happening) + Send + Sync>>,
    /// Cancelled when this process begins to leave.
    leaving: OnceLock<CancellationToken>,
    workspace_policy: WorkspacePolicy,
    next_socket: AtomicU64,
    unconfirmed: AtomicU64,
    /// Users with sockets here: how many, and up to where all of them were told the past, once
    /// they were.
    online: Mutex<HashMap<String, (usize, Option<Position>)>>,
    sessions: SessionSockets,
    /// Who there is, and who is told of whom.
    roll: Roll,
    /// The newest messages of each conversation that a login brings.
    history_limit: usize,
    /// Users who have gone, which could not be announced yet, and their names.
    unannounced: Mutex<HashMap<String, String>>,
    /// What the sockets of this process have heard in the lobby.
    heard_in_lobby: Heard,
}

/// So many in a second, after as many at once.
fn a_second_s(events: NonZeroU32) -> Rate {
    let second = Duration::from_secs(1);
    Rate {
        interval: second / events.get(),
        burst: second,
    }
}

impl Sockets {
    pub(crate) fn new(store: Arc<dyn Store>, adapter: AdapterState, config: &ChatConfig) -> Self {
        Self {
            store,
            adapter,
            tasks: TaskTracker::new(),
            message_max: config.message_max,
            max_buffered: config.max_buffered as u64,
            events: config.events_per_second.map(a_second_s),
            presence_grace: config.presence_grace,
            observer: OnceLock::new(),
            leaving: OnceLock::new(),
            workspace_policy: config.workspace_policy,
            next_socket: AtomicU64::new(0),
            unconfirmed: AtomicU64::new(0),
            online: Mutex::default(),
            sessions: SessionSockets::default(),
            roll: Roll::new(config.roster_limit),
            history_limit: config.history_limit,
            unannounced: Mutex::default(),
            heard_in_lobby: Heard::default(),
        }
    }

    /// This process leaves as soon as that is cancelled. The first call counts.
    pub(crate) fn leave_when(&self, leaving: CancellationToken) {
        let _ = self.leaving.set(leaving);
    }

    /// Has `observer` called for what happens. The first call counts.
    pub(crate) fn observe(&self, observer: Box<dyn Fn(Happening) + Send + Sync>) {
        let _ = self.observer.set(observer);
    }

    fn happened(&self, what: Happening) {
        if let Some(observer) = self.observer.get() {
            observer(what);
        }
    }

    /// Appends a client's message by `operation`, and counts it unless it was there before.
    async fn store_counted(
        &self,
        event: &Event,
        operation: StoreFuture<'_, Stored>,
    ) -> Result<Stored, Refusal> {
        let began = Instant::now();
        let stored = event.ask(operation).await?;
        if stored.fresh {
            let took = began.elapsed();
            self.happened(Happening::Stored { took });
        }
        Ok(stored)
    }

    /// A client is told of a message that was taken at `at`.
    fn delivered(&self, at: u64) {
        let after = Duration::from_millis(now_ms().saturating_sub(at));
        self.happened(Happening::Delivered { after });
    }

    /// Resolves when this process leaves.
    async fn leaving(&self) {
        match self.leaving.get() {
            Some(leaving) => leaving.cancelled().await,
            None => std::future::pending().await,
        }
    }

    fn lock_online(&self) -> MutexGuard<'_, HashMap<String, (usize, Option<Position>)>> {
        self.online.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Users with sockets here, and from where on one of these may have missed something.
    fn online(&self) -> Vec<(String, Position)> {
        let online = self.lock_online();
        let users = online.iter();
        users
            .map(|(user, (_, position))| (user.clone(), position.unwrap_or_default()))
            .collect()
    }

    fn came_online(&self, user: &str) {
        self.lock_online().entry(user.to_owned()).or_default().0 += 1;
    }

    /// A socket of the user was told the past up to there; earlier ones heard what came since
    /// theirs.
    fn was_told(&self, user: &str, position: Position) {
        if let Some((_, told)) = self.lock_online().get_mut(user) {
            told.get_or_insert(position);
        }
    }

    /// All sockets of the user were told the past up to there.
    fn is_caught_up(&self, user: &str, position: Position) {
        if let Some((_, told)) = self.lock_online().get_mut(user) {
            *told = Some(position);
        }
    }

    fn went_offline(&self, user: &str) {
        let mut online = self.lock_online();
        if let Some((sockets, _)) = online.get_mut(user) {
            *sockets -= 1;
            if *sockets == 0 {
                online.remove(user);
            }
        }
    }

    /// Broadcasts that the bus did not confirm.
    pub(crate) fn unconfirmed(&self) -> u64 {
        self.unconfirmed.load(Ordering::Relaxed)
    }

    /// A number for a socket's stay in the namespace. Not its Engine.IO id: a client may leave and
    /// come back under that, and the end of its first stay must not end the second.
    fn new_stay(&self) -> u64 {
        self.next_socket.fetch_add(1, Ordering::Relaxed)
    }

    /// What is to be published of a stored message: for the recipient's sockets and for the
    /// sender's, but not the one whose room is `except`. One room each: a room's channel is heard
    /// only by the workers that host its user.
    fn announcements(&self, message: &Message, except: &str) -> Vec<Publication> {
        let mut rooms = vec![message.to.as_str()];
        if message.from != message.to {
            rooms.push(&message.from);
        }
        let publication = |room| self.publication_for(room, except, "private message", message);
        rooms.into_iter().filter_map(publication).collect()
    }

    /// An event for a user's sockets, but not the one whose room is `except`. This worker, too,
    /// delivers it when it hears it.
    fn publication_for<T: Serialize + ?Sized>(
        &self,
        user: &str,
        except: &str,
        event: &str,
        data: &T,
    ) -> Option<Publication> {
        let adapter = &self.adapter;
        let made = adapter.publication(NAMESPACE, &[user], &[except], event, data);
        // Only an event larger than the bus takes; none is.
        made.inspect_err(|error| tracing::error!(%error, event, "an event cannot be announced"))
            .ok()
    }

    /// Publishes on a channel of ours. It is queued when this returns; nobody waits for the bus.
    fn publish(self: &Arc<Self>, channel: &'static str, payload: Bytes) {
        let confirmation = self.adapter.bus().publish(channel.to_owned(), payload);
        self.confirm(channel, confirmation);
    }

    fn confirm<E: Display>(
        self: &Arc<Self>,
        what: &'static str,
        confirmation: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let this = self.clone();
        self.tasks.spawn(async move {
            if let Err(error) = confirmation.await {
                this.unconfirmed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(what, %error, "other workers may not have heard a broadcast");
            }
        });
    }
}

/// The time as messages have it, in milliseconds since 1970.
fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64)
}

/// The route of Socket.IO, with its namespaces behind it.
pub(crate) fn routes(
    sockets: Arc<Sockets>,
    ping_interval: Duration,
    ping_timeout: Duration,
    max_payload: usize,
) -> Router {
    let parser = ParserConfig::common()
        .max_incoming_binaries(MAX_ATTACHMENTS)
        .max_incoming_binary_buf_size(max_payload)
        .packet_completion_timeout(ping_interval + ping_timeout);
    let (service, io) = SocketIo::builder()
        .with_parser(parser)
        .ping_interval(ping_interval)
        .ping_timeout(ping_timeout)
        .max_payload(max_payload as u64)
        .ws_max_message_size(max_payload)
        .ws_max_frame_size(max_payload)
        .ws_read_buffer_size(READ_BUFFER)
        .max_buffer_size(MAX_PACKETS)
        .with_adapter::<Adapter>(sockets.adapter.clone())
        .build_svc();
    for (path, entrance) in [
        (NAMESPACE, Entrance::PrivateMessages),
        (lobby::NAMESPACE, Entrance::Lobby),
        (workspaces::NAMESPACE, Entrance::Workspaces),
    ] {
        let sockets = sockets.clone();
        io.ns(path, Connect { sockets, entrance });
    }
    io.ns(rooms::NAMESPACE, rooms::Connect(sockets.clone()));
    log_out::listen(&sockets);
    roster::listen(&sockets);
    outside::listen(&sockets);
    lobby::listen(&sockets);
    Router::new().route_service("/socket.io/", service)
}
