//! Events from outside, for the members of a room anywhere.

use std::sync::Arc;

use redis_adapter::EmitError;

use super::Sockets;
use crate::chat::outside::{CHANNEL, OutsideEvent};

/// What became of an event from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Published {
    /// The room's members here have it, and the bus has taken it for the others.
    Everywhere,
    /// The room's members here have it. Whether others have is not known.
    HereAtMost,
    /// There is no such namespace.
    NoNamespace,
    /// It cannot be sent at all, and why.
    Never(String),
}

impl Sockets {
    /// Emits an event to a room's members on every process: one publication, which only those that
    /// host a member hear.
    pub(crate) async fn publish_to_room(&self, event: &OutsideEvent) -> Published {
        let OutsideEvent {
            namespace,
            room,
            event,
            msg,
        } = event;
        let sent = self
            .adapter
            .broadcast_event(namespace, &[room], &[], event, msg);
        match sent.await {
            Ok(()) => Published::Everywhere,
            Err(EmitError::UnknownNamespace(_)) => Published::NoNamespace,
            Err(EmitError::Bus(error)) => {
                tracing::debug!(%error, "an event from outside was not confirmed");
                Published::HereAtMost
            }
            Err(error) => Published::Never(error.to_string()),
        }
    }

    /// What another program published for every process.
    fn hear_from_outside(&self, text: &[u8]) {
        let event = match OutsideEvent::from_json(text) {
            Ok(event) => event,
            Err(why) => {
                tracing::debug!(why, "ignoring what is no event for a room");
                return;
            }
        };
        let OutsideEvent {
            namespace,
            room,
            event,
            msg,
        } = &event;
        let delivered = self
            .adapter
            .deliver_event(namespace, &[room], &[], event, msg);
        if let Err(error) = delivered {
            tracing::debug!(%error, "an event from outside cannot be emitted");
        }
    }
}

/// Hears what other programs publish on their channel.
pub(super) fn listen(sockets: &Arc<Sockets>) {
    let weak = Arc::downgrade(sockets);
    sockets.adapter.listen(CHANNEL, move |text| {
        if let Some(sockets) = weak.upgrade() {
            sockets.hear_from_outside(text);
        }
    });
}
