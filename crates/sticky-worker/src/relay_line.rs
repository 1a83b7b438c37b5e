//! The relay connections that one client's connection keeps for its next
//! requests. They end with it; so nobody's request ever waits behind another
//! client's.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::sid_tag::SidTag;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use crate::board::Board;

/// Owners whose connections are kept: a proxy's connection carries sessions of
/// all workers of a node. The one unused for longest goes.
const KEPT_MAX: usize = 8;

/// What one client's connection keeps.
pub(crate) struct RelayLine {
    kept: Mutex<Vec<Kept>>,
    /// One that was idle for longer is not used again.
    idle_max: Duration,
}

struct Kept {
    owner: SidTag,
    sender: SendRequest<Incoming>,
    since: Instant,
}

impl RelayLine {
    /// The owners close connections that were idle for `idle_timeout`. A request
    /// must not meet that: it could not be sent again.
    pub(crate) fn new(idle_timeout: Duration) -> RelayLine {
        RelayLine {
            kept: Mutex::default(),
            idle_max: idle_timeout / 2,
        }
    }

    /// A connection to that owner that is still open.
    pub(crate) fn take(&self, owner: SidTag) -> Option<SendRequest<Incoming>> {
        let mut kept = self.kept.lock().expect("never poisoned");
        let place = kept.iter().position(|kept| kept.owner == owner)?;
        let found = kept.remove(place);
        let usable = !found.sender.is_closed() && found.since.elapsed() < self.idle_max;
        usable.then_some(found.sender)
    }

    /// Keeps one whose answer has begun: when the client's next request comes,
    /// it has ended.
    pub(crate) fn keep(&self, owner: SidTag, sender: SendRequest<Incoming>) {
        let mut kept = self.kept.lock().expect("never poisoned");
        kept.retain(|kept| !kept.sender.is_closed());
        if kept.len() >= KEPT_MAX {
            kept.remove(0);
        }
        kept.push(Kept {
            owner,
            sender,
            since: Instant::now(),
        });
    }
}

/// Counts a relay connection's descriptor as taken, for as long as it lives.
pub(crate) struct OpenRelay(Arc<Board>);

impl OpenRelay {
    pub(crate) fn new(board: &Arc<Board>) -> OpenRelay {
        board.relay_opened();
        OpenRelay(board.clone())
    }
}

impl Drop for OpenRelay {
    fn drop(&mut self) {
        self.0.relay_closed();
    }
}
