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
use super::client::{ask_to_return, queued};
use super::lane::Lane;
use crate::chat::message::Message;
use crate::chat::roster::{Entry, roster};
use crate::store::{Position, StoreError};

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

/// A user in `users`, about.
const USER_BYTES: usize = 120;

/// Holds the socket back from this call on.
pub(super) fn hold(lane: &Lane, socket: &Arc<Socket<Adapter>>) -> Hold {
    let socket = SocketRef::from(socket.clone());
    lane.sockets.adapter.hold(&socket, &[&lane.session.user])
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
    let sockets = &lane.sockets;
    let session = &lane.session;
    let gate = match held {
        Some(held) => Some(held.await?),
        None => None,
    };
    if !sockets.store.connect(session, &lane.socket_id).await? {
        return Ok(false);
    }
    let Some(mut gate) = gate else {
        return Ok(true);
    };
    lane.is_online();
    for _ in 0..MAX_READS {
        let next = tell(lane, socket).await?;
        let heard = lane.heard.clone();
        let opened = gate.open_and_screen(move |event| heard.is_news(event));
        match opened {
            Ok(()) => {
                lane.is_told(next);
                let own_room = socket.id.to_string();
                let entry = Entry::arrived(&session.user, &session.name);
                sockets.tell(Some(&own_room), "user connected", &entry);
                return Ok(true);
            }
            // More was broadcast meanwhile than could wait: the store has it.
            Err(overflow) => gate = overflow.into_gate(),
        }
    }
    Err(LoginError::Overflow)
}

/// Reads the store and tells the socket, which has heard of those messages from now on. Returns
/// up to where it was told.
async fn tell(lane: &Lane, socket: &SocketRef<Adapter>) -> Result<Position, LoginError> {
    let store = &lane.sockets.store;
    let session = &lane.session;
    let (users, replay) = tokio::try_join!(
        store.users(),
        store.replay(&session.user, Position::default())
    )?;
    let oldest = Duration::from_millis(replay.as_of).saturating_sub(YOUNG);
    for message in &replay.messages {
        if let (Some(at), Some(id)) = (message.at, &message.id)
            && Duration::from_millis(at) >= oldest
        {
            lane.heard.note(&message.from, id);
        }
    }
    socket.emit(
        "session",
        &SessionEvent {
            session_id: &session.id,
            user_id: &session.user,
        },
    )?;
    let bytes: usize = replay.messages.iter().map(Message::about_bytes).sum();
    let bytes = bytes + users.len() * USER_BYTES;
    socket.emit("users", &roster(&session.user, users, replay.messages))?;
    queued(socket, bytes);
    Ok(replay.next)
}
