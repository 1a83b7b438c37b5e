//! The life of one worker: registered, serving, leaving.

use std::fs;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::handoff::{SocketInfo, Speaks};
use common::handoff_channel::Channel;
use common::sid_tag::SidTag;
use hyper::server::conn::http1;
use thiserror::Error;
use tokio::net::{TcpStream, UnixListener};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::application::{Application, InProcessClose};
use crate::board::Board;
use crate::client_stream::ClientStream;
use crate::cluster_secret::ClusterSecret;
use crate::config::WorkerConfig;
use crate::departure::Departure;
use crate::drain::{Bounds, Drain};
use crate::nodes::{Known, NodeAddresses, Nodes};
use crate::open_files;
use crate::receive::{Leave, Link};
use crate::register::{Answered, RegisterError, Registration};
use crate::relay::Relay;
use crate::relay_listener;
use crate::remote_relay;
use crate::serve::{FIRST_REQUEST_GRACE, Times, http, serve};
use crate::sessions::{Limits, Sessions};
use crate::sid_layer::SidLayer;
use crate::socket::Socket;
use crate::stream_registry::{Registered, StreamRegistry};
use crate::stream_state::Origin;
use crate::tls::{Tls, TlsError};

/// Why a worker stopped serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The shutdown future of [`Worker::run`] resolved.
    Shutdown,
    /// The master asked for it.
    Drained,
    /// Another process has this worker's id, or the master no place for it.
    Retired,
    /// There was no master for [`WorkerConfig::orphan_time`].
    Orphaned,
}

/// Why a worker could not serve.
#[derive(Debug, Error)]
pub enum RunError {
    /// The relay socket could not be bound.
    #[error("relay socket: {0}")]
    RelaySocket(#[source] io::Error),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A registered worker.
pub struct Worker {
    config: WorkerConfig,
    registration: Arc<Registration>,
    channel: Channel,
    ready: watch::Sender<bool>,
    nodes: watch::Sender<Known>,
    nodes_wanted: Arc<Notify>,
    departure: Departure,
}

/// Reaches a worker from anywhere in its process.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    ready: watch::Sender<bool>,
    nodes: watch::Sender<Known>,
    nodes_wanted: Arc<Notify>,
    board: Arc<Board>,
    draining: CancellationToken,
}

impl WorkerHandle {
    /// Whether the master may send sockets of new clients; it may not before
    /// this was called with `true`. Sockets of sessions that live here come
    /// regardless.
    pub fn set_ready(&self, ready: bool) {
        self.ready
            .send_if_modified(|now| std::mem::replace(now, ready) != ready);
    }

    /// Says where the other nodes are: requests of their sessions are relayed
    /// there, if [`WorkerConfig::cluster_secret`] is set. What is relayed to a
    /// node that is not named any more ends.
    pub fn set_nodes(&self, nodes: NodeAddresses) {
        let at = Some(Instant::now());
        self.nodes.send_replace(Known { nodes, at });
    }

    /// Resolves when a request is of a node that [`set_nodes`](Self::set_nodes)
    /// did not name: it may be a new one, and the request waits up to 1 s for the
    /// next call.
    pub async fn nodes_wanted(&self) {
        self.nodes_wanted.notified().await;
    }

    /// Is cancelled just before clients are asked to come back elsewhere, because the worker leaves.
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// The application has taken a message of a client, which took so long: counted in the master's
    /// status and metrics.
    pub fn count_message(&self, took: Duration) {
        self.board.message(took);
    }

    /// A client was told of a message so long after it was taken, by whatever worker: counted in the
    /// master's metrics.
    pub fn count_delivery(&self, after: Duration) {
        self.board.delivery(after);
    }

    /// Clients that live here now: polling sessions and WebSockets.
    pub fn clients(&self) -> u64 {
        self.board.clients()
    }
}

/// While it lives no other process is given this worker's id. It ends with [`Worker::run`], unless an
/// application needs its name for longer.
pub struct IdGuard {
    _registration: Arc<Registration>,
}

impl Worker {
    /// Takes the worker's id and says Hello to the master, with patience for a
    /// master that comes up meanwhile.
    pub async fn register(config: WorkerConfig) -> Result<Worker, RegisterError> {
        let registration = Registration::claim(&config).await?;
        let room = open_files::room_for_connections().map_err(RegisterError::OpenFiles)?;
        registration.board.set_capacity(room);
        let answered = registration.with_a_master(config.orphan_time, || false, || false);
        match answered.await {
            Some(Answered::Welcome(channel, _)) => Ok(Worker {
                config,
                registration: Arc::new(registration),
                channel,
                ready: watch::Sender::new(false),
                nodes: watch::Sender::default(),
                nodes_wanted: Arc::default(),
                departure: Departure::default(),
            }),
            Some(Answered::Retire) => Err(RegisterError::Retired(config.worker)),
            None => Err(RegisterError::NoMaster(config.orphan_time)),
        }
    }

    /// For other tasks of this process.
    pub fn handle(&self) -> WorkerHandle {
        WorkerHandle {
            ready: self.ready.clone(),
            nodes: self.nodes.clone(),
            nodes_wanted: self.nodes_wanted.clone(),
            board: self.registration.board.clone(),
            draining: self.departure.draining().clone(),
        }
    }

    /// Keeps the worker's id beyond the end of [`Worker::run`]: for what the application has to put in
    /// order under its name.
    pub fn id_guard(&self) -> IdGuard {
        IdGuard {
            _registration: self.registration.clone(),
        }
    }

    /// Tells the master that it may send sockets, as
    /// [`WorkerHandle::set_ready`] does.
    pub fn ready(&self) {
        self.handle().set_ready(true);
    }

    /// Serves `application` until the master ends it or `shutdown` resolves.
    /// Then every client is asked to come back elsewhere, within the master's
    /// deadline or [`WorkerConfig::drain_time`]; what the application does when
    /// its clients leave may outlast this call.
    ///
    /// Dropping the future stops receiving sockets; connections that are being
    /// served end with the runtime.
    pub async fn run<S: Application>(
        self,
        application: S,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Exit, RunError> {
        let config = self.config;
        let relay_path = self.registration.dir.relay_socket(config.worker);
        let listener = listen(&relay_path).map_err(RunError::RelaySocket)?;
        let departure = self.departure;
        let tls = config.tls.clone();
        let tls = tls.map(|files| Tls::new(files, config.greeting_time));
        let tls = tls.transpose()?;
        let nodes = Nodes {
            known: self.nodes.subscribe(),
            wanted: self.nodes_wanted,
        };
        let server = Server::new(
            &config,
            &self.registration,
            application,
            &departure,
            tls.clone(),
            nodes,
        );
        let board = self.registration.board.clone();
        let telling = board.clone();
        // Held to the end: the lock in it keeps the id ours while clients leave.
        let registration = self.registration;
        let (sessions, streams) = (server.layer.sessions.clone(), server.streams.clone());
        let (leave, mut left) = mpsc::unbounded_channel();
        let link = Link {
            registration: registration.clone(),
            streams: streams.clone(),
            sessions: sessions.clone(),
            ticketer: tls.as_ref().map(|tls| tls.ticketer().clone()),
            ready: self.ready.subscribe(),
            draining: departure.draining().clone(),
            orphan_time: config.orphan_time,
            leave,
        };
        let received = server.clone();
        let expiring = sessions.clone();
        let _tasks = [
            background(async move { board.keep_beating().await }),
            background(async move { telling.tell().await }),
            background(expiring.expire()),
            background(relay_listener::accept(listener, move |unix| {
                server.relayed(unix)
            })),
            background(link.run(self.channel, move |socket, info| {
                received.receive(socket, &info);
            })),
            background(async move {
                if let Some(tls) = tls {
                    tls.keep_renewed().await;
                }
            }),
        ];
        let why = tokio::select! {
            why = left.recv() => why,
            () = shutdown => None,
        };
        let own = Bounds::at_once(config.drain_time);
        let (exit, bounds) = match why {
            None => (Exit::Shutdown, own),
            Some(Leave::Drain(bounds)) => (Exit::Drained, bounds),
            Some(Leave::Retired) => (Exit::Retired, own),
            Some(Leave::Orphaned) => (Exit::Orphaned, own),
        };
        tracing::info!(?exit, spread = ?bounds.spread, within = ?bounds.within, "leaving");
        let drain = Drain {
            departure,
            sessions,
            streams,
        };
        leave_within(&drain, bounds, &mut left).await;
        let _ = fs::remove_file(&relay_path);
        drop(registration);
        Ok(exit)
    }
}

/// Drains. The master may want it to be faster than it said at first.
async fn leave_within(
    drain: &Drain,
    mut bounds: Bounds,
    left: &mut mpsc::UnboundedReceiver<Leave>,
) {
    loop {
        tokio::select! {
            () = drain.run(bounds) => return,
            Some(why) = left.recv() => if let Leave::Drain(now) = why {
                tracing::info!(spread = ?now.spread, within = ?now.within, "leaving otherwise");
                bounds = now;
            },
        }
    }
}

/// Everything a new stream needs.
struct Server<S> {
    http: Arc<http1::Builder>,
    layer: Arc<SidLayer<S>>,
    streams: Arc<StreamRegistry>,
    board: Arc<Board>,
    tls: Option<Tls>,
    secret: Option<ClusterSecret>,
    greeting_time: Duration,
    write_deadline: Duration,
    idle_timeout: Duration,
}

impl<S> Clone for Server<S> {
    fn clone(&self) -> Self {
        Server {
            http: self.http.clone(),
            layer: self.layer.clone(),
            streams: self.streams.clone(),
            board: self.board.clone(),
            tls: self.tls.clone(),
            secret: self.secret.clone(),
            ..*self
        }
    }
}

impl<S: Application> Server<S> {
    fn new(
        config: &WorkerConfig,
        registration: &Registration,
        application: S,
        departure: &Departure,
        tls: Option<Tls>,
        nodes: Nodes,
    ) -> Self {
        let board = &registration.board;
        let limits = Limits {
            unfinished: config.unfinished_handshakes,
            lifetime: config.ping_interval + config.ping_timeout,
        };
        let close = InProcessClose::new(application.clone(), config.path());
        let layer = SidLayer {
            application,
            own: SidTag {
                node: config.node,
                worker: config.worker,
            },
            path: config.path().into(),
            sessions: Sessions::new(limits, board.clone(), Box::new(close)),
            relay: Relay {
                node: config.node,
                nodes,
                secret: config.cluster_secret.clone(),
                dir: registration.dir.clone(),
                board: board.clone(),
                upgrade_timeout: config.upgrade_timeout,
            },
            upgrade_timeout: config.upgrade_timeout,
            trusted_proxies: config.trusted_proxies.clone(),
            affinity_cookie: config.affinity_cookie.clone(),
            requests_per_connection: config.requests_per_connection,
            board: board.clone(),
            departure: departure.clone(),
        };
        Server {
            http: Arc::new(http(config.idle_timeout, config.head_max)),
            layer: Arc::new(layer),
            streams: Arc::new(StreamRegistry::new(board.clone())),
            board: board.clone(),
            tls,
            secret: config.cluster_secret.clone(),
            greeting_time: config.greeting_time,
            write_deadline: config.write_deadline,
            idle_timeout: config.idle_timeout,
        }
    }

    /// Takes a socket of the master's.
    fn receive(&self, socket: Socket, info: &SocketInfo) {
        let registered = self.streams.enter(Origin::handed_over(info));
        match (info.speaks, socket) {
            (Speaks::Http, socket) => self.serve(socket, registered),
            (Speaks::Tls, Socket::Tcp(tcp)) => self.shake_hands(tcp, registered),
            (Speaks::Relay, Socket::Tcp(tcp)) => self.greet(tcp, registered),
            (speaks, _) => tracing::error!(?speaks, "a socket is not what the master says"),
        }
    }

    fn serve(&self, socket: Socket, registered: Registered) {
        let stream = ClientStream::new(socket, registered, self.write_deadline);
        let (http, layer) = (self.http.clone(), self.layer.clone());
        let times = Times {
            first_head: self.greeting_time,
            idle: self.idle_timeout,
        };
        tokio::spawn(serve(http, layer, stream, times));
    }

    fn shake_hands(&self, tcp: TcpStream, registered: Registered) {
        let Some(tls) = self.tls.clone() else {
            return tracing::error!("there is no certificate for a TLS connection");
        };
        let server = self.clone();
        tokio::spawn(async move {
            let accepted = tokio::select! {
                accepted = tls.accept(tcp) => accepted,
                () = server.leaves() => return,
            };
            match accepted {
                Ok(stream) => server.serve(Socket::Tls(Box::new(stream)), registered),
                Err(error) => {
                    server.board.tls_failed();
                    let peer = registered.state().origin.peer;
                    tracing::debug!(?peer, %error, "TLS handshake");
                }
            }
        });
    }

    /// Another node's worker has come.
    fn greet(&self, mut tcp: TcpStream, registered: Registered) {
        let Some(secret) = self.secret.clone() else {
            return tracing::error!("another node has come, and there is no secret to know it by");
        };
        let server = self.clone();
        tokio::spawn(async move {
            let own = server.layer.own;
            let answer = remote_relay::answer(&mut tcp, &secret, own);
            let answered = tokio::select! {
                answered = tokio::time::timeout(server.greeting_time, answer) => answered,
                () = server.leaves() => return,
            };
            let answered = answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            match answered {
                // Another entry than the one above, which does not know the client.
                Ok(origin) => {
                    let client = server.streams.enter(origin);
                    drop(registered);
                    server.serve(Socket::Tcp(tcp), client);
                }
                Err(error) => {
                    server.board.stranger();
                    let peer = registered.state().origin.peer;
                    tracing::debug!(?peer, %error, "a connection is not another node's relay");
                }
            }
        });
    }

    /// Resolves when the worker closes and whoever came just before has had time
    /// to say what they want.
    async fn leaves(&self) {
        self.layer.departure.closing().await;
        tokio::time::sleep(FIRST_REQUEST_GRACE).await;
    }

    fn relayed(&self, mut unix: tokio::net::UnixStream) {
        let server = self.clone();
        tokio::spawn(async move {
            let origin = relay_listener::origin(&mut unix);
            match tokio::time::timeout(server.idle_timeout, origin).await {
                Ok(Ok(Some(origin))) => {
                    let registered = server.streams.enter(origin);
                    server.serve(Socket::Unix(unix), registered);
                }
                Ok(Ok(None)) | Err(_) => {}
                Ok(Err(error)) => tracing::debug!(%error, "relay connection"),
            }
        });
    }
}

/// The id's lock is ours, so a socket that is there is a dead worker's.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(path),
    }
}

fn background(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}
