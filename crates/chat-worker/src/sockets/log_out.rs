//! The end of a session, told to every process.

use std::sync::Arc;

use bytes::Bytes;

use super::Sockets;
use crate::store::StoreError;

/// The channel on which the ids of sessions that have ended are published.
const CHANNEL: &str = "cc:logout";

/// Hears of sessions that end anywhere.
pub(super) fn listen(sockets: &Arc<Sockets>) {
    let weak = Arc::downgrade(sockets);
    sockets.adapter.listen(CHANNEL, move |id| {
        if let (Some(sockets), Ok(id)) = (weak.upgrade(), std::str::from_utf8(id)) {
            sockets.sessions.end(id);
        }
    });
}

impl Sockets {
    /// Ends a session for good, and disconnects its sockets everywhere. In this order: a socket that
    /// comes in between finds that it has ended.
    ///
    /// # Errors
    /// It is not known to have ended.
    pub(crate) async fn end_session(self: &Arc<Self>, id: &str) -> Result<(), StoreError> {
        if self.store.end_session(id).await? {
            self.publish(CHANNEL, Bytes::from(id.to_owned()));
        }
        Ok(())
    }
}
