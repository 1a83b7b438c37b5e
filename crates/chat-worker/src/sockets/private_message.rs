//! `private message`: stored, and in the same breath announced to the recipient's sockets and the
//! sender's others; then acked.

use std::sync::Arc;

use super::lane::{ACK_BYTES, Event, Lane};
use crate::chat::identity::random_id;
use crate::chat::message::{Draft, NewMessage};
use crate::chat::reply::{Code, Refusal, StoredAck};

/// Returns whether the store answered, as far as it was asked.
pub(super) async fn run(lane: &Arc<Lane>, mut event: Event) -> bool {
    let payload = event.payload();
    let sent = send(lane, &event, payload).await;
    match &sent {
        Ok((id, at)) => event.acknowledge(&StoredAck::new(id, *at), ACK_BYTES).await,
        Err(refusal) => event.acknowledge(&refusal.ack(), ACK_BYTES).await,
    }
    !sent.is_err_and(|refusal| refusal.code == Code::Unavailable)
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
    let (announcer, announced) = (sockets.clone(), new.clone());
    let announce =
        Box::new(move |at| announcer.announcements(&announced.clone().stored(at), &own_room));
    let stored = event.ask(sockets.store.append(new, announce)).await?;
    // What is caught up after a gap is for all of the user's sockets; this one knows it.
    lane.heard.note(&lane.session.user, &id);
    Ok((id, stored.at))
}
