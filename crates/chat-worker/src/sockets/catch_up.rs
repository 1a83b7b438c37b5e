//! After a gap in the bus the store tells what was missed: for each user who is connected here,
//! the messages of that time are delivered again, and those that a socket has heard are screened.
//! What comes for a user meanwhile waits until that is done, so that it overtakes nothing.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use redis_adapter::Missed;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{MAX_READS, NAMESPACE, Sockets, lobby};
use crate::chat::lobby::CHANNEL as LOBBY_CHANNEL;
use crate::store::{Health, Position, Replay, StoreError, StoreFuture, oldest};

/// Users that are caught up at the same time. After an outage every worker does it: the store gets
/// no more from each than that.
const AT_ONCE: usize = 8;

/// A message may have been stored that long before it was to be published: its time is that of the
/// write's beginning, and a write may take a while.
const WRITE_TIME: Duration = Duration::from_secs(5);

/// Tries for each user; between two, the store has to say that it can be read. A Redis that loads its
/// data says so for minutes, and no client is better off for having come back meanwhile.
const TRIES: usize = 5;

/// How long a store that can only be read is waited for between two tries.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// Between two tries.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// Catches up after each gap, for as long as the process lives.
pub(crate) async fn keep_caught_up(sockets: Arc<Sockets>) {
    loop {
        let missed = sockets.adapter.missed().await;
        let gap_ms = missed.since().elapsed().as_millis() as u64;
        let users = sockets.online().len();
        // At its start a process has nobody yet who could miss something.
        if users > 0 {
            tracing::warn!(
                gap_ms,
                users,
                "broadcasts may have been missed; reading the store"
            );
        }
        let delivered = catch_up(&sockets, &missed).await;
        sockets.adapter.all_made_good(&missed);
        if let Err(error) = sockets.read_roll().await {
            // It is read from time to time in any case.
            tracing::debug!(%error, "who came and went meanwhile is not known yet");
        }
        end_sessions(&sockets).await;
        if users > 0 {
            tracing::info!(delivered, "caught up with the store");
        }
    }
}

/// Returns how many messages may have been missed.
async fn catch_up(sockets: &Sockets, missed: &Missed) -> usize {
    let online = sockets.online();
    // Without it, each user is read from where they were told last.
    let old = sockets
        .store
        .position(age(missed))
        .await
        .unwrap_or_default();
    let users = stream::iter(online).map(async |(user, position)| {
        let from = old.map_or(position, |old| position.later(old));
        let caught_up = catch_up_user(sockets, missed, &user, from).await;
        caught_up.unwrap_or_else(|error| {
            tracing::warn!(user, %error, "a user could not be caught up; asking their clients to come back");
            sockets.adapter.missed_for_good(NAMESPACE, &[&user]);
            0
        })
    });
    let counts = users.buffer_unordered(AT_ONCE);
    let delivered = counts.fold(0, async |sum, count| sum + count).await;
    delivered + catch_up_in_lobby(sockets, missed).await
}

#[derive(Debug, thiserror::Error)]
enum CatchUpError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("more is broadcast than can wait")]
    Overflow,
}

async fn catch_up_user(
    sockets: &Sockets,
    missed: &Missed,
    user: &str,
    mut from: Position,
) -> Result<usize, CatchUpError> {
    let mut delivered = 0;
    for _ in 0..MAX_READS {
        let read = || sockets.store.replay_young(user, from, age(missed));
        let replay = try_often(sockets, read).await?;
        delivered += deliver(sockets, user, &replay);
        from = replay.next;
        if sockets.adapter.made_good(missed, NAMESPACE, user).is_ok() {
            sockets.is_caught_up(user, from);
            return Ok(delivered);
        }
    }
    Err(CatchUpError::Overflow)
}

fn deliver(sockets: &Sockets, user: &str, replay: &Replay) -> usize {
    let deliver = |message| {
        let adapter = &sockets.adapter;
        let delivered = adapter.deliver_event(NAMESPACE, &[user], &[], "private message", message);
        delivered
            .inspect_err(|error| tracing::debug!(%error, "a stored message cannot be delivered"))
    };
    replay
        .messages
        .iter()
        .map(deliver)
        .filter(Result::is_ok)
        .count()
}

/// What was said in the lobby, as far as it is kept. Returns how much of it.
async fn catch_up_in_lobby(sockets: &Sockets, missed: &Missed) -> usize {
    let mut delivered = 0;
    for _ in 0..MAX_READS {
        let read = async || {
            let age = age(missed);
            sockets.store.said().await.map(|said| (said, age))
        };
        let (said, age) = match try_often(sockets, || Box::pin(read())).await {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(%error, "the lobby could not be caught up; asking its clients to come back");
                break;
            }
        };
        let oldest = oldest(said.as_of, age);
        let young = said.lines.iter().filter(|line| line.at >= oldest);
        delivered += young.filter(|line| sockets.hear_again(line)).count();
        if sockets.adapter.made_good_on(missed, LOBBY_CHANNEL).is_ok() {
            return delivered;
        }
    }
    sockets.adapter.missed_for_good(lobby::NAMESPACE, &[]);
    delivered
}

/// Sessions may have ended without a word.
async fn end_sessions(sockets: &Sockets) {
    for id in sockets.sessions.ids() {
        match try_often(sockets, || sockets.store.has_ended(&id)).await {
            Ok(true) => sockets.sessions.end(&id),
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(%error, "a session could not be looked at; asking its clients to come back");
                sockets.sessions.send_away(&id);
            }
        }
    }
}

/// How old what was missed may be now. By our clock; the times of messages are by the store's.
fn age(missed: &Missed) -> Duration {
    missed.since().elapsed() + WRITE_TIME
}

/// Asks the store until it answers, some times.
async fn try_often<'a, T>(
    sockets: &Sockets,
    ask: impl Fn() -> StoreFuture<'a, T>,
) -> Result<T, StoreError> {
    let mut tries = 1;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if tries == TRIES => return Err(error),
            Err(_) => {}
        }
        tries += 1;
        until_it_can_be_read(sockets.store.health()).await;
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

async fn until_it_can_be_read(mut health: watch::Receiver<Health>) {
    // The waits end with the store only.
    let answers = health.wait_for(|health| !matches!(health, Health::Down(_)));
    let _ = answers.await;
    let up = health.wait_for(|health| *health == Health::Up);
    let _ = timeout(STORE_PATIENCE, up).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_answer_is_waited_for_and_one_that_can_be_read_is_not() {
        let health = watch::Sender::new(Health::Down("it loads".into()));
        let waits = || until_it_can_be_read(health.subscribe());
        let hour = Duration::from_secs(3_600);
        assert!(timeout(hour, waits()).await.is_err());
        let waiting = tokio::spawn(waits());
        tokio::task::yield_now().await;
        health.send_replace(Health::Up);
        timeout(RETRY_DELAY, waiting).await.unwrap().unwrap();
        assert!(timeout(RETRY_DELAY, waits()).await.is_ok());
        health.send_replace(Health::ReadOnly("the disk is full".into()));
        assert!(timeout(STORE_PATIENCE * 2, waits()).await.is_ok());
    }
}
