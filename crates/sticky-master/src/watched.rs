//! The connections whose first request is waited for, oldest first: when there
//! are too many, the oldest ends.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Watched(Mutex<VecDeque<oneshot::Sender<()>>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct MustEnd(oneshot::Receiver<()>);

impl Watched {
    /// Adds one, as the youngest.
    pub(crate) fn enter(&self) -> MustEnd {
        let (end, must_end) = oneshot::channel();
        let mut all = self.lock();
        // Those that are done leave with the first one that is not before them,
        // which stays for as long as a head may take.
        while all.front().is_some_and(oneshot::Sender::is_closed) {
            all.pop_front();
        }
        all.push_back(end);
        MustEnd(must_end)
    }

    /// Ends the oldest; false when there is none.
    pub(crate) fn end_oldest(&self) -> bool {
        let mut all = self.lock();
        while let Some(end) = all.pop_front() {
            if end.send(()).is_ok() {
                return true;
            }
        }
        false
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        let all = self.lock();
        all.iter().filter(|end| !end.is_closed()).count() as u64
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<oneshot::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MustEnd {
    /// Resolves when it has to end.
    pub(crate) async fn ended(self) {
        if self.0.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_oldest_that_still_waits_ends() {
        let watched = Watched::default();
        assert!(!watched.end_oldest());
        let (first, second, third) = (watched.enter(), watched.enter(), watched.enter());
        drop(first);
        assert!(watched.end_oldest());
        assert!(second.ended().now_or_never().is_some());
        assert!(third.ended().now_or_never().is_none());
        assert!(!watched.end_oldest());
        assert_eq!(watched.lock().len(), 0);
    }
}
