//! How far a worker is with leaving. What behaves differently then asks here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio_util::sync::CancellationToken;

/// One worker's way out: serving, then draining, then closing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Departure {
    draining: CancellationToken,
    closing: CancellationToken,
    alone: Arc<AtomicBool>,
}

impl Departure {
    /// From now on clients are asked to come back elsewhere, one after the other,
    /// and each answer closes its connection. `alone`: there is no other worker to
    /// go to.
    pub(crate) fn begin(&self, alone: bool) {
        self.alone.store(alone, SeqCst);
        self.draining.cancel();
    }

    /// Everybody was asked who was there: connections without a request close.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    /// Is cancelled when it begins.
    pub(crate) fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Whether a handshake that still arrives is refused. Where others are, it is
    /// served and its client asked to move: an error would cost the client one of
    /// its attempts.
    pub(crate) fn refuses_handshakes(&self) -> bool {
        self.is_draining() && self.alone.load(SeqCst)
    }

    /// Resolves when everybody was asked.
    pub(crate) async fn closing(&self) {
        self.closing.cancelled().await;
    }
}
