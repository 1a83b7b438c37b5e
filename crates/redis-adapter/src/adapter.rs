//! socketioxide's adapter of one namespace: local delivery first, then the bus.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use socketioxide::adapter::Emitter;
use socketioxide_core::adapter::errors::{AdapterError, BroadcastError};
use socketioxide_core::adapter::{
    BroadcastOptions, CoreAdapter, CoreLocalAdapter, DefinedAdapter, Room, RoomParam, SocketEmitter,
};
use socketioxide_core::packet::Packet;

use crate::bus::BusError;
use crate::namespace::Namespace;
use crate::state::{AdapterState, EmitError};

/// The adapter, for `SocketIo::builder().with_adapter::<Adapter>(state)`.
///
/// Broadcasts reach the sockets of every process that shares the bus. All else
/// (`fetch_sockets`, `disconnect`, `emit_with_ack`, ...) is about this process's
/// sockets only; `emit_with_ack` also passes by the gates of held sockets.
pub struct Adapter {
    namespace: Arc<Namespace>,
}

impl From<BusError> for AdapterError {
    fn from(error: BusError) -> Self {
        Self(Box::new(error))
    }
}

impl CoreAdapter<Emitter> for Adapter {
    type Error = BusError;
    type State = AdapterState;
    type AckStream = <Emitter as SocketEmitter>::AckStream;
    type InitRes = ();

    fn new(state: &AdapterState, local: CoreLocalAdapter<Emitter>) -> Self {
        let namespace = Arc::new(Namespace::new(state.shared().clone(), local));
        Self { namespace }
    }

    fn init(self: Arc<Self>, on_success: impl FnOnce() + Send + 'static) {
        self.namespace.shared.add(&self.namespace);
        self.namespace.subscribe_base();
        on_success();
    }

    async fn close(&self) -> Result<(), BusError> {
        self.namespace.shared.remove(&self.namespace);
        Ok(())
    }

    /// Delivers and queues the publication at the call; the future waits for
    /// the bus's confirmation.
    fn broadcast(
        &self,
        packet: Packet,
        opts: BroadcastOptions,
    ) -> impl Future<Output = Result<(), BroadcastError>> + Send {
        let published = match opts.is_local(self.namespace.local.server_id()) {
            true => None,
            false => Some(self.namespace.publish(&packet, &opts)),
        };
        let delivered = self.namespace.deliver(packet, opts);
        async move {
            let published = match published {
                None => Ok(()),
                Some(Ok(confirmation)) => confirmation.await.map_err(EmitError::from),
                Some(Err(error)) => Err(error.into()),
            };
            published.map_err(|error| AdapterError(Box::new(error)))?;
            delivered.map_err(BroadcastError::Socket)
        }
    }

    async fn broadcast_with_ack(
        &self,
        packet: Packet,
        opts: BroadcastOptions,
        timeout: Option<Duration>,
    ) -> Result<Self::AckStream, BusError> {
        Ok(self.get_local().broadcast_with_ack(packet, opts, timeout).0)
    }

    async fn add_sockets(
        &self,
        opts: BroadcastOptions,
        rooms: impl RoomParam,
    ) -> Result<(), BusError> {
        let rooms: Vec<Room> = rooms.into_room_iter().collect();
        let sockets = self.get_local().sockets(opts);
        self.namespace.join_known(sockets, &rooms).await
    }

    async fn del_sockets(
        &self,
        opts: BroadcastOptions,
        rooms: impl RoomParam,
    ) -> Result<(), BusError> {
        let rooms: Vec<Room> = rooms.into_room_iter().collect();
        for sid in self.get_local().sockets(opts) {
            self.namespace.leave(sid, &rooms);
        }
        Ok(())
    }

    fn get_local(&self) -> &CoreLocalAdapter<Emitter> {
        &self.namespace.local
    }
}

impl DefinedAdapter for Adapter {}

impl Drop for Adapter {
    fn drop(&mut self) {
        self.namespace.shared.remove(&self.namespace);
    }
}
