//! The login: nothing falls between what the socket is told at first and what it hears later, and
//! nothing comes twice.
//!
//! Everything broadcast to the socket waits from before the store is read until `users` is sent.
//! Then what the snapshot contained is dropped, also when it comes a little later, and the rest
//! follows.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use redis_adapter::{Adapter, Gate, HoldError};
use serde::Serialize;
use socketioxide::SendError;
use socketioxide::extract::SocketRef;
use socketioxide::socket::Socket;
use tokio::time::Instant;

use super::MAX_READS;
use super::client::{argument, ask_to_return, queued};
use super::heard::Carried;
use super::lane::Lane;
use super::roster::{BATCHED, Newcomer, who_came_or_went};
use crate::chat::roster::Conversations;
use crate::store::{Connected, Position, Replay, StoreError};

/// How long a login is tried before the client is asked to come back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two tries.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// Messages older than this are not on their way, even if they were sent a second time because
/// the first try ended half-way.
const YOUNG: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
enum LoginError {
    #[error("the socket cannot be subscribed: {0}")]
    Hold(#[from] HoldError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the socket cannot be told: {0}")]
    Emit(#[from] SendError),
    #[error("more is broadcast than can wait")]
    Overflow,
}

#[derive(Serialize)]
struct SessionEvent<'a> {
    #[serde(rename = "sessionID")]
    session_id: &'a str,
    #[serde(rename = "userID")]
    user_id: &'a str,
}

/// A hold that has begun, until it is confirmed.
pub(super) type Hold = BoxFuture<'static, Result<Gate, HoldError>>;

/// What `session` has, about.
const SESSION_BYTES: usize = 100;

/// A user in `users` as JSON, about, in bytes.
pub(super) const USER_BYTES: usize = 120;

/// Holds the socket back from this call on.
pub(super) fn hold(lane: &Lane, socket: &Arc<Socket<Adapter>>) -> Hold {
    let socket = SocketRef::from(socket.clone());
    let mut rooms = vec![&*lane.session.user];
    rooms.extend(lane.wants_batches.then_some(BATCHED));
    lane.sockets.adapter.hold(&socket, &rooms)
}

/// What became of a login.
pub(super) enum Outcome {
    /// The socket is in.
    In,
    /// It could not be let in in time, and was sent away, or has gone by itself.
    Failed,
    /// Its session has ended.
    Ended,
}

/// Lets the socket in: with a hold, it is told the past first.
pub(super) async fn run(
    lane: &Arc<Lane>,
    socket: Arc<Socket<Adapter>>,
    mut held: Option<Hold>,
) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    let tells = held.is_some();
    loop {
        let error = match try_login(lane, &SocketRef::from(socket.clone()), held).await {
            Ok(true) => return Outcome::In,
            Ok(false) => return Outcome::Ended,
            Err(error) => error,
        };
        if !socket.connected() {
            return Outcome::Failed;
        }
        if matches!(error, LoginError::Emit(_)) || Instant::now() + RETRY_DELAY >= deadline {
            tracing::debug!(sid = %socket.id, %error, "a login failed; asking the client to come back");
            ask_to_return(&socket);
            return Outcome::Failed;
        }
        // Before the pause: the hold of the failed try has just ended.
        held = tells.then(|| hold(lane, &socket));
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// False when the session has ended.
async fn try_login(
    lane: &Arc<Lane>,
    socket: &SocketRef<Adapter>,
    held: Option<Hold>,
) -> Result<bool, LoginError> {
    let Some(held) = held else {
        return arrive(lane).await;
    };
    // All at once: what is stored after this read, and before the subscription was confirmed, is
    // read in the second one.
    let (gate, arrived, past) = tokio::join!(held, arrive(lane), read_past(lane));
    if !arrived? {
        return Ok(false);
    }
    let (mut gate, mut past) = (gate?, past?);
    lane.is_online();
    for _ in 0..MAX_READS {
        let next = tell(lane, socket, past).await?;
        let opened = gate.open_and_screen(screen(lane));
        match opened {
            Ok(()) => {
                lane.is_told(next);
                return Ok(true);
            }
            // More was broadcast meanwhile than could wait: the store has it.
            Err(overflow) => gate = overflow.into_gate(),
        }
        past = read_past(lane).await?;
    }
    Err(LoginError::Overflow)
}

/// Lets the others know that the user is here. False when the session has ended.
async fn arrive(lane: &Arc<Lane>) -> Result<bool, LoginError> {
    let sockets = &lane.sockets;
    match sockets
        .store
        .connect(&lane.session, &lane.socket_id)
        .await?
    {
        Connected::Ended => return Ok(false),
        Connected::Unwritten => {}
        Connected::Here(change) => {
            let counts_anew = sockets.counts_anew(&change);
            sockets.made_change(&change);
            match counts_anew {
                true => sockets.read_whole_roll().await?,
                false => sockets.know_changes_to(change.version).await?,
            }
        }
    }
    Ok(true)
}

/// Lets through what is news to the socket; whom a message is with is a partner from then on.
fn screen(lane: &Lane) -> impl Fn(&str) -> bool + Send + Sync + 'static {
    let heard = lane.heard.clone();
    let sockets = Arc::downgrade(&lane.sockets);
    let (stay, user) = (lane.stay, lane.session.user.clone());
    move |event| {
        let Some(message) = Carried::read(event) else {
            // That they came themselves is nothing that clients are told.
            return who_came_or_went(event).is_none_or(|who| who.id != user);
        };
        let is_news = heard.is_news(&message);
        if is_news && let Some(sockets) = sockets.upgrade() {
            sockets.roll.meets(stay, message.peer_of(&user));
            if let Some(at) = message.at {
                sockets.delivered(at);
            }
        }
        is_news
    }
}

async fn read_past(lane: &Lane) -> Result<Replay, StoreError> {
    let user = &lane.session.user;
    lane.sockets.store.replay(user, Position::default()).await
}

/// Tells the socket of `past` and what the store has beyond that: it has heard of these messages from
/// now on. Returns up to where that was.
async fn tell(
    lane: &Lane,
    socket: &SocketRef<Adapter>,
    past: Replay,
) -> Result<Position, LoginError> {
    let sockets = &lane.sockets;
    let session = &lane.session;
    let known_in = |replay: &Replay| {
        let peers = replay.messages.iter().map(|m| m.peer_of(&session.user));
        sockets.roll.known(peers)
    };
    // Now, and not later: one who is known may not be any more by then.
    let (mut partners, asked) = known_in(&past);
    let (found, newer) = tokio::try_join!(
        sockets.store.look_up(&asked),
        sockets.store.replay(&session.user, past.next)
    )?;
    partners.extend(found);
    let (known, mut strangers) = known_in(&newer);
    partners.extend(known);
    strangers.retain(|user| !asked.contains(user));
    if !strangers.is_empty() {
        // They wrote for the first time between the two reads.
        partners.extend(sockets.store.look_up(&strangers).await?);
    }
    let past = past.followed_by(newer);
    let oldest = Duration::from_millis(past.as_of).saturating_sub(YOUNG);
    for message in &past.messages {
        if let (Some(at), Some(id)) = (message.at, &message.id)
            && Duration::from_millis(at) >= oldest
        {
            lane.heard.note(&message.from, id);
        }
    }
    let conversations = Conversations::of(&session.user, past.messages, sockets.history_limit);
    let newcomer = Newcomer {
        member: lane.stay,
        sid: socket.id,
        session,
        wants_batches: lane.wants_batches,
    };
    let roster = sockets.enrol(newcomer, &conversations, partners);
    socket.emit(
        "session",
        &SessionEvent {
            session_id: &session.id,
            user_id: &session.user,
        },
    )?;
    queued(socket, SESSION_BYTES);
    let bytes = conversations.about_bytes() + roster.users.len() * USER_BYTES;
    let users = roster.entries(&conversations);
    socket.emit("users", &argument(socket, &users, bytes))?;
    queued(socket, bytes);
    Ok(past.next)
}
