//! `messages`: a page of a conversation, as the acknowledgement: an array, newest last.

use super::lane::{Event, Lane};
use crate::chat::history::PageRequest;
use crate::chat::message::Message;
use crate::chat::reply::Refusal;

pub(super) async fn run(lane: &Lane, mut event: Event) {
    if event.ack.is_none() {
        // Nobody would see the answer.
        return;
    }
    let payload = event.payload();
    let page = read(lane, &payload).await;
    let ack = event.ack_sender();
    let _ = match &page {
        Ok(messages) => ack.send(messages),
        Err(refusal) => ack.send(&refusal.ack()),
    };
}

async fn read(lane: &Lane, payload: &serde_json::Value) -> Result<Vec<Message>, Refusal> {
    let request = PageRequest::from_payload(payload)?;
    let page = lane.sockets.store.page(&lane.session.user, &request).await;
    page.map_err(|error| {
        tracing::debug!(user = lane.session.user, %error, "a page could not be read");
        Refusal::unavailable()
    })
}
