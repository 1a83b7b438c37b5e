//! One namespace of this process: delivers broadcasts to its local sockets,
//! publishes them, and keeps the subscriptions that its rooms need.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use socketioxide::adapter::Emitter;
use socketioxide::extract::SocketRef;
use socketioxide_core::Sid;
use socketioxide_core::adapter::errors::SocketError;
use socketioxide_core::adapter::{
    BroadcastFlags, BroadcastOptions, CoreLocalAdapter, Room, SocketEmitter,
};
use socketioxide_core::packet::Packet;

use crate::adapter::Adapter;
use crate::broadcast::{self, EncodeError, Header};
use crate::bus::{BusError, Publication};
use crate::channel;
use crate::gate_table::GateTable;
use crate::membership::{Membership, Reserved, Settled};
use crate::msgpack::DecodeError;
use crate::outlet::{Outlets, WholeEvent};
use crate::request::Target;
use crate::screen::{Keep, Screens};
use crate::state::Shared;

/// The room that held sockets are in, so that `except` can leave them out. The
/// zero byte keeps it apart from rooms that people name.
pub(crate) const HELD_ROOM: Room = Room::Borrowed("\0held");

/// Locks are taken in the order of the fields, `gates` before `membership`,
/// before those inside `local`. No code of others runs under them.
pub(crate) struct Namespace {
    path: Arc<str>,
    pub(crate) shared: Arc<Shared>,
    /// Read for the whole of a delivery, written when a gate comes or goes: so a
    /// packet meets a gate entirely or not at all.
    gates: RwLock<GateTable>,
    screens: Mutex<Screens>,
    membership: Mutex<Membership>,
    pub(crate) outlets: Outlets,
    /// Who was introduced, and when.
    sockets: Mutex<HashMap<Sid, (SocketRef<Adapter>, SystemTime)>>,
    pub(crate) local: CoreLocalAdapter<Emitter>,
}

/// A future that says whether the bus has confirmed.
pub(crate) type Confirmation = BoxFuture<'static, Result<(), BusError>>;

impl Namespace {
    pub(crate) fn new(shared: Arc<Shared>, local: CoreLocalAdapter<Emitter>) -> Self {
        Self {
            path: Arc::from(local.path().as_str()),
            shared,
            gates: RwLock::default(),
            screens: Mutex::default(),
            membership: Mutex::default(),
            outlets: Outlets::default(),
            sockets: Mutex::default(),
            local,
        }
    }

    pub(crate) fn path(&self) -> &Arc<str> {
        &self.path
    }

    fn membership(&self) -> MutexGuard<'_, Membership> {
        self.membership
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn read_gates(&self) -> RwLockReadGuard<'_, GateTable> {
        self.gates.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write_gates(&self) -> RwLockWriteGuard<'_, GateTable> {
        self.gates.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn screens(&self) -> MutexGuard<'_, Screens> {
        self.screens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Broadcasts.

    /// Hands `packet` to the local sockets that `opts` mean, or to their gates.
    pub(crate) fn deliver(
        &self,
        packet: Packet,
        mut opts: BroadcastOptions,
    ) -> Result<(), Vec<SocketError>> {
        let gates = self.read_gates();
        if !gates.is_empty() {
            let target = single_target(&opts);
            let membership = self.membership();
            gates.buffer(&packet, &opts, |sid, room| membership.has_joined(sid, room));
            drop(membership);
            if target.is_some_and(|sid| gates.holds(sid)) {
                return Ok(());
            }
            opts.except.push(HELD_ROOM);
        }
        let is_volatile = opts.has_flag(BroadcastFlags::Volatile);
        let screens = self.screens().of(opts.rooms.iter().map(AsRef::as_ref));
        let json = broadcast::json_of(&packet).map_or("", |(json, _)| json);
        let is_behind = self.shared.is_behind.load(Ordering::Relaxed);
        let whole = WholeEvent::of(&packet).filter(|_| !is_behind);
        // One by one: each may know the event already, and of several,
        // socketioxide does not say whose queue is full.
        let mut errors = Vec::new();
        let mut overflowed = Vec::new();
        let (mut at_once, mut queued) = (0, 0);
        for sid in self.local.sockets(opts) {
            if screens.get(&sid).is_some_and(|keep| !keep(json)) {
                continue;
            }
            let outlet = self.outlets.get(&sid);
            if let (Some(outlet), Some(whole)) = (&outlet, &whole)
                && outlet.send_now(whole)
            {
                at_once += 1;
                continue;
            }
            let mut only = BroadcastOptions::new(sid);
            if is_volatile {
                only.add_flag(BroadcastFlags::Volatile);
            }
            queued += 1;
            let fits = match self.local.broadcast(packet.clone(), only) {
                Ok(()) => outlet
                    .as_ref()
                    .is_none_or(|outlet| outlet.queued(json.len())),
                Err(failed) => {
                    let is_full = |error| matches!(error, &SocketError::InternalChannelFull);
                    let fits = is_volatile || !failed.iter().any(is_full);
                    errors.extend(failed);
                    fits
                }
            };
            if !fits {
                overflowed.extend(outlet);
            }
        }
        drop(gates);
        tracing::trace!(ns = %self.path, at_once, queued, "delivered");
        overflowed.iter().for_each(|outlet| outlet.overflowed());
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    /// Queues an event that the local sockets that `opts` mean have to acknowledge, and says how
    /// many they are.
    pub(crate) fn deliver_with_ack(
        &self,
        packet: Packet,
        opts: BroadcastOptions,
        timeout: Option<Duration>,
    ) -> (<Emitter as SocketEmitter>::AckStream, u32) {
        let sids = self.local.sockets(opts.clone());
        let asked = self.local.broadcast_with_ack(packet.clone(), opts, timeout);
        self.count_queued(&sids, &packet);
        asked
    }

    /// An event was queued for these sockets otherwise than by [`deliver`](Self::deliver). If too
    /// much waits then, the next delivery finds it.
    pub(crate) fn count_queued(&self, sids: &[Sid], packet: &Packet) {
        let bytes = broadcast::json_of(packet).map_or(0, |(json, _)| json.len());
        for outlet in sids.iter().filter_map(|sid| self.outlets.get(sid)) {
            outlet.queued(bytes);
        }
    }

    pub(crate) fn sockets(&self) -> MutexGuard<'_, HashMap<Sid, (SocketRef<Adapter>, SystemTime)>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is done about a full queue for each local member of the rooms of `opts`.
    pub(crate) fn overflow(&self, opts: BroadcastOptions) {
        for sid in self.local.sockets(opts) {
            if let Some(outlet) = self.outlets.get(&sid) {
                outlet.overflowed();
            }
        }
    }

    /// Lets `keep` decide what the socket hears through `rooms`, as long as it lives.
    pub(crate) fn screen(&self, sid: Sid, rooms: &[Arc<str>], keep: &Keep) {
        self.screens().insert(sid, rooms, keep);
    }

    /// Whether a socket is screened in `room`.
    pub(crate) fn screens_in(&self, room: &str) -> bool {
        self.screens().any_in(room)
    }

    /// Queues the publication of `packet` to the other processes.
    pub(crate) fn publish(
        &self,
        packet: &Packet,
        opts: &BroadcastOptions,
    ) -> Result<Confirmation, EncodeError> {
        let Some(Target { rooms, except }) = target_of(opts) else {
            return Ok(Box::pin(std::future::ready(Ok(()))));
        };
        let volatile = opts.has_flag(BroadcastFlags::Volatile);
        let uid = &self.shared.uid;
        let Publication { channel, payload } =
            self.publication(uid, packet, &rooms, &except, volatile)?;
        Ok(self.shared.bus.publish(channel, payload))
    }

    pub(crate) fn publication(
        &self,
        uid: &str,
        packet: &Packet,
        rooms: &[impl AsRef<str>],
        except: &[impl AsRef<str>],
        volatile: bool,
    ) -> Result<Publication, EncodeError> {
        let payload = broadcast::encode(uid, packet, rooms, except, volatile)?;
        let channel = match rooms {
            [room] => self.room_channel(room.as_ref()),
            _ => self.base_channel(),
        };
        Ok(Publication { channel, payload })
    }

    /// Delivers another process's broadcast that came on the channel of `room`,
    /// or on the base channel, when it is for anybody here.
    pub(crate) fn receive(&self, room: Option<&str>, message: &Bytes) -> Result<(), DecodeError> {
        let header = Header::read(message)?;
        let wanted = {
            let membership = self.membership();
            room.is_none_or(|room| membership.has_room(room))
                && (header.rooms.is_empty()
                    || header.rooms.iter().any(|room| membership.has_room(room)))
        };
        if !wanted {
            return Ok(());
        }
        let packet = header.packet()?;
        if *packet.ns != *self.path {
            return Err(DecodeError::Unexpected("the namespace"));
        }
        let mut opts = BroadcastOptions::default();
        if header.rooms.is_empty() {
            opts.add_flag(BroadcastFlags::Broadcast);
        }
        if header.volatile {
            opts.add_flag(BroadcastFlags::Volatile);
        }
        opts.rooms.extend(header.rooms);
        opts.except.extend(header.except);
        if opts.rooms.is_empty()
            && let Some(act) = self.shared.overhear(&self.path, broadcast::uid(message)?)
            && let Some((json, _)) = broadcast::json_of(&packet)
        {
            act(json);
        }
        if let Err(errors) = self.deliver(packet, opts) {
            // As for a local broadcast, which reports it to its caller: some
            // client's queue is full or has just closed.
            tracing::debug!(ns = %self.path, sockets = errors.len(), "a broadcast did not reach every socket");
        }
        Ok(())
    }

    // Rooms. The bus is called under the lock: it must see subscriptions come
    // and go in the order in which the rooms fill and empty.

    pub(crate) fn has_room(&self, room: &str) -> bool {
        self.membership().has_room(room)
    }

    /// Lets the socket be reached by its id.
    pub(crate) fn enter_own_room(&self, socket: &SocketRef<Adapter>) {
        let room: Arc<str> = socket.id.to_string().into();
        let mut membership = self.membership();
        if socket.connected() {
            membership.join(socket.id, &room);
            self.local.add_all(socket.id, room.to_string());
            self.introduce(socket);
            // Whoever needs the confirmation asks again in `reserve`.
            drop(self.shared.bus.subscribe(vec![self.room_channel(&room)]));
        }
    }

    /// Keeps a place in `rooms` for the socket and subscribes to them. The
    /// confirmation covers the namespace's base channel too.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        sid: Sid,
        socket: Option<SocketRef<Adapter>>,
        rooms: &[impl AsRef<str>],
    ) -> (Reservation, Confirmation) {
        let rooms: Vec<Arc<str>> = rooms.iter().map(|room| Arc::from(room.as_ref())).collect();
        let mut channels: Vec<String> = rooms.iter().map(|room| self.room_channel(room)).collect();
        channels.push(self.base_channel());
        let mut membership = self.membership();
        let reserved = membership.reserve(sid, &rooms);
        let confirmation = self.shared.bus.subscribe(channels);
        drop(membership);
        let reservation = Reservation {
            namespace: self.clone(),
            sid,
            socket,
            reserved,
            rooms,
            settled: false,
        };
        (reservation, confirmation)
    }

    /// Joins sockets of which only the ids are at hand. One that was never
    /// introduced by a join, or is forgotten already, is left out. A leave after the call undoes
    /// it, also while the subscription is on its way.
    pub(crate) fn join_known(
        self: &Arc<Self>,
        mut sids: Vec<Sid>,
        rooms: &[impl AsRef<str>],
    ) -> Confirmation {
        sids.retain(|sid| self.membership().is_visiting(*sid));
        let (reservations, confirmations): (Vec<_>, Vec<_>) = sids
            .into_iter()
            .map(|sid| self.reserve(sid, None, rooms))
            .unzip();
        Box::pin(async move {
            for confirmation in confirmations {
                confirmation.await?;
            }
            reservations.into_iter().for_each(Reservation::join);
            Ok(())
        })
    }

    /// Joins sockets at once, as the next request of the server that asks for it expects; what
    /// others broadcast is heard when the future resolves.
    pub(crate) fn join_now(&self, sids: &[Sid], rooms: &[String]) -> Confirmation {
        let rooms: Vec<Arc<str>> = rooms.iter().map(|room| Arc::from(&**room)).collect();
        let mut membership = self.membership();
        for sid in sids {
            if membership.is_visiting(*sid) {
                for room in &rooms {
                    membership.join(*sid, room);
                }
                self.local.add_all(*sid, names(&rooms));
            }
        }
        // Not of those that nobody has joined.
        let rooms = rooms.iter().filter(|room| membership.has_room(room));
        let channels = rooms.map(|room| self.room_channel(room)).collect();
        self.shared.bus.subscribe(channels)
    }

    pub(crate) fn leave(&self, sid: Sid, rooms: &[impl AsRef<str>]) {
        let rooms: Vec<Arc<str>> = rooms.iter().map(|room| Arc::from(room.as_ref())).collect();
        let mut membership = self.membership();
        let emptied = membership.leave(sid, &rooms);
        self.local.del(sid, names(&rooms));
        self.unsubscribe(emptied);
    }

    /// Forgets a socket and its gate.
    pub(crate) fn remove(&self, sid: Sid) {
        self.outlets.remove(&sid);
        // Dropped after the lock, in case it is the last that holds the socket.
        let socket = self.sockets().remove(&sid);
        drop(socket);
        self.write_gates().remove(sid);
        self.screens().remove(sid);
        let mut membership = self.membership();
        let emptied = membership.remove(sid);
        self.unsubscribe(emptied);
    }

    pub(crate) fn subscribe_base(&self) {
        // Queued by the call; whoever needs the confirmation asks again in `reserve`.
        drop(self.shared.bus.subscribe(self.base_channels()));
    }

    pub(crate) fn unsubscribe_all(&self) {
        let membership = self.membership();
        self.unsubscribe(membership.rooms());
        self.shared.bus.unsubscribe(self.base_channels());
    }

    fn unsubscribe(&self, rooms: Vec<Arc<str>>) {
        if !rooms.is_empty() {
            let channels = rooms.iter().map(|room| self.room_channel(room)).collect();
            self.shared.bus.unsubscribe(channels);
        }
    }

    fn base_channel(&self) -> String {
        channel::base_channel(&self.shared.prefix, &self.path)
    }

    /// The channels of a namespace that has no sockets.
    fn base_channels(&self) -> Vec<String> {
        let Shared { prefix, uid, .. } = &*self.shared;
        vec![
            self.base_channel(),
            channel::request_channel(prefix, &self.path),
            channel::response_channel(prefix, &self.path),
            channel::specific_response_channel(prefix, &self.path, uid),
        ]
    }

    fn room_channel(&self, room: &str) -> String {
        channel::room_channel(&self.shared.prefix, &self.path, room)
    }
}

/// A place in some rooms, kept while their subscription is on its way. Dropping
/// it gives the place back.
pub(crate) struct Reservation {
    namespace: Arc<Namespace>,
    sid: Sid,
    /// To see whether it is still connected; without it only the reservation tells.
    socket: Option<SocketRef<Adapter>>,
    reserved: Reserved,
    rooms: Vec<Arc<str>>,
    settled: bool,
}

impl Reservation {
    pub(crate) fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    pub(crate) fn sid(&self) -> Sid {
        self.sid
    }

    pub(crate) fn rooms(&self) -> &[Arc<str>] {
        &self.rooms
    }

    /// Joins the rooms, unless the socket is gone.
    pub(crate) fn join(mut self) {
        self.settle(true);
    }

    fn settle(&mut self, join: bool) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let mut membership = self.namespace.membership();
        // A socket is no longer connected before its disconnect handler runs, and
        // that takes this lock to forget the socket: none is joined after that.
        let connected = self.socket.as_ref().is_none_or(|socket| socket.connected());
        let (sid, join) = (self.sid, join && connected);
        let Settled { joined, emptied } = membership.settle(sid, self.reserved, &self.rooms, join);
        if !joined.is_empty() {
            self.namespace.local.add_all(sid, names(&joined));
        }
        self.namespace.unsubscribe(emptied);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.settle(false);
    }
}

/// The one socket that is meant when neither rooms nor everyone are.
pub(crate) fn single_target(opts: &BroadcastOptions) -> Option<Sid> {
    let single = opts.rooms.is_empty() && !opts.has_flag(BroadcastFlags::Broadcast);
    opts.sid.filter(|_| single)
}

/// Whom the options mean on the wire; None when nobody.
pub(crate) fn target_of(opts: &BroadcastOptions) -> Option<Target> {
    let mut rooms = without_repeats(&opts.rooms);
    let mut except = without_repeats(&opts.except);
    // A socket's id is a room: the sender is left out, or a single socket of another process is
    // meant, by naming that room.
    if let Some(sid) = opts.sid {
        if opts.has_flag(BroadcastFlags::Broadcast) {
            except.push(sid.to_string());
        } else if rooms.is_empty() {
            rooms.push(sid.to_string());
        }
    }
    let everyone = opts.rooms.is_empty() && opts.has_flag(BroadcastFlags::Broadcast);
    (everyone || !rooms.is_empty()).then_some(Target { rooms, except })
}

fn names(rooms: &[Arc<str>]) -> Vec<Room> {
    rooms
        .iter()
        .map(|room| Room::Owned(room.to_string()))
        .collect()
}

fn without_repeats(rooms: &[Room]) -> Vec<String> {
    let mut seen = HashSet::new();
    let rooms = rooms.iter().map(AsRef::as_ref);
    let rooms = rooms.filter(|room: &&str| seen.insert(*room));
    rooms.map(str::to_owned).collect()
}
