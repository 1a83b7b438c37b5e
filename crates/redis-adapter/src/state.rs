//! What the namespaces of one process share, and the functions through which
//! an application joins rooms and broadcasts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Serialize;
use socketioxide::ParserError;
use socketioxide::extract::SocketRef;
use socketioxide_core::Sid;
use socketioxide_core::adapter::BroadcastOptions;
use socketioxide_core::adapter::errors::AdapterError;
use socketioxide_core::packet::Packet;
use socketioxide_core::parser::Parse;
use tokio::time::Instant;

use crate::adapter::Adapter;
use crate::backlog::{Backlog, Missed, MissedMore};
use crate::broadcast::{self, EncodeError};
use crate::bus::{Bus, BusError, BusEvent, Publication};
use crate::call::Calls;
use crate::channel::{self, Purpose};
use crate::cluster::{Describe, ServerSideHandler};
use crate::event_queue::EventReceiver;
use crate::gate::{Gate, HoldError};
use crate::msgpack::DecodeError;
use crate::namespace::{Confirmation, Namespace};
use crate::nodes::{self, Nodes};
use crate::outlet::Outlet;
use crate::request::{Request, Target};
use crate::response::Response;

/// How the adapter presents itself on the bus.
#[derive(Debug, Clone)]
pub struct AdapterOptions {
    /// What channel names begin with; must be that of the JavaScript servers
    /// (there the option `key`). Default `socket.io`.
    pub prefix: String,
    /// The name of this process in its messages. Must differ from every other
    /// process's. Default: 6 random characters, as in JavaScript.
    pub uid: String,
    /// What other processes call this one when it does not answer them, of at most 256 bytes.
    /// Default: the uid.
    pub name: Option<String>,
    /// How long a request waits for other processes; JavaScript's `requestsTimeout`. Default 5 s.
    pub request_timeout: Duration,
    /// Answer where only the asking process hears it, and not all; JavaScript's
    /// `publishOnSpecificResponseChannel`, which its version 7.2 knows first. Processes with this
    /// adapter are always answered so. Default false.
    pub answer_on_specific_channel: bool,
    /// The most packets that [`Gate::open`] sends at once. Together with what
    /// the application emits right before it must fit socketioxide's queue of
    /// one socket (`max_buffer_size`, 128 packets unless set). Default 64.
    pub max_flush: usize,
}

impl Default for AdapterOptions {
    fn default() -> Self {
        Self {
            prefix: channel::DEFAULT_PREFIX.to_owned(),
            uid: random_uid(),
            name: None,
            request_timeout: Duration::from_secs(5),
            answer_on_specific_channel: false,
            max_flush: 64,
        }
    }
}

/// The sender's id in what is for servers without this adapter only: as long as a random one, of which one
/// in 10^10 is the same.
const ELSEWHERE: &str = "others";

pub(crate) fn random_uid() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = [0; 6];
    // A socketioxide server needs the same source for its session ids.
    getrandom::fill(&mut bytes).expect("the system's source of randomness works");
    let characters = bytes.iter().map(|byte| ALPHABET[usize::from(byte % 64)]);
    characters.map(char::from).collect()
}

/// Why a broadcast is not known to have reached the other processes. Local
/// sockets were served all the same, unless the event could not be serialised
/// or its namespace does not exist.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// No such namespace was registered on this process.
    #[error("there is no namespace {0}")]
    UnknownNamespace(String),
    /// The event's data could not be serialised.
    #[error("the event cannot be serialised")]
    Serialize(#[from] ParserError),
    /// The event cannot be put on the wire.
    #[error("the event cannot be put on the wire")]
    Encode(#[from] EncodeError),
    /// The bus did not confirm.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl From<EmitError> for AdapterError {
    fn from(error: EmitError) -> Self {
        Self(Box::new(error))
    }
}

/// What happened since the start. Every count only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AdapterCounters {
    /// Messages of other processes that were looked at.
    pub received: u64,
    /// Messages ignored because they are malformed.
    pub malformed: u64,
    /// Requests of other processes that were looked at.
    pub requests: u64,
    /// Times that messages may have been missed.
    pub gaps: u64,
}

/// The adapter's state: one per process, shared by clones.
///
/// **Rooms.** socketioxide tells its adapter of no join and no leave, and the
/// room channels must be subscribed before a join. So sockets of this adapter
/// join and leave by [`join`](Self::join), [`hold`](Self::hold) and
/// [`leave`](Self::leave), not by `socket.join` and `socket.leave`, and
/// [`disconnected`](Self::disconnected) must be called from the disconnect
/// handler of each socket that joined anything.
#[derive(Clone)]
pub struct AdapterState(Arc<Shared>);

impl AdapterState {
    /// Starts the task that reads `events`, which must be those of `bus`. The
    /// task ends with the bus.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(bus: Arc<dyn Bus>, events: EventReceiver, options: AdapterOptions) -> Self {
        let node_channel = channel::node_channel(&options.prefix);
        let shared = Arc::new(Shared {
            bus,
            prefix: options.prefix,
            name: options.name.unwrap_or_else(|| options.uid.clone()),
            uid: options.uid,
            foreign_uid: random_uid(),
            max_flush: options.max_flush,
            request_timeout: options.request_timeout,
            answer_on_specific_channel: options.answer_on_specific_channel,
            nodes: Nodes::default(),
            calls: Calls::default(),
            describe: RwLock::default(),
            server_side_handlers: RwLock::default(),
            requests: AtomicU64::new(0),
            namespaces: RwLock::default(),
            listeners: RwLock::default(),
            overhears: RwLock::default(),
            received: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            backlog: Backlog::default(),
            is_behind: AtomicBool::new(false),
        });
        // What is not confirmed in time stays wanted.
        drop(shared.bus.subscribe(vec![node_channel]));
        // The tasks hold no bus, else neither would ever end.
        tokio::spawn(dispatch(Arc::downgrade(&shared), events));
        tokio::spawn(nodes::live(Arc::downgrade(&shared)));
        Self(shared)
    }

    /// Lets `socket` be reached by its id as a room, as in JavaScript, and be known to other
    /// servers. Call it first in the connect handler, and
    /// [`disconnected`](Self::disconnected) in the disconnect handler. The room's channel is
    /// subscribed at the call; a [`join`](Self::join) or [`hold`](Self::hold) after it waits until
    /// that is confirmed too.
    pub fn connected(&self, socket: &SocketRef<Adapter>) {
        if let Some(namespace) = self.0.namespace(socket.ns()) {
            namespace.enter_own_room(socket);
        }
    }

    /// Lets `outlet` know what broadcasts do with the socket's queue, and send events past it;
    /// until [`disconnected`](Self::disconnected). For a bound in bytes beside `max_buffer_size`,
    /// which is one in packets, for who must not miss anything, and for events to very many.
    pub fn outlet(&self, socket: &SocketRef<Adapter>, outlet: impl Outlet) {
        if let Some(namespace) = self.0.namespace(socket.ns()) {
            let is_there = || socket.connected();
            namespace
                .outlets
                .insert(socket.id, Arc::new(outlet), is_there);
        }
    }

    /// Tells the [outlet](Self::outlet) of each local socket in `rooms` that it overflowed: it
    /// missed something that cannot be made good. What waits for these rooms is dropped.
    pub fn missed_for_good(&self, namespace: &str, rooms: &[&str]) {
        for room in rooms {
            let channel = channel::room_channel(&self.0.prefix, namespace, room);
            self.0.backlog.forget(&channel);
        }
        if let Some(namespace) = self.0.namespace(namespace) {
            namespace.overflow(Target::new(rooms, &[]).options());
        }
    }

    /// Subscribes to `rooms`, and when that is confirmed joins them. A socket
    /// that is gone by then joins nothing, which is not an error. Dropping the
    /// future joins nothing.
    ///
    /// # Errors
    /// When the bus did not confirm; the socket has then joined none of them.
    pub fn join<R: AsRef<str>>(
        &self,
        socket: &SocketRef<Adapter>,
        rooms: &[R],
    ) -> BoxFuture<'static, Result<(), BusError>> {
        let Some(namespace) = self.0.namespace(socket.ns()) else {
            return Box::pin(std::future::ready(Err(BusError::Closed)));
        };
        let (reservation, confirmation) = namespace.reserve(socket.id, Some(socket.clone()), rooms);
        Box::pin(async move {
            confirmation.await?;
            reservation.join();
            Ok(())
        })
    }

    /// Leaves `rooms`, also those whose join is still under way; a room whose last local member
    /// this was is unsubscribed.
    pub fn leave<R: AsRef<str>>(&self, socket: &SocketRef<Adapter>, rooms: &[R]) {
        if let Some(namespace) = self.0.namespace(socket.ns()) {
            namespace.leave(socket.id, rooms);
        }
    }

    /// Gives up all rooms of a socket and its gate. For the disconnect handler;
    /// a second call does nothing. While that handler runs, socketioxide itself
    /// still has the socket in its rooms.
    pub fn disconnected(&self, namespace: &str, sid: Sid) {
        if let Some(namespace) = self.0.namespace(namespace) {
            namespace.remove(sid);
        }
    }

    /// Holds `socket` back, subscribes to `rooms`, and resolves when that is
    /// confirmed. From the call on, nothing that is broadcast to the socket, be
    /// it through `rooms`, through rooms that it is in, or to everyone, reaches
    /// it: it waits, in order, for [`Gate::open`], which also joins the rooms.
    /// At most 1,024 packets and 4 MiB wait; beyond, all is dropped and
    /// [`Gate::open`] says so. What is emitted to the socket itself passes.
    ///
    /// # Errors
    /// When the socket is held already, or the bus did not confirm: the socket
    /// is then not held any more and has joined nothing, as when the future is
    /// dropped.
    pub fn hold<R: AsRef<str>>(
        &self,
        socket: &SocketRef<Adapter>,
        rooms: &[R],
    ) -> BoxFuture<'static, Result<Gate, HoldError>> {
        match self.0.namespace(socket.ns()) {
            Some(namespace) => Gate::hold(&namespace, socket, rooms),
            None => Box::pin(std::future::ready(Err(BusError::Closed.into()))),
        }
    }

    /// Broadcasts `event` in `namespace` to `rooms` (none: everyone) but not to
    /// members of `except`. `data` is serialised once; a tuple becomes several
    /// arguments. When this returns, local sockets were served and the
    /// publication is queued. The future tells whether the bus confirmed it;
    /// dropping it changes nothing.
    pub fn broadcast_event<T: Serialize + ?Sized>(
        &self,
        namespace: &str,
        rooms: &[&str],
        except: &[&str],
        event: &str,
        data: &T,
    ) -> BoxFuture<'static, Result<(), EmitError>> {
        let confirmation = self.broadcast_now(namespace, rooms, except, event, data);
        Box::pin(async move { Ok(confirmation?.await?) })
    }

    /// Broadcasts `event` in `namespace` to everyone on servers without this adapter, and to nobody
    /// else: for what processes with it know already. The publication is queued when this returns.
    ///
    /// # Errors
    /// When there is no such namespace, or the event cannot be written.
    pub fn broadcast_elsewhere<T: Serialize + ?Sized>(
        &self,
        namespace: &str,
        event: &str,
        data: &T,
    ) -> Result<BoxFuture<'static, Result<(), BusError>>, EmitError> {
        let (namespace, packet) = self.event(namespace, event, data)?;
        let nobody: [&str; 0] = [];
        let Publication { channel, payload } =
            namespace.publication(ELSEWHERE, &packet, &nobody, &nobody, false)?;
        Ok(self.0.bus.publish(channel, payload))
    }

    /// An event for someone else to publish, such as a store that does it
    /// together with a write: what [`broadcast_event`](Self::broadcast_event)
    /// would publish, but under no process's id, so that every process delivers
    /// it when it comes from the bus, this one included.
    ///
    /// # Errors
    /// When there is no such namespace, or the event cannot be written.
    pub fn publication<T: Serialize + ?Sized>(
        &self,
        namespace: &str,
        rooms: &[&str],
        except: &[&str],
        event: &str,
        data: &T,
    ) -> Result<Publication, EmitError> {
        let (namespace, packet) = self.event(namespace, event, data)?;
        Ok(namespace.publication(&self.0.foreign_uid, &packet, rooms, except, false)?)
    }

    pub(crate) fn event<T: Serialize + ?Sized>(
        &self,
        namespace: &str,
        event: &str,
        data: &T,
    ) -> Result<(Arc<Namespace>, Packet), EmitError> {
        let namespace = self
            .0
            .namespace(namespace)
            .ok_or_else(|| EmitError::UnknownNamespace(namespace.to_owned()))?;
        let data = namespace.local.parser().encode_value(data, Some(event))?;
        let packet = Packet::event(namespace.local.path().clone(), data);
        Ok((namespace, packet))
    }

    /// Delivers an event to the sockets of this process alone, and publishes nothing.
    ///
    /// # Errors
    /// When there is no such namespace, or the event cannot be written.
    pub fn deliver_event<T: Serialize + ?Sized>(
        &self,
        namespace: &str,
        rooms: &[&str],
        except: &[&str],
        event: &str,
        data: &T,
    ) -> Result<(), EmitError> {
        let (namespace, packet) = self.event(namespace, event, data)?;
        deliver(&namespace, packet, Target::new(rooms, except).options());
        Ok(())
    }

    fn broadcast_now<T: Serialize + ?Sized>(
        &self,
        namespace: &str,
        rooms: &[&str],
        except: &[&str],
        event: &str,
        data: &T,
    ) -> Result<Confirmation, EmitError> {
        let (namespace, packet) = self.event(namespace, event, data)?;
        let opts = Target::new(rooms, except).options();
        let published = namespace.publish(&packet, &opts);
        deliver(&namespace, packet, opts);
        Ok(published?)
    }

    /// Calls `act` with each message that is published on a channel of the application's own, by
    /// whomever, this process included; the bus's [`watch_up`](Bus::watch_up) tells whether it is
    /// heard. In the order of the channel, one at a time with everything else that the bus brings:
    /// `act` must not block. A second listener of a channel replaces the first.
    pub fn listen(&self, channel: &str, act: impl Fn(&Bytes) + Send + Sync + 'static) {
        self.add_listener(channel, Arc::new(act), false);
    }

    /// Calls `act` with each event that a server without this adapter broadcasts to everyone in
    /// `namespace`, as JSON text `["event", args...]`, just before it is delivered. `act` must not
    /// block. A second one for a namespace replaces the first.
    pub fn overhear(&self, namespace: &str, act: impl Fn(&str) + Send + Sync + 'static) {
        let mut overhears = self
            .0
            .overhears
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        overhears.insert(namespace.to_owned(), Arc::new(act));
    }

    /// The same for a channel of which the application keeps what is published: after a gap what
    /// comes waits until it was [made good](Self::made_good_on).
    pub fn listen_in_order(&self, channel: &str, act: impl Fn(&Bytes) + Send + Sync + 'static) {
        self.add_listener(channel, Arc::new(act), true);
    }

    fn add_listener(&self, channel: &str, act: Act, in_order: bool) {
        let mut listeners = self
            .0
            .listeners
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        listeners.insert(channel.to_owned(), Listener { act, in_order });
        drop(listeners);
        // What is not confirmed in time stays wanted.
        drop(self.0.bus.subscribe(vec![channel.to_owned()]));
    }

    /// Resolves when messages may have been missed, and none is missed from now on: read the store.
    /// Each gap is told once, several at a time as one from the first on. Cancel safe.
    ///
    /// From the moment that something may be missed, what comes for a room in which a socket is
    /// [screened](Gate::open_and_screen), or on a channel with [`listen_in_order`](Self::listen_in_order),
    /// waits until it was [made good](Self::made_good), so that nothing overtakes what was sent
    /// before it. At most 16,384 messages and 32 MiB wait.
    pub async fn missed(&self) -> Missed {
        self.0.backlog.missed().await
    }

    /// The application has [delivered](Self::deliver_event) what may have been missed in `room`:
    /// what waits for it goes out now, in order, and nothing waits for it any more. When more was
    /// missed meanwhile, it waits for the next [`missed`](Self::missed), and this does nothing.
    ///
    /// # Errors
    /// When more came than can wait: read the store for this room once more, and call this again.
    pub fn made_good(
        &self,
        missed: &Missed,
        namespace: &str,
        room: &str,
    ) -> Result<(), MissedMore> {
        let channel = channel::room_channel(&self.0.prefix, namespace, room);
        self.made_good_on(missed, &channel)
    }

    /// The same for a channel with [`listen_in_order`](Self::listen_in_order).
    ///
    /// # Errors
    /// As of [`made_good`](Self::made_good).
    pub fn made_good_on(&self, missed: &Missed, channel: &str) -> Result<(), MissedMore> {
        let deliver = |message: &Bytes| self.0.take_in(channel, message);
        self.0.backlog.made_good(missed, channel, deliver)
    }

    /// All that may have been missed was made good: whatever waits still, such as for rooms that
    /// were joined meanwhile, goes out. What has to be called at the end of each
    /// [`missed`](Self::missed). A room of which more came than can wait [missed it for
    /// good](Self::missed_for_good).
    pub fn all_made_good(&self, missed: &Missed) {
        let deliver = |channel: &str, message: &Bytes| self.0.take_in(channel, message);
        for channel in self.0.backlog.all_made_good(missed, deliver) {
            let rooms = channel::readings(&self.0.prefix, &channel);
            for (namespace, room) in rooms.filter_map(|(path, room)| Some((path, room?))) {
                self.missed_for_good(namespace, &[room]);
            }
        }
    }

    /// The bus, for its state of health.
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.0.bus
    }

    /// The name of this process in its messages.
    pub fn uid(&self) -> &str {
        &self.0.uid
    }

    /// What happened so far.
    pub fn counters(&self) -> AdapterCounters {
        AdapterCounters {
            received: self.0.received.load(Ordering::Relaxed),
            malformed: self.0.malformed.load(Ordering::Relaxed),
            requests: self.0.requests.load(Ordering::Relaxed),
            gaps: self.0.gaps.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

/// What is done with what servers without this adapter tell everyone.
pub(crate) type Overhear = Arc<dyn Fn(&str) + Send + Sync>;

/// What is done with each message on a channel of the application.
type Act = Arc<dyn Fn(&Bytes) + Send + Sync>;

#[derive(Clone)]
struct Listener {
    act: Act,
    /// Whether what comes after a gap waits until that was made good.
    in_order: bool,
}

/// What namespaces hold of the state. Holds them weakly itself, so that a
/// deleted namespace goes.
pub(crate) struct Shared {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) prefix: String,
    pub(crate) uid: String,
    pub(crate) name: String,
    /// The sender's id in what others publish for us: no process, this one included, takes it
    /// for its own.
    foreign_uid: String,
    pub(crate) max_flush: usize,
    pub(crate) request_timeout: Duration,
    answer_on_specific_channel: bool,
    pub(crate) nodes: Nodes,
    pub(crate) calls: Calls,
    describe: RwLock<Option<Describe>>,
    server_side_handlers: RwLock<HashMap<String, ServerSideHandler>>,
    requests: AtomicU64,
    namespaces: RwLock<HashMap<Arc<str>, Weak<Namespace>>>,
    listeners: RwLock<HashMap<String, Listener>>,
    overhears: RwLock<HashMap<String, Overhear>>,
    received: AtomicU64,
    malformed: AtomicU64,
    gaps: AtomicU64,
    backlog: Backlog,
    /// Much has come from the bus that is not delivered yet. Packets that are queued for one client
    /// then leave together, which costs less than sending each by itself.
    pub(crate) is_behind: AtomicBool,
}

impl Shared {
    pub(crate) fn add(&self, namespace: &Arc<Namespace>) {
        let mut namespaces = self
            .namespaces
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        namespaces.insert(namespace.path().clone(), Arc::downgrade(namespace));
    }

    /// Ends a namespace's subscriptions, unless another one has taken its name
    /// or it is gone already.
    pub(crate) fn remove(&self, namespace: &Arc<Namespace>) {
        let mut namespaces = self
            .namespaces
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let known = namespaces.get(namespace.path());
        if known.is_some_and(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(namespace))) {
            namespaces.remove(namespace.path());
            namespace.unsubscribe_all();
        }
    }

    pub(crate) fn namespace(&self, path: &str) -> Option<Arc<Namespace>> {
        let namespaces = self
            .namespaces
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        namespaces.get(path)?.upgrade()
    }

    /// A client's sockets, in whichever namespaces it is.
    pub(crate) fn sockets_of(&self, sid: Sid) -> Vec<SocketRef<Adapter>> {
        let namespaces = self
            .namespaces
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let namespaces = namespaces.values().filter_map(Weak::upgrade);
        let sockets = namespaces.filter_map(|namespace| namespace.socket(sid));
        sockets.map(|(socket, _)| socket).collect()
    }

    /// Does what is to be done about a socket whose queue is full.
    pub(crate) fn overflow(&self, socket: &SocketRef<Adapter>) {
        if let Some(namespace) = self.namespace(socket.ns()) {
            namespace.overflow(BroadcastOptions::new(socket.id));
        }
    }

    /// Whether the process called `uid` is answered where only it hears that.
    pub(crate) fn answers_to_one(&self, uid: &str) -> bool {
        self.answer_on_specific_channel || self.nodes.knows(uid)
    }

    pub(crate) fn describe(&self) -> Option<Describe> {
        let describe = self.describe.read();
        describe.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_describe(&self, act: Describe) {
        let mut describe = self
            .describe
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *describe = Some(act);
    }

    pub(crate) fn server_side_handler(&self, namespace: &str) -> Option<ServerSideHandler> {
        let handlers = self
            .server_side_handlers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        handlers.get(namespace).cloned()
    }

    pub(crate) fn set_server_side_handler(&self, namespace: &str, handler: ServerSideHandler) {
        let mut handlers = self
            .server_side_handlers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        handlers.insert(namespace.to_owned(), handler);
    }

    fn listener(&self, channel: &str) -> Option<Listener> {
        let listeners = self
            .listeners
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        listeners.get(channel).cloned()
    }

    /// What is done with what the process called `uid` tells everyone in a namespace.
    pub(crate) fn overhear(&self, namespace: &str, uid: &[u8]) -> Option<Overhear> {
        let overhears = self.overhears.read();
        let act = overhears
            .unwrap_or_else(PoisonError::into_inner)
            .get(namespace)
            .cloned()?;
        let is_known = std::str::from_utf8(uid).is_ok_and(|uid| self.nodes.knows(uid));
        (!is_known).then_some(act)
    }

    /// Whether what comes on `channel` waits, after a gap, until that was made good.
    fn is_in_order(&self, channel: &str) -> bool {
        if let Some(listener) = self.listener(channel) {
            return listener.in_order;
        }
        let readings = channel::readings(&self.prefix, channel);
        let mut rooms = readings.filter_map(|(path, room)| Some((self.namespace(path)?, room?)));
        rooms.any(|(namespace, room)| namespace.screens_in(room))
    }

    /// Does with a message what is to be done with it now.
    fn take_in(&self, channel: &str, message: &Bytes) {
        if let Err(error) = self.on_message(channel, message) {
            self.malformed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(channel, %error, "ignoring a malformed message");
        }
    }

    fn on_message(&self, channel: &str, message: &Bytes) -> Result<(), DecodeError> {
        if let Some(listener) = self.listener(channel) {
            (listener.act)(message);
            return Ok(());
        }
        match channel::purpose(&self.prefix, channel) {
            Some(Purpose::Broadcasts) => self.on_broadcast(channel, message),
            Some(Purpose::Requests(path)) => self.on_request(path, message),
            Some(Purpose::Responses) => self.on_response(message),
            Some(Purpose::Nodes) => self.nodes.hear(message, &self.uid, Instant::now()),
            None => Ok(()),
        }
    }

    fn on_broadcast(&self, channel: &str, message: &Bytes) -> Result<(), DecodeError> {
        // Before anything else: a broadcast that everybody hears comes back to its sender too.
        let uid = broadcast::uid(message)?;
        if uid == self.uid.as_bytes() || uid == ELSEWHERE.as_bytes() {
            return Ok(());
        }
        self.received.fetch_add(1, Ordering::Relaxed);
        let mut readings = channel::readings(&self.prefix, channel);
        let reading = readings.find_map(|(path, room)| {
            let namespace = self.namespace(path)?;
            let known = room.is_none_or(|room| namespace.has_room(room));
            known.then_some((namespace, room))
        });
        match reading {
            Some((namespace, room)) => namespace.receive(room, message),
            // The last member has left while the message was on its way.
            None => Ok(()),
        }
    }

    fn on_request(&self, path: &str, message: &Bytes) -> Result<(), DecodeError> {
        let Some(namespace) = self.namespace(path) else {
            return Ok(());
        };
        let request = Request::read(message)?;
        // What is asked comes back to who asks; it has seen to itself already.
        if request.uid.as_ref() == Some(&self.uid) {
            return Ok(());
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        namespace.on_request(request)
    }

    fn on_response(&self, message: &Bytes) -> Result<(), DecodeError> {
        // All hear the answers to everyone, and some are long.
        if !self.calls.is_empty() {
            let response = Response::read(message)?;
            self.calls.answer(response, message.len());
        }
        Ok(())
    }
}

/// Events that wait behind the one that is delivered when a process is behind: more than come
/// together, such as the two that a message to someone causes.
const BEHIND: usize = 4;

async fn dispatch(shared: Weak<Shared>, mut events: EventReceiver) {
    while let Some(event) = events.recv().await {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let is_behind = events.has(BEHIND);
        shared.is_behind.store(is_behind, Ordering::Relaxed);
        match event {
            BusEvent::Message { channel, payload } => {
                let backlog = &shared.backlog;
                let waits = backlog.is_open()
                    && shared.is_in_order(&channel)
                    && backlog.keep(&channel, &payload);
                if !waits {
                    shared.take_in(&channel, &payload);
                }
            }
            BusEvent::Gap { since } => {
                shared.gaps.fetch_add(1, Ordering::Relaxed);
                shared.backlog.gap(since);
            }
            BusEvent::Down => shared.backlog.begin(),
        }
    }
}

fn deliver(namespace: &Namespace, packet: Packet, opts: BroadcastOptions) {
    if let Err(errors) = namespace.deliver(packet, opts) {
        tracing::debug!(ns = %namespace.path(), sockets = errors.len(), "a broadcast did not reach every socket");
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_has_six_characters_and_is_not_used_twice() {
        let (a, b) = (random_uid(), random_uid());
        assert_eq!(a.len(), 6);
        assert_ne!(a, b);
    }
}
