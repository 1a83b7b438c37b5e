//! Leaving: every client is asked to come back elsewhere, and the worker waits
//! until they are gone or its time is over.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
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
        loop {
            self.sessions.empty().await;
            self.streams.empty().await;
            // A stream that was waited for may have opened a session late, and
            // streams may come while sessions are waited for.
            if self.sessions.empty().now_or_never().is_some() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use tokio::sync::Notify;

    use super::*;
    use crate::board::Board;
    use crate::client_handle::Client;
    use crate::secret::Secret;
    use crate::sessions::{CloseEngineSession, Limits};
    use crate::stream_state::Origin;

    /// Closes when it is let.
    struct Gated(Arc<Notify>);

    impl CloseEngineSession for Gated {
        fn close(&self, _: &str) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            let gate = self.0.clone();
            Box::pin(async move { gate.notified().await })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_comes_while_sessions_are_waited_for_is_waited_for() {
        let board = Arc::new(Board::create().unwrap().0);
        let limits = Limits {
            unfinished: 9,
            lifetime: Duration::from_secs(45),
        };
        let gate = Arc::new(Notify::new());
        let sessions = Sessions::new(limits, board.clone(), Box::new(Gated(gate.clone())));
        sessions.opened(&Arc::new(Client::polling(Secret::random())), "a");
        let streams = Arc::new(StreamRegistry::new(board));
        let drain = Drain {
            draining: CancellationToken::new(),
            sessions,
            streams: streams.clone(),
        };
        let drain = tokio::spawn(drain.run(Duration::from_secs(80)));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let stream = streams.enter(Origin::plain_relay());
        gate.notify_one();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!drain.is_finished());
        drop(stream);
        timeout(Duration::from_secs(1), drain)
            .await
            .unwrap()
            .unwrap();
    }
}
