//! What an application asks of all servers of the cluster, JavaScript's included.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use socketioxide::extract::SocketRef;
use tokio::time::{Instant, timeout_at};

use crate::adapter::Adapter;
use crate::answers::{ReplyTo, first_argument};
use crate::bus::BusError;
use crate::call::{Call, CallError, census};
use crate::channel;
use crate::handshake::Description;
use crate::namespace::Namespace;
use crate::request::{self, Ask, Target, owned};
use crate::response::{Ack, Answer, RemoteSocket};
use crate::roll::Missing;
use crate::state::{AdapterState, EmitError};

/// Why what was asked of the cluster is not known, or not whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError<T> {
    /// Nobody was asked, this process's sockets included.
    #[error(transparent)]
    Emit(#[from] EmitError),
    /// Not all have answered.
    #[error("{missing}")]
    Partial {
        /// What is known here, and what the others have answered.
        answers: T,
        /// Who has not.
        missing: Missing,
    },
}

impl<T> RequestError<T> {
    /// What did answer, when anybody was asked.
    pub fn into_answers(self) -> Option<T> {
        match self {
            Self::Emit(_) => None,
            Self::Partial { answers, .. } => Some(answers),
        }
    }
}

/// An event that another server has sent to the servers; see
/// [`AdapterState::on_server_side_emit`].
pub struct ServerSideEvent {
    /// The namespace that it was sent in.
    pub namespace: String,
    /// Its name.
    pub event: String,
    /// Its arguments.
    pub args: Vec<serde_json::Value>,
    reply: Option<ReplyTo>,
}

impl fmt::Debug for ServerSideEvent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ServerSideEvent")
            .field("namespace", &self.namespace)
            .field("event", &self.event)
            .field("args", &self.args)
            .field("wants_answer", &self.wants_answer())
            .finish()
    }
}

impl ServerSideEvent {
    pub(crate) fn new(
        namespace: String,
        event: String,
        args: Vec<serde_json::Value>,
        reply: Option<ReplyTo>,
    ) -> Self {
        Self {
            namespace,
            event,
            args,
            reply,
        }
    }

    /// Whether the sender waits for an answer.
    pub fn wants_answer(&self) -> bool {
        self.reply.is_some()
    }

    /// Answers with a value, if an answer is wanted. An event that is dropped without it answers
    /// with nothing (JavaScript's `undefined`), so that nobody waits for it.
    ///
    /// # Errors
    /// When the value cannot be put on the wire; nothing was answered then.
    pub fn answer<T: Serialize + ?Sized>(mut self, value: &T) -> Result<(), serde_json::Error> {
        let value = serde_json::to_value(value)?;
        self.reply_with(Some(value));
        Ok(())
    }

    fn reply_with(&mut self, value: Option<serde_json::Value>) {
        if let Some(reply) = self.reply.take()
            && let Err(error) = reply.answer(&Answer::Emitted(value))
        {
            tracing::warn!(%error, "an answer cannot be put on the wire");
        }
    }
}

impl Drop for ServerSideEvent {
    fn drop(&mut self) {
        self.reply_with(None);
    }
}

/// What an application does with an event of another server.
pub(crate) type ServerSideHandler = Arc<dyn Fn(ServerSideEvent) + Send + Sync>;

/// What an application tells of a socket.
pub(crate) type Describe = Arc<dyn Fn(&SocketRef<Adapter>, &mut Description) + Send + Sync>;

/// Requests: of all servers of a namespace, this one included. Each waits at most
/// [`AdapterOptions::request_timeout`](crate::AdapterOptions::request_timeout) for the others,
/// and less for those who are known to be frozen or gone; what did answer comes with
/// [`RequestError::Partial`] when somebody did not.
impl AdapterState {
    /// Sets what other servers are told of a socket: `describe` may change what is known already.
    /// It is called for each socket of each request, and must not block.
    pub fn describe(
        &self,
        describe: impl Fn(&SocketRef<Adapter>, &mut Description) + Send + Sync + 'static,
    ) {
        self.shared().set_describe(Arc::new(describe));
    }

    /// How many servers the namespace has, this one included.
    ///
    /// # Errors
    /// When the bus does not answer.
    pub fn server_count(&self, namespace: &str) -> BoxFuture<'static, Result<usize, BusError>> {
        let (shared, namespace) = (self.shared().clone(), namespace.to_owned());
        Box::pin(async move { Ok(census(&shared, &namespace).await?.total.saturating_add(1)) })
    }

    /// The sockets in `rooms` (none: all) but not in `except`, with what is known of them.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn fetch_sockets(
        &self,
        namespace: &str,
        rooms: &[&str],
        except: &[&str],
    ) -> BoxFuture<'static, Result<Vec<RemoteSocket>, RequestError<Vec<RemoteSocket>>>> {
        let target = Target::new(rooms, except);
        self.gather(
            namespace,
            Ask::Fetch {
                target: target.clone(),
            },
            move |namespace| namespace.fetch(&target),
            |sockets, answer| {
                if let Answer::Sockets(more) = answer {
                    sockets.extend(more);
                }
            },
        )
    }

    /// The ids of the sockets in `rooms` (none: all). Cheaper than
    /// [`fetch_sockets`](Self::fetch_sockets); JavaScript's `allSockets` before its version 8.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn socket_ids(
        &self,
        namespace: &str,
        rooms: &[&str],
    ) -> BoxFuture<'static, Result<BTreeSet<String>, RequestError<BTreeSet<String>>>> {
        let target = Target::new(rooms, &[]);
        self.gather(
            namespace,
            Ask::Sockets {
                rooms: target.rooms.clone(),
            },
            move |namespace| namespace.ids(&target).into_iter().collect(),
            |ids: &mut BTreeSet<String>, answer| {
                if let Answer::Ids(more) = answer {
                    ids.extend(more);
                }
            },
        )
    }

    /// The ids of the sockets in `rooms` (none: all) on servers that do not have this adapter, such
    /// as Node's. Asks nobody when there are none of these.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn foreign_socket_ids(
        &self,
        namespace: &str,
        rooms: &[&str],
    ) -> BoxFuture<'static, Result<BTreeSet<String>, RequestError<BTreeSet<String>>>> {
        let namespace = self.namespace(namespace);
        let timeout = self.shared().request_timeout;
        let rooms = owned(rooms);
        Box::pin(async move {
            let namespace = namespace?;
            let mut ids = BTreeSet::new();
            let call = async {
                let census = census(&namespace.shared, namespace.path()).await?;
                match census.total > census.named.len() {
                    true => Call::start(&namespace, &Ask::Sockets { rooms }, timeout).await,
                    false => Ok(None),
                }
            };
            let missing = match call.await {
                Ok(None) => Missing::default(),
                Ok(Some(mut call)) => {
                    while let Some((uid, answer)) = call.next(|roll| roll.is_complete()).await {
                        if let (None, Answer::Ids(more)) = (uid, answer) {
                            ids.extend(more);
                        }
                    }
                    call.roll.missing()
                }
                Err(error) => bus_failed(error)?,
            };
            whole(ids, missing)
        })
    }

    /// All rooms that have members, those of single sockets included.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn all_rooms(
        &self,
        namespace: &str,
    ) -> BoxFuture<'static, Result<BTreeSet<String>, RequestError<BTreeSet<String>>>> {
        self.gather(
            namespace,
            Ask::AllRooms,
            |namespace| namespace.all_rooms().into_iter().collect(),
            |rooms: &mut BTreeSet<String>, answer| {
                if let Answer::Rooms(more) = answer {
                    rooms.extend(more);
                }
            },
        )
    }

    /// Makes the sockets in `rooms` (none: all) but not in `except` join others. Resolves when
    /// those of this process have, and the request to the others is on the bus.
    ///
    /// # Errors
    /// When there is no such namespace, or the bus did not confirm.
    pub fn sockets_join(
        &self,
        namespace: &str,
        rooms: &[&str],
        except: &[&str],
        join: &[&str],
    ) -> BoxFuture<'static, Result<(), EmitError>> {
        let (target, join) = (Target::new(rooms, except), owned(join));
        let namespace = match self.namespace(namespace) {
            Ok(namespace) => namespace,
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        let joined = namespace.join_known(namespace.local.sockets(target.options()), &join);
        let ask = Ask::Join {
            target,
            rooms: join,
        };
        let told = tell(&namespace, &ask);
        Box::pin(async move {
            joined.await?;
            told.await
        })
    }

    /// Makes the sockets in `rooms` (none: all) but not in `except` leave others. Those of this
    /// process have left when it returns.
    ///
    /// # Errors
    /// When there is no such namespace, or the bus did not confirm.
    pub fn sockets_leave(
        &self,
        namespace: &str,
        rooms: &[&str],
        except: &[&str],
        leave: &[&str],
    ) -> BoxFuture<'static, Result<(), EmitError>> {
        let (target, rooms) = (Target::new(rooms, except), owned(leave));
        match self.namespace(namespace) {
            Ok(namespace) => {
                namespace.leave_all(&target, &rooms);
                tell(&namespace, &Ask::Leave { target, rooms })
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    /// Disconnects the sockets in `rooms` (none: all) but not in `except`; with `close` also from
    /// the other namespaces, upon which clients close their connections. One that cannot be told,
    /// because its queue is full, has its [outlet](Self::outlet) told instead.
    ///
    /// # Errors
    /// When there is no such namespace, or the bus did not confirm.
    pub fn disconnect_sockets(
        &self,
        namespace: &str,
        rooms: &[&str],
        except: &[&str],
        close: bool,
    ) -> BoxFuture<'static, Result<(), EmitError>> {
        let target = Target::new(rooms, except);
        match self.namespace(namespace) {
            Ok(namespace) => {
                // Before those here go: what they did may be what the others react to.
                let told = tell(
                    &namespace,
                    &Ask::Disconnect {
                        target: target.clone(),
                        close,
                    },
                );
                namespace.disconnect_all(&target, close);
                told
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    /// Calls `handler` with each event that another server of the namespace sends to the servers
    /// (`serverSideEmit` in JavaScript). A second handler replaces the first. It must not block:
    /// nothing else is heard meanwhile; what takes long belongs into a task, which may have the
    /// event and answer it.
    pub fn on_server_side_emit(
        &self,
        namespace: &str,
        handler: impl Fn(ServerSideEvent) + Send + Sync + 'static,
    ) {
        self.shared()
            .set_server_side_handler(namespace, Arc::new(handler));
    }

    /// Sends an event to the other servers of the namespace, not to clients.
    ///
    /// # Errors
    /// When there is no such namespace, or the bus did not confirm.
    pub fn server_side_emit(
        &self,
        namespace: &str,
        event: &str,
        args: impl IntoIterator<Item = serde_json::Value>,
    ) -> BoxFuture<'static, Result<(), EmitError>> {
        let ask = server_side_event(event, args);
        match self.namespace(namespace) {
            Ok(namespace) => tell(&namespace, &ask),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    /// The same, and waits for an answer of each of them, in no order. Who answers with nothing
    /// counts as null.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn server_side_emit_with_ack(
        &self,
        namespace: &str,
        event: &str,
        args: impl IntoIterator<Item = serde_json::Value>,
    ) -> BoxFuture<'static, Result<Vec<serde_json::Value>, RequestError<Vec<serde_json::Value>>>>
    {
        self.gather(
            namespace,
            server_side_event(event, args),
            |_| Vec::new(),
            |values, answer| {
                if let Answer::Emitted(value) = answer {
                    values.push(value.unwrap_or_default());
                }
            },
        )
    }

    /// Broadcasts `event` to the sockets in `rooms` (none: all) but not in `except`, and waits at
    /// most `timeout` for an acknowledgement of each, in no order. `data`: as for
    /// [`broadcast_event`](Self::broadcast_event). Held sockets get it at once.
    ///
    /// # Errors
    /// See [`RequestError`]; clients that did not acknowledge are counted in
    /// [`Missing::clients`].
    pub fn emit_with_ack<T: Serialize + ?Sized>(
        &self,
        namespace: &str,
        rooms: &[&str],
        except: &[&str],
        event: &str,
        data: &T,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Vec<Ack>, RequestError<Vec<Ack>>>> {
        let (namespace, packet) = match self.event(namespace, event, data) {
            Ok(event) => event,
            Err(error) => return Box::pin(std::future::ready(Err(error.into()))),
        };
        let target = Target::new(rooms, except);
        let deadline = Instant::now() + timeout;
        let (acks, count) =
            namespace
                .local
                .broadcast_with_ack(packet.clone(), target.options(), Some(timeout));
        let ask = Ask::Broadcast {
            packet,
            target,
            timeout: Some(timeout),
        };
        let here = async move {
            let mut here = Vec::new();
            let mut acks = pin!(acks);
            while let Ok(Some((_, ack))) = timeout_at(deadline, acks.next()).await {
                // One that did not come is missing in the end.
                here.extend(ack.ok().as_ref().and_then(received));
            }
            let missing = u64::from(count).saturating_sub(here.len() as u64);
            (here, missing)
        };
        Box::pin(async move {
            let elsewhere = acks_of_others(&namespace, &ask, timeout);
            let ((mut answers, missing_here), elsewhere) = tokio::join!(here, elsewhere);
            let (more, mut missing) = elsewhere?;
            answers.extend(more);
            missing.clients += missing_here;
            whole(answers, missing)
        })
    }

    fn namespace(&self, path: &str) -> Result<Arc<Namespace>, EmitError> {
        let namespace = self.shared().namespace(path);
        namespace.ok_or_else(|| EmitError::UnknownNamespace(path.to_owned()))
    }

    /// Asks all others, and adds what they say to what is known here.
    fn gather<T: Send + 'static>(
        &self,
        namespace: &str,
        ask: Ask,
        here: impl FnOnce(&Namespace) -> T + Send + 'static,
        add: impl Fn(&mut T, Answer) + Send + 'static,
    ) -> BoxFuture<'static, Result<T, RequestError<T>>> {
        let namespace = self.namespace(namespace);
        let timeout = self.shared().request_timeout;
        Box::pin(async move {
            let namespace = namespace?;
            let call = Call::start(&namespace, &ask, timeout).await;
            let mut answers = here(&namespace);
            let missing = match call {
                Ok(None) => Missing::default(),
                Ok(Some(mut call)) => {
                    while let Some((_, answer)) = call.next(|roll| roll.is_complete()).await {
                        add(&mut answers, answer);
                    }
                    call.roll.missing()
                }
                Err(error) => bus_failed(error)?,
            };
            whole(answers, missing)
        })
    }
}

/// The acknowledgements of other servers' clients, and whose did not come.
async fn acks_of_others(
    namespace: &Arc<Namespace>,
    ask: &Ask,
    timeout: Duration,
) -> Result<(Vec<Ack>, Missing), EmitError> {
    let mut acks = Vec::new();
    let mut call = match Call::start(namespace, ask, timeout).await {
        Ok(None) => return Ok((acks, Missing::default())),
        Ok(Some(call)) => call,
        Err(error) => return Ok((acks, bus_failed(error)?)),
    };
    // By server, as far as it is known whose they are: how many are to come.
    let mut outstanding: Vec<(Option<String>, i64)> = Vec::new();
    let enough = |outstanding: &[(Option<String>, i64)], roll: &crate::roll::Roll| {
        let waited_for = outstanding
            .iter()
            .filter(|(uid, _)| !roll.is_lost(uid.as_deref()))
            .map(|(_, count)| count);
        roll.is_complete() && waited_for.sum::<i64>() <= 0
    };
    while let Some((uid, answer)) = call.next(|roll| enough(&outstanding, roll)).await {
        let change = match answer {
            Answer::ClientCount(count) => i64::try_from(count).unwrap_or(i64::MAX),
            Answer::Acked(ack) => {
                acks.push(ack);
                -1
            }
            _ => continue,
        };
        // An acknowledgement may be ahead of the count that it belongs to.
        match outstanding.iter_mut().find(|(other, _)| *other == uid) {
            Some((_, count)) => *count = count.saturating_add(change),
            None => outstanding.push((uid, change)),
        }
    }
    let mut missing = call.roll.missing();
    let left = outstanding.iter().map(|(_, count)| count.max(&0));
    missing.clients = left.sum::<i64>().unsigned_abs();
    Ok((acks, missing))
}

fn received(ack: &socketioxide_core::Value) -> Option<Ack> {
    let (data, attachments) = first_argument(ack).ok()?;
    Some(Ack {
        data: data
            .map_or(Ok(serde_json::Value::Null), serde_json::from_str)
            .ok()?,
        attachments: attachments.cloned().unwrap_or_default().into(),
    })
}

/// Nobody else could be asked; what cannot even be written is the caller's error.
fn bus_failed(error: CallError) -> Result<Missing, EmitError> {
    match error {
        CallError::Encode(error) => Err(error.into()),
        CallError::Bus(error) => Ok(Missing {
            bus: Some(error),
            ..Missing::default()
        }),
    }
}

fn whole<T>(answers: T, missing: Missing) -> Result<T, RequestError<T>> {
    match missing.is_nobody() {
        true => Ok(answers),
        false => Err(RequestError::Partial { answers, missing }),
    }
}

/// Asks something that nobody answers.
pub(crate) fn tell(namespace: &Namespace, ask: &Ask) -> BoxFuture<'static, Result<(), EmitError>> {
    let shared = &namespace.shared;
    let message = match request::encode(&shared.uid, None, ask) {
        Ok(message) => message,
        Err(error) => return Box::pin(std::future::ready(Err(error.into()))),
    };
    let channel = channel::request_channel(&shared.prefix, namespace.path());
    let published = shared.bus.publish(channel, message);
    Box::pin(async move { Ok(published.await?) })
}

fn server_side_event(event: &str, args: impl IntoIterator<Item = serde_json::Value>) -> Ask {
    let event = serde_json::Value::from(event);
    Ask::ServerSideEmit {
        args: std::iter::once(event).chain(args).collect(),
    }
}
