//! `private message`: stored, told to the recipient's sockets and the sender's others, acked.

use std::sync::Arc;

use super::lane::{Event, Lane};
use crate::chat::identity::random_id;
use crate::chat::message::{Draft, NewMessage};
use crate::chat::reply::{Refusal, StoredAck};

pub(super) async fn run(lane: &Arc<Lane>, mut event: Event) {
    let payload = event.payload();
    let sent = send(lane, &event, payload).await;
    let ack = event.ack_sender();
    // A client whose queue is full, or that is gone, asks again under the same id.
    let _ = match &sent {
        Ok((id, at)) => ack.send(&StoredAck::new(id, *at)),
        Err(refusal) => ack.send(&refusal.ack()),
    };
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
    let stored = sockets.store.append(&new).await.map_err(|error| {
        tracing::debug!(user = lane.session.user, %error, "a message could not be stored");
        Refusal::unavailable()
    })?;
    if stored.fresh {
        let message = new.stored(stored.at);
        let own_room = event.socket.id.to_string();
        // One room each: a room's channel is heard only by the workers that host its user.
        sockets.tell(
            Some(&message.to),
            Some(&own_room),
            "private message",
            &message,
        );
        if message.to != message.from {
            sockets.tell(
                Some(&message.from),
                Some(&own_room),
                "private message",
                &message,
            );
        }
    }
    Ok((id, stored.at))
}
