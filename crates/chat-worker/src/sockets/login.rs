//! The login: nothing falls between what the socket is told at first and what it hears later, and
//! nothing comes twice.
//!
//! Everything broadcast to the socket waits from before the store is read until `users` is sent.
//! Then what the snapshot contained is dropped, also when it comes a little later, and the rest
//! follows.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use redis_adapter::{Adapter, Gate, HoldError};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use socketioxide::SendError;
use socketioxide::extract::SocketRef;
use socketioxide::socket::Socket;
use tokio::time::Instant;

use super::connect::ask_to_return;
use super::lane::Lane;
use crate::chat::roster::{Entry, roster};
use crate::store::{Position, Replay, StoreError};

/// How long a login is tried before the client is asked to come back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two tries.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// How often the store is read again because more was broadcast meanwhile than could wait.
const MAX_READS: usize = 5;

/// A message is stored first and published then, by another worker perhaps: the snapshot may
/// contain one whose event is still to come. This long after it cannot any more: two bounds of
/// the store and one of the bus.
const OVERTAKEN: Duration = Duration::from_secs(6);

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

/// Holds the socket back from this call on.
pub(super) fn hold(lane: &Lane, socket: &Arc<Socket<Adapter>>) -> Hold {
    let socket = SocketRef::from(socket.clone());
    lane.sockets.adapter.hold(&socket, &[&lane.session.user])
}

/// Returns whether the socket is logged in.
pub(super) async fn run(lane: &Arc<Lane>, socket: Arc<Socket<Adapter>>, mut held: Hold) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Err(error) = try_login(lane, &SocketRef::from(socket.clone()), held).await else {
            return true;
        };
        if !socket.connected() {
            return false;
        }
        if matches!(error, LoginError::Emit(_)) || Instant::now() + RETRY_DELAY >= deadline {
            tracing::debug!(sid = %socket.id, %error, "a login failed; asking the client to come back");
            ask_to_return(&socket);
            return false;
        }
        // Before the pause: the hold of the failed try has just ended.
        held = hold(lane, &socket);
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

async fn try_login(
    lane: &Arc<Lane>,
    socket: &SocketRef<Adapter>,
    held: Hold,
) -> Result<(), LoginError> {
    let sockets = &lane.sockets;
    let session = &lane.session;
    let mut gate = held.await?;
    sockets.store.connect(session, &lane.socket_id).await?;
    for _ in 0..MAX_READS {
        let known = tell(lane, socket).await?;
        let opened = if known.0.is_empty() {
            gate.open(|_| true)
        } else {
            gate.open_and_screen(move |packet| !known.contains(packet), OVERTAKEN)
        };
        match opened {
            Ok(()) => {
                let own_room = socket.id.to_string();
                let entry = Entry::arrived(&session.user, &session.name);
                sockets.tell(Some(&own_room), "user connected", &entry);
                return Ok(());
            }
            // More was broadcast meanwhile than could wait: the store has it.
            Err(overflow) => gate = overflow.into_gate(),
        }
    }
    Err(LoginError::Overflow)
}

/// Reads the store and tells the socket. Returns what it has been told that may come again.
async fn tell(lane: &Lane, socket: &SocketRef<Adapter>) -> Result<Known, LoginError> {
    let store = &lane.sockets.store;
    let session = &lane.session;
    let (users, replay) = tokio::try_join!(
        store.users(),
        store.replay(&session.user, Position::default())
    )?;
    let known = Known::of(&replay);
    socket.emit(
        "session",
        &SessionEvent {
            session_id: &session.id,
            user_id: &session.user,
        },
    )?;
    socket.emit("users", &roster(&session.user, users, replay.messages))?;
    Ok(known)
}

/// The young messages of a snapshot, by sender and id.
struct Known(HashSet<(String, String)>);

/// As much of a held packet as tells which message it carries.
#[derive(Deserialize)]
struct Carried<'a> {
    from: std::borrow::Cow<'a, str>,
    id: Option<std::borrow::Cow<'a, str>>,
}

impl Known {
    fn of(replay: &Replay) -> Self {
        let oldest = Duration::from_millis(replay.as_of).saturating_sub(YOUNG);
        let young = replay.messages.iter().filter_map(|message| {
            let at = Duration::from_millis(message.at?);
            (at >= oldest).then_some((message.from.clone(), message.id.clone()?))
        });
        Self(young.collect())
    }

    /// Whether a packet, `["event", args...]`, is a message of the snapshot. One without an id
    /// (of a Node server) never is: it cannot be told from another of the same text.
    fn contains(&self, packet: &str) -> bool {
        let Ok((event, data)) = serde_json::from_str::<(Json, Carried<'_>)>(packet) else {
            return false;
        };
        let Some(id) = data.id else { return false };
        event == "private message" && self.0.contains(&(data.from.into_owned(), id.into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::message::Message;

    #[test]
    fn a_held_message_is_known_by_sender_and_id() {
        let message = |id: Option<&str>, at: Option<u64>| Message {
            id: id.map(Into::into),
            content: "hi".into(),
            from: "a".into(),
            to: "b".into(),
            at,
        };
        let known = Known::of(&Replay {
            messages: vec![
                message(Some("m1"), Some(40_000)),
                message(Some("old"), Some(39_999)),
                message(None, Some(90_000)),
                message(Some("timeless"), None),
            ],
            next: Position::default(),
            as_of: 100_000,
        });
        let table = [
            (
                r#"["private message",{"id":"m1","content":"hi","from":"a","to":"b","at":1}]"#,
                true,
            ),
            (
                r#"["private message",{"id":"m\u0031","content":"hi","from":"a","to":"b"}]"#,
                true,
            ),
            (
                r#"["private message",{"id":"m1","content":"hi","from":"b","to":"a","at":1}]"#,
                false,
            ),
            (
                r#"["private message",{"id":"m2","content":"hi","from":"a","to":"b","at":1}]"#,
                false,
            ),
            (
                r#"["private message",{"content":"hi","from":"a","to":"b"}]"#,
                false,
            ),
            (r#"["private message",{"id":"old","from":"a"}]"#, false),
            (r#"["private message",{"id":"timeless","from":"a"}]"#, false),
            (r#"["user connected",{"userID":"a"}]"#, false),
            (r#"["user disconnected","a"]"#, false),
            (r#"["other",{"id":"m1","from":"a"}]"#, false),
            ("no json", false),
        ];
        for (packet, expected) in table {
            assert_eq!(known.contains(packet), expected, "{packet}");
        }
    }
}
