//! socketioxide's adapter of one namespace: local delivery first, then the bus.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use socketioxide::adapter::Emitter;
use socketioxide_core::adapter::errors::{AdapterError, BroadcastError};
use socketioxide_core::adapter::{
    BroadcastOptions, CoreAdapter, CoreLocalAdapter, DefinedAdapter, Room, RoomParam, SocketEmitter,
};
use socketioxide_core::packet::Packet;

use crate::call::census;
use crate::cluster::tell;
use crate::namespace::{Namespace, target_of};
use crate::request::{Ask, Target};
use crate::state::{AdapterState, EmitError};

/// The adapter, for `SocketIo::builder().with_adapter::<Adapter>(state)`.
///
/// Broadcasts, joins, leaves and disconnects reach the sockets of every process that shares the
/// bus. What has an answer (`sockets`, `fetch_sockets`, `rooms`, `emit_with_ack`) is about this
/// process's sockets only, because socketioxide's types have no place for JavaScript's sockets: the
/// same is there for the whole cluster as a function of [`AdapterState`]. `emit_with_ack` passes by
/// the gates of held sockets.
pub struct Adapter {
    namespace: Arc<Namespace>,
}

impl CoreAdapter<Emitter> for Adapter {
    type Error = EmitError;
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

    async fn close(&self) -> Result<(), EmitError> {
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
    ) -> Result<Self::AckStream, EmitError> {
        Ok(self.namespace.deliver_with_ack(packet, opts, timeout).0)
    }

    async fn add_sockets(
        &self,
        opts: BroadcastOptions,
        rooms: impl RoomParam,
    ) -> Result<(), EmitError> {
        let rooms = names(rooms);
        let told = self.told(&opts, |target| Ask::Join {
            target,
            rooms: rooms.clone(),
        });
        let sockets = self.get_local().sockets(opts);
        self.namespace.join_known(sockets, &rooms).await?;
        told.await
    }

    async fn del_sockets(
        &self,
        opts: BroadcastOptions,
        rooms: impl RoomParam,
    ) -> Result<(), EmitError> {
        let rooms = names(rooms);
        let told = self.told(&opts, |target| Ask::Leave {
            target,
            rooms: rooms.clone(),
        });
        for sid in self.get_local().sockets(opts) {
            self.namespace.leave(sid, &rooms);
        }
        told.await
    }

    async fn disconnect_socket(&self, opts: BroadcastOptions) -> Result<(), BroadcastError> {
        let told = self.told(&opts, |target| Ask::Disconnect {
            target,
            close: false,
        });
        let disconnected = self.get_local().disconnect_socket(opts);
        told.await.map_err(AdapterError::from)?;
        disconnected.map_err(BroadcastError::Socket)
    }

    async fn server_count(&self) -> Result<u16, EmitError> {
        let census = census(&self.namespace.shared, self.namespace.path()).await?;
        Ok(u16::try_from(census.total.saturating_add(1)).unwrap_or(u16::MAX))
    }

    fn get_local(&self) -> &CoreLocalAdapter<Emitter> {
        &self.namespace.local
    }
}

impl Adapter {
    /// Tells the other servers, unless only this process's sockets are meant. Queued at the call.
    fn told(
        &self,
        opts: &BroadcastOptions,
        ask: impl FnOnce(Target) -> Ask,
    ) -> BoxFuture<'static, Result<(), EmitError>> {
        let target = match opts.is_local(self.namespace.local.server_id()) {
            true => None,
            false => target_of(opts),
        };
        match target {
            Some(target) => tell(&self.namespace, &ask(target)),
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }
}

fn names(rooms: impl RoomParam) -> Vec<String> {
    rooms.into_room_iter().map(Room::into_owned).collect()
}

impl DefinedAdapter for Adapter {}

impl Drop for Adapter {
    fn drop(&mut self) {
        self.namespace.shared.remove(&self.namespace);
    }
}
