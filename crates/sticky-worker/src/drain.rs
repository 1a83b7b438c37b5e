//! Leaving: every client is asked to come back elsewhere, and the worker waits
//! until they are gone or its time is over.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::sessions::Sessions;
use crate::stream_registry::StreamRegistry;

/// Of the time there is, kept for the application to see the ends of the
/// streams that are cut.
const LAST_PART: u32 = 8;

/// What leaving takes.
pub(crate) struct Drain {
    /// Everything that behaves differently from now on listens to this.
    pub(crate) draining: CancellationToken,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) streams: Arc<StreamRegistry>,
}

impl Drain {
    /// Resolves when nobody is left, or after `within`. Handshakes that still
    /// come are answered 503, idle connections close, and what is not gone
    /// shortly before the end is cut.
    pub(crate) async fn run(self, within: Duration) {
        self.draining.cancel();
        self.ask_everybody();
        let last = within / LAST_PART;
        if timeout(within - last, self.everybody_gone()).await.is_ok() {
            tracing::info!("everybody is gone");
            return;
        }
        tracing::warn!("not everybody left in time; the rest is cut");
        self.streams.cut_all();
        let _ = timeout(last, self.everybody_gone()).await;
    }

    /// All at once; to spread it over a while, pace these two.
    fn ask_everybody(&self) {
        self.sessions.ask_all();
        for stream in self.streams.websockets() {
            stream.ask_to_return();
        }
    }

    async fn everybody_gone(&self) {
        tokio::join!(self.streams.empty(), self.sessions.empty());
    }
}
