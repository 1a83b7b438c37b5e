//! `users_page`: a page of all users, as the acknowledgement: an array like that of `users`.

use super::lane::{Event, Lane};
use super::login::USER_BYTES;
use crate::chat::reply::Refusal;
use crate::chat::roster::{Entry, User};
use crate::chat::user_index::UsersPage;

/// Returns whether the store answered, as far as it was asked.
pub(super) async fn run(lane: &Lane, mut event: Event) -> bool {
    if event.ack.is_none() {
        // Nobody would see the answer.
        return true;
    }
    let payload = event.payload();
    let users = read(lane, &event, &payload).await;
    let page = users
        .as_ref()
        .map(|users| users.iter().map(Entry::bare).collect());
    let page: Result<Vec<Entry<'_>>, Refusal> = page.map_err(Clone::clone);
    event.answer(page, |page| page.len() * USER_BYTES).await
}

async fn read(
    lane: &Lane,
    event: &Event,
    payload: &serde_json::Value,
) -> Result<Vec<User>, Refusal> {
    let page = UsersPage::from_payload(payload)?;
    let users = event.ask(lane.sockets.store.users_page(&page)).await?;
    users.ok_or_else(|| Refusal::invalid("after is not the id of a user in this list"))
}
