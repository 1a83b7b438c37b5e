//! `messages`: a page of a conversation, as the acknowledgement: an array, newest last.

use super::lane::{Event, Lane};
use crate::chat::history::PageRequest;
use crate::chat::message::Message;
use crate::chat::reply::Refusal;

/// Returns whether the store answered, as far as it was asked.
pub(super) async fn run(lane: &Lane, mut event: Event) -> bool {
    if event.ack.is_none() {
        // Nobody would see the answer.
        return true;
    }
    let payload = event.payload();
    let page = read(lane, &event, &payload).await;
    let bytes = |page: &Vec<Message>| page.iter().map(Message::about_bytes).sum();
    event.answer(page, bytes).await
}

async fn read(
    lane: &Lane,
    event: &Event,
    payload: &serde_json::Value,
) -> Result<Vec<Message>, Refusal> {
    let request = PageRequest::from_payload(payload)?;
    let page = lane.sockets.store.page(&lane.session.user, &request);
    event.ask(page).await
}
