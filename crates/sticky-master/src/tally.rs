//! What the master did not let through, counted by reason, and told in the log
//! in a line now and then.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use common::tally_line::{LINE_INTERVAL, difference};
use tokio::sync::Notify;

use crate::refuse::Refusal;

/// The counts since the start.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    refused: [AtomicU64; Refusal::ALL.len()],
    silent: AtomicU64,
    changed: Notify,
}

impl Tally {
    /// A connection was refused.
    pub(crate) fn refused(&self, refusal: Refusal) {
        let place = Refusal::ALL.iter().position(|one| *one == refusal);
        if let Some(count) = place.and_then(|place| self.refused.get(place)) {
            count.fetch_add(1, Relaxed);
        }
        self.changed.notify_one();
    }

    /// A connection that had sent no whole request had to make room.
    pub(crate) fn ended_silent(&self) {
        self.silent.fetch_add(1, Relaxed);
        self.changed.notify_one();
    }

    /// How many were refused so far, by reason.
    pub(crate) fn by_reason(&self) -> Vec<(&'static str, u64)> {
        let refused = Refusal::ALL.iter().zip(&self.refused);
        let refused = refused.map(|(refusal, count)| (refusal.reason(), count.load(Relaxed)));
        refused.collect()
    }

    /// How many silent ones had to make room.
    pub(crate) fn made_room(&self) -> u64 {
        self.silent.load(Relaxed)
    }

    fn now(&self) -> Vec<(&'static str, u64)> {
        let mut now = self.by_reason();
        now.push(("ended for want of room", self.made_room()));
        now
    }

    /// Tells for ever.
    pub(crate) async fn tell(&self) {
        let mut told = self.now();
        loop {
            self.changed.notified().await;
            let now = self.now();
            if let Some(line) = difference(&told, &now) {
                tracing::warn!(connections = line, "not served");
            }
            told = now;
            tokio::time::sleep(LINE_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_and_told_once() {
        let tally = Tally::default();
        let first = tally.now();
        assert_eq!(difference(&first, &tally.now()), None);
        tally.refused(Refusal::TooMany);
        tally.refused(Refusal::NotHttp);
        tally.refused(Refusal::NotHttp);
        tally.ended_silent();
        let second = tally.now();
        let line = "2 not HTTP/1, 1 too many connections, 1 ended for want of room";
        assert_eq!(difference(&first, &second).as_deref(), Some(line));
        assert_eq!(difference(&second, &tally.now()), None);
    }
}
