//! `private message`: stored, and in the same breath announced to the recipient's sockets and the
//! sender's others; then acked.

use std::sync::Arc;

use redis_adapter::Publication;

use super::lane::{Event, Lane};
use crate::chat::identity::random_id;
use crate::chat::message::{Draft, NewMessage};
use crate::chat::reply::Refusal;
use crate::chat::roster::{Told, User};
use crate::store::{Announce, Session};

/// Returns whether the store answered, as far as it was asked.
pub(super) async fn run(lane: &Arc<Lane>, mut event: Event) -> bool {
    let payload = event.payload();
    let sent = send(lane, &event, payload).await;
    event.answer_stored(sent).await
}

async fn send(
    lane: &Arc<Lane>,
    event: &Event,
    payload: serde_json::Value,
) -> Result<(String, u64), Refusal> {
    let sockets = &lane.sockets;
    let draft = Draft::from_payload(payload, sockets.message_max)?;
    let id = match draft.id {
        Some(id) => id,
        None => random_id().map_err(|_| Refusal::unavailable())?,
    };
    let new = NewMessage {
        id: id.clone(),
        content: draft.content,
        from: lane.session.user.clone(),
        to: draft.to,
    };
    let own_room = event.socket.id.to_string();
    let introductions = introductions(lane, event, &new.to, &own_room).await?;
    let (announcer, announced) = (sockets.clone(), new.clone());
    let announce: Announce = Box::new(move |at| {
        let message = announcer.announcements(&announced.clone().stored(at), &own_room);
        introductions.iter().cloned().chain(message).collect()
    });
    let append = sockets.store.append(new, announce);
    let stored = sockets.store_counted(event, append).await?;
    // What is caught up after a gap is for all of the user's sockets; this one knows it.
    lane.heard.note(&lane.session.user, &id);
    sockets.is_active(&lane.session);
    Ok((id, stored.at))
}

/// Where rosters do not have everybody: before the first message to somebody, they are told who the
/// sender is, and the sender's other sockets who they are.
async fn introductions(
    lane: &Arc<Lane>,
    event: &Event,
    to: &str,
    own_room: &str,
) -> Result<Vec<Publication>, Refusal> {
    let sockets = &lane.sockets;
    let Session { user, name, .. } = &lane.session;
    if sockets.knows_everybody() || to == user || !sockets.roll.meets(lane.stay, to) {
        return Ok(Vec::new());
    }
    let recipient = [to.to_owned()];
    let known = event.ask(sockets.store.look_up(&recipient)).await?;
    let me = User {
        id: user.clone(),
        name: name.clone(),
        connected: true,
    };
    let introduction = |room, who| {
        let told = Told::of(who);
        sockets.publication_for(room, own_room, told.event(), &told)
    };
    let mut introductions: Vec<Publication> = introduction(to, &me).into_iter().collect();
    let here = known.iter().find(|user| user.connected);
    introductions.extend(here.and_then(|recipient| introduction(user, recipient)));
    Ok(introductions)
}
