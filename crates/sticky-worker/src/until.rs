//! Waiting for a condition that somebody else makes true.

use tokio::sync::Notify;

/// Resolves when `done`, which is asked again each time that `changed` tells
/// all who wait.
pub(crate) async fn until(changed: &Notify, done: impl Fn() -> bool) {
    loop {
        // Listening before asking: a change in between is not missed.
        let told = changed.notified();
        tokio::pin!(told);
        told.as_mut().enable();
        if done() {
            return;
        }
        told.await;
    }
}
