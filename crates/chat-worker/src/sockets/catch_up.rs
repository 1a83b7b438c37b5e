//! After a gap in the bus the store tells what was missed: for each user who is connected here,
//! the messages of that time are delivered again, and those that a socket has heard are screened.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{NAMESPACE, Sockets, lobby};
use crate::store::{Health, Position, Store, StoreError, StoreFuture};

/// A message may have been stored that long before it was to be published: its time is that of the
/// write's beginning, and a write may take a while.
const WRITE_TIME: Duration = Duration::from_secs(5);

/// Tries for each user; between two, the store has to say that it answers.
const TRIES: usize = 5;

/// How long a store that cannot be written is waited for between two tries: reading may go on.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// Between two tries.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// Catches up after each gap, for as long as the process lives.
pub(crate) async fn keep_caught_up(sockets: Arc<Sockets>) {
    loop {
        let since = sockets.adapter.missed_since().await;
        let gap_ms = since.elapsed().as_millis() as u64;
        tracing::warn!(gap_ms, "broadcasts may have been missed; reading the store");
        catch_up(&sockets, since).await;
    }
}

/// One user after the other, so that neither the store nor this worker is overrun.
async fn catch_up(sockets: &Sockets, since: Instant) {
    let online = sockets.online();
    // Without it, each user is read from their log-in on.
    let age = since.elapsed() + WRITE_TIME;
    let old = sockets.store.position(age).await.unwrap_or_default();
    let mut delivered = 0;
    for (user, position) in online {
        let from = old.map_or(position, |old| position.later(old));
        match replay(sockets, &user, from, since).await {
            Ok(count) => delivered += count,
            Err(error) => {
                tracing::warn!(user, %error, "a user could not be caught up; asking their clients to come back");
                sockets.adapter.missed_for_good(NAMESPACE, &[&user]);
            }
        }
    }
    delivered += catch_up_in_lobby(sockets, since).await;
    end_sessions(sockets).await;
    tracing::info!(delivered, "caught up with the store");
}

/// What was said in the lobby, as far as it is kept. Returns how much of it.
async fn catch_up_in_lobby(sockets: &Sockets, since: Instant) -> usize {
    let (said, age) = match try_often(sockets, since, || sockets.store.said()).await {
        Ok(read) => read,
        Err(error) => {
            tracing::warn!(%error, "the lobby could not be caught up; asking its clients to come back");
            sockets.adapter.missed_for_good(lobby::NAMESPACE, &[]);
            return 0;
        }
    };
    let oldest = oldest(said.as_of, age);
    let young = said.lines.iter().filter(|line| line.at >= oldest);
    young.filter(|line| sockets.hear_again(line)).count()
}

/// Sessions may have ended without a word.
async fn end_sessions(sockets: &Sockets) {
    let now = Instant::now();
    for id in sockets.sessions.ids() {
        match try_often(sockets, now, || sockets.store.has_ended(&id)).await {
            Ok((true, _)) => sockets.sessions.end(&id),
            Ok((false, _)) => {}
            Err(error) => {
                tracing::debug!(%error, "a session could not be looked at; asking its clients to come back");
                sockets.sessions.send_away(&id);
            }
        }
    }
}

/// Asks the store until it answers, some times; with the answer comes how long ago `since` was
/// before it was asked.
async fn try_often<'a, T>(
    sockets: &Sockets,
    since: Instant,
    ask: impl Fn() -> StoreFuture<'a, T>,
) -> Result<(T, Duration), StoreError> {
    let mut tries = 1;
    loop {
        // By our clock; the times of messages are by the store's.
        let age = since.elapsed() + WRITE_TIME;
        match ask().await {
            Ok(answer) => return Ok((answer, age)),
            Err(error) if tries == TRIES => return Err(error),
            Err(_) => {}
        }
        tries += 1;
        until_up(&*sockets.store).await;
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// What was stored at this time or later may have been missed; by the store's clock, which was read
/// after `age`.
fn oldest(as_of: u64, age: Duration) -> u64 {
    as_of.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

async fn replay(
    sockets: &Sockets,
    user: &str,
    position: Position,
    since: Instant,
) -> Result<usize, StoreError> {
    let read = || sockets.store.replay(user, position);
    let (replay, age) = try_often(sockets, since, read).await?;
    let oldest = oldest(replay.as_of, age);
    let young = |at: Option<u64>| at.is_some_and(|at| at >= oldest);
    let mut delivered = 0;
    for message in replay.messages.iter().filter(|message| young(message.at)) {
        let event = "private message";
        let adapter = &sockets.adapter;
        match adapter.deliver_event(NAMESPACE, &[user], &[], event, message) {
            Ok(()) => delivered += 1,
            Err(error) => tracing::debug!(%error, "a stored message cannot be delivered"),
        }
    }
    Ok(delivered)
}

async fn until_up(store: &dyn Store) {
    let mut health = store.health();
    let up = health.wait_for(|health| *health == Health::Up);
    // The wait ends with the store only.
    let _ = timeout(STORE_PATIENCE, up).await;
}
