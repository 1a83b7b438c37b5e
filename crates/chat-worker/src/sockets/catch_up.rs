//! After a gap in the bus the store tells what was missed: for each user who is connected here,
//! the messages of that time are delivered again, and those that a socket has heard are screened.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{NAMESPACE, Sockets};
use crate::store::{Health, Position, Store, StoreError};

/// A gap may have begun that long before it was noticed: the bus takes some 10 s to find out that
/// its connection has fallen silent, and clocks of publishers and ours differ a little.
const UNNOTICED: Duration = Duration::from_secs(20);

/// Tries for each user; between two, the store has to say that it answers.
const TRIES: usize = 5;

/// Between two tries.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// Catches up after each gap, for as long as the process lives.
pub(crate) async fn keep_caught_up(sockets: Arc<Sockets>) {
    let mut gaps = sockets.adapter.watch_gaps();
    let mut up = sockets.adapter.bus().watch_up();
    let mut down_since = None;
    loop {
        tokio::select! {
            Ok(()) = up.changed() => {
                if !*up.borrow_and_update() {
                    down_since.get_or_insert_with(Instant::now);
                }
            }
            Ok(()) = gaps.changed() => {
                let gaps = *gaps.borrow_and_update();
                let since: Option<Instant> = down_since.take();
                let gap = since.map_or(Duration::ZERO, |since| since.elapsed());
                tracing::warn!(gaps, ?gap, "broadcasts may have been missed; reading the store");
                catch_up(&sockets, gap + UNNOTICED).await;
            }
            else => return,
        }
    }
}

/// One user after the other, so that neither the store nor this worker is overrun.
async fn catch_up(sockets: &Sockets, time: Duration) {
    let online = sockets.online();
    let mut delivered = 0;
    for (user, position) in online {
        match replay(sockets, &user, position, time).await {
            Ok(count) => delivered += count,
            Err(error) => tracing::warn!(user, %error, "a user could not be caught up"),
        }
    }
    tracing::info!(delivered, "caught up with the store");
}

async fn replay(
    sockets: &Sockets,
    user: &str,
    position: Position,
    time: Duration,
) -> Result<usize, StoreError> {
    let mut tries = 1;
    let replay = loop {
        match sockets.store.replay(user, position).await {
            Ok(replay) => break replay,
            Err(error) if tries == TRIES => return Err(error),
            Err(_) => {}
        }
        tries += 1;
        until_up(&*sockets.store).await;
        tokio::time::sleep(RETRY_DELAY).await;
    };
    let oldest = u128::from(replay.as_of).saturating_sub(time.as_millis());
    let young = |at: Option<u64>| at.is_some_and(|at| u128::from(at) >= oldest);
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
    // Ends with the store only.
    let _ = health.wait_for(|health| *health == Health::Up).await;
}
