//! The master: binds, adopts or starts workers, serves until told to stop.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use common::handoff::Speaks;
use common::handoff_channel;
use common::runtime_dir::{HeldLock, RuntimeDir};
use common::worker_id::NodeId;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::client_socket::{Arrival, ClientSocket};
use crate::cluster::{Cluster, WORKER_DESCRIPTORS};
use crate::command::{Command, CommandError, Reloaded, Scaled};
use crate::config::MasterConfig;
use crate::entrance::Entrance;
use crate::error::MasterError;
use crate::handover::Handover;
use crate::listener::{BindError, Inherited, ListenAddress, Listener};
use crate::metrics::Metrics;
use crate::seats::{Ended, Seats};
use crate::status::WorkerStatus;
use crate::{accept, process, rebalance, registration, stuck, ticket_rotation};

/// Commands that may wait while one is carried out.
const COMMANDS: usize = 16;
/// Descriptors for listeners, the runtime and whatever else a process has open.
const BASE_DESCRIPTORS: u64 = 64;
/// Fewer clients at a time than this make no sense.
const CLIENTS_MIN: u64 = 64;

/// A master that holds its runtime directory and its listeners.
#[derive(Debug)]
pub struct Master {
    cluster: Arc<Cluster>,
    listeners: Vec<Arc<Listener>>,
    /// Connections of the process image before, whose first request is awaited.
    earlier: Vec<ClientSocket>,
    /// What that image had started.
    children: Vec<u32>,
    workers: handoff_channel::Listener,
    commands: mpsc::Receiver<Command>,
    orders: mpsc::Sender<Command>,
    lock: HeldLock,
}

/// A master's state, for whoever runs beside it.
#[derive(Clone, Debug)]
pub struct MasterHandle {
    cluster: Arc<Cluster>,
    orders: mpsc::Sender<Command>,
}

/// How [`Master::run`] ended.
#[derive(Debug)]
pub enum Outcome {
    /// It was told to stop, and no worker lives.
    Stopped,
    /// It was told to hand over: this is what the next process image needs. The
    /// workers live, and wait for it.
    HandedOver(Handover),
}

impl MasterHandle {
    /// Waits until as many workers as there are to be take clients.
    pub async fn all_ready(&self) {
        self.cluster.workers_ready(self.workers()).await;
    }

    /// How many workers there are to be.
    pub fn workers(&self) -> usize {
        self.cluster.wanted.load(SeqCst)
    }

    /// How many workers take clients now.
    pub fn ready_workers(&self) -> usize {
        self.cluster.ready_workers()
    }

    /// Every worker process as it is now, lowest id first; for a moment it may be one
    /// that has ended. Costs no worker anything.
    pub fn status(&self) -> Vec<WorkerStatus> {
        self.cluster.status()
    }

    /// The workers as they are, and all that they and the master counted. Costs no worker anything.
    pub fn metrics(&self) -> Metrics {
        self.cluster.metrics()
    }

    /// Resolves at the next change of [`ready_workers`](Self::ready_workers).
    pub async fn ready_changed(&self) {
        self.cluster.ready_changed().await;
    }

    /// Says which node this is, where [`MasterConfig::node`] did not; workers
    /// start then. Once.
    pub fn set_node(&self, node: NodeId) {
        self.cluster.set_node(node);
    }

    /// Replaces all workers, one after the other, by new ones of the same command,
    /// each of which takes clients before the one before it drains
    /// ([`MasterConfig::drain_time`]). Resolves when all are new; the ones before
    /// may still drain, see [`nobody_drains`](Self::nobody_drains).
    ///
    /// # Errors
    /// The first new worker that is not ready in time, or dies, ends it: what runs
    /// goes on.
    pub async fn reload(&self) -> Result<Reloaded, CommandError> {
        self.order(Command::Reload).await
    }

    /// Has that many workers from now on, 1 to [`WORKERS_MAX`](crate::WORKERS_MAX). Resolves when new
    /// ones take clients, or those too many have begun to drain.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn scale(&self, workers: usize) -> Result<Scaled, CommandError> {
        self.order(|answer| Command::Scale(workers, answer)).await
    }

    /// From now on so many clients a second are asked to go from workers that have
    /// more than their share, see [`MasterConfig::rebalance`]; 0: none.
    ///
    /// # Errors
    /// [`CommandError::MovesNobody`].
    pub fn rebalance(&self, per_second: u32) -> Result<(), CommandError> {
        let config = &self.cluster.config;
        let keeps_clients = config
            .balance
            .keeps_clients(config.affinity_cookie.as_deref());
        if per_second > 0 && keeps_clients {
            return Err(CommandError::MovesNobody);
        }
        self.cluster.rebalance.store(per_second, SeqCst);
        Ok(())
    }

    /// Has [`Master::run`] end with [`Outcome::HandedOver`], after the commands
    /// before this one.
    ///
    /// # Errors
    /// The master is about to stop.
    pub async fn hand_over(&self) -> Result<(), CommandError> {
        let sent = self.orders.send(Command::HandOver).await;
        sent.map_err(|_| CommandError::Stopping)
    }

    /// Resolves when no worker drains.
    pub async fn nobody_drains(&self) {
        self.cluster.nobody_leaves().await;
    }

    /// Ends everything at once: workers are killed.
    pub fn kill(&self) {
        self.cluster.kill();
    }

    async fn order<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, CommandError>>) -> Command,
    ) -> Result<T, CommandError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.orders.send(command(answer)).await;
        sent.map_err(|_| CommandError::Stopping)?;
        answered.await.unwrap_or(Err(CommandError::Stopping))
    }
}

impl Master {
    /// Takes the runtime directory and the addresses; starts nothing. Raises
    /// the process's soft limit of open files to the hard one.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn bind(config: MasterConfig) -> Result<Master, MasterError> {
        Master::bind_beside(config, Vec::new())
    }

    /// The same, with sockets that are bound already, as a service manager passes
    /// them: clients come in there as at [`MasterConfig::listen`], which may be
    /// empty then. An address that is in both is not bound again.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn bind_beside(config: MasterConfig, passed: Vec<OwnedFd>) -> Result<Master, MasterError> {
        let runtime_dir = RuntimeDir::open(&config.runtime_dir)?;
        let lock = runtime_dir.lock_master()?;
        let descriptors = client_descriptors(config.workers)?;
        let listeners = bind_all(&config, passed)?;
        let socket = runtime_dir.master_socket();
        // Left over by a master that was killed: the lock says it is dead.
        let _ = std::fs::remove_file(&socket);
        let workers =
            handoff_channel::Listener::bind(&socket).map_err(MasterError::Registration)?;
        let cluster = Cluster::new(config, runtime_dir, descriptors);
        Ok(Master::new(cluster, listeners, workers, lock))
    }

    /// Goes on where the process image before ended, which had the same directory.
    /// Its listeners count, not [`MasterConfig::listen`]; and it may have been
    /// scaled.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn take_over(
        mut config: MasterConfig,
        mut handover: Handover,
    ) -> Result<Master, MasterError> {
        let runtime_dir = RuntimeDir::open(&config.runtime_dir)?;
        config.workers = handover.workers;
        config.node = config.node.or(handover.node);
        config.rebalance = Some(handover.rebalance);
        let descriptors = client_descriptors(config.workers)?;
        let inherit = |inherited: Inherited| {
            let address = inherited.address.to_string();
            Listener::inherit(inherited).map_err(|source| BindError { address, source })
        };
        let listeners = std::mem::take(&mut handover.listeners).into_iter();
        let listeners: Result<_, _> = listeners.map(inherit).collect();
        let listeners: Vec<_> = listeners?;
        let cluster = Cluster::new(config, runtime_dir, descriptors);
        let earlier = handover.take_connections(&cluster.permits);
        let workers = handoff_channel::Listener::inherit(handover.registration)
            .map_err(MasterError::Registration)?;
        let lock = HeldLock::inherit(handover.lock);
        Ok(Master {
            children: process::children(),
            earlier,
            ..Master::new(cluster, listeners, workers, lock)
        })
    }

    fn new(
        cluster: Cluster,
        listeners: Vec<Listener>,
        workers: handoff_channel::Listener,
        lock: HeldLock,
    ) -> Master {
        let (orders, commands) = mpsc::channel(COMMANDS);
        Master {
            cluster: Arc::new(cluster),
            listeners: listeners.into_iter().map(Arc::new).collect(),
            earlier: Vec::new(),
            children: Vec::new(),
            workers,
            commands,
            orders,
            lock,
        }
    }

    /// The addresses with the ports that they have in fact.
    pub fn addresses(&self) -> impl Iterator<Item = &ListenAddress> {
        self.listeners.iter().map(|listener| listener.address())
    }

    /// The same addresses as clients dial them: `http://`, `https://`, `unix:`.
    pub fn urls(&self) -> impl Iterator<Item = String> {
        let clients = |listener: &&Arc<Listener>| listener.entrance().clients.is_some();
        let listeners = self.listeners.iter().filter(clients);
        listeners.map(|listener| listener.url())
    }

    /// For whoever runs beside it.
    pub fn handle(&self) -> MasterHandle {
        MasterHandle {
            cluster: self.cluster.clone(),
            orders: self.orders.clone(),
        }
    }

    /// Serves until `shutdown`, then stops accepting, has the workers ask their
    /// clients to return and waits for the workers' end, which is forced after
    /// [`MasterConfig::stop_time`]. Or until it is told to hand over, which leaves
    /// the workers alone.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<Outcome, MasterError> {
        let cluster = self.cluster.clone();
        let mut tasks = JoinSet::new();
        let registration = Arc::new(self.workers);
        tasks.spawn(registration::run(cluster.clone(), registration.clone()));
        tasks.spawn(send_staged(cluster.clone()));
        tasks.spawn(look_after_copies(cluster.clone()));
        tasks.spawn(tell(cluster.clone()));
        tasks.spawn(stuck::watch(cluster.clone()));
        if cluster.config.tls {
            tasks.spawn(ticket_rotation::run(cluster.clone()));
        }
        tasks.spawn(rebalance::run(cluster.clone()));
        cluster.expect_workers();
        let mut accepting = JoinSet::new();
        for listener in &self.listeners {
            let earlier = std::mem::take(&mut self.earlier);
            accepting.spawn(accept::run(cluster.clone(), listener.clone(), earlier));
        }
        let mut shutdown = pin!(shutdown);
        let seats = tokio::select! {
            _ = cluster.node() => Some(Seats::fill(cluster.clone(), &self.children)?),
            () = shutdown.as_mut() => None,
        };
        if let Some(seats) = seats {
            let mut serving = pin!(seats.run(&mut self.commands));
            let ended = tokio::select! {
                ended = serving.as_mut() => ended,
                () = shutdown => {
                    tracing::info!("stopping");
                    // Closes the listeners too.
                    accepting.shutdown().await;
                    self.listeners.clear();
                    cluster.stop();
                    serving.await
                }
            };
            if matches!(ended, Ended::HandOver) {
                let connections = take_unsent(&cluster, accepting).await;
                // Ends the channels; the workers look for the next master.
                tasks.shutdown().await;
                let only_owner = "the tasks that shared it have ended";
                let registration = Arc::into_inner(registration).expect(only_owner);
                let listeners = self.listeners.into_iter();
                let listeners = listeners.map(|one| Arc::into_inner(one).expect(only_owner));
                return Ok(Outcome::HandedOver(Handover {
                    lock: self.lock.into(),
                    registration: registration.bequeath(),
                    listeners: listeners.map(Listener::bequeath).collect(),
                    connections,
                    node: cluster.node_if_known(),
                    workers: cluster.wanted.load(SeqCst),
                    rebalance: cluster.rebalance.load(SeqCst),
                    note: String::new(),
                    descriptors: Vec::new(),
                }));
            }
        }
        // Nobody is left who would look for it.
        let _ = std::fs::remove_file(cluster.runtime_dir.master_socket());
        Ok(Outcome::Stopped)
    }
}

/// Nothing is accepted any more; all connections of clients that no worker was
/// sent.
async fn take_unsent(
    cluster: &Cluster,
    accepting: JoinSet<Vec<ClientSocket>>,
) -> Vec<(OwnedFd, Arrival)> {
    cluster.hand_over();
    let awaited = accepting.join_all().await.into_iter().flatten();
    cluster.flush();
    let unsent = awaited.chain(cluster.pool().take_unsent());
    unsent.map(ClientSocket::into_parts).collect()
}

/// The listeners of clients, and one for other nodes' workers unless they come
/// to one of those.
fn bind_all(config: &MasterConfig, passed: Vec<OwnedFd>) -> Result<Vec<Listener>, MasterError> {
    let entrance = |address: &ListenAddress| Entrance {
        clients: Some(match address {
            ListenAddress::Tcp(_) if config.tls => Speaks::Tls,
            _ => Speaks::Http,
        }),
        proxy_protocol: config.proxy_protocol,
        relay: false,
    };
    let mut listeners = Vec::new();
    for socket in passed {
        listeners.push(Listener::passed(socket, entrance)?);
    }
    for address in &config.listen {
        let is_passed = listeners
            .iter()
            .any(|one: &Listener| one.address() == address);
        if !is_passed {
            listeners.push(Listener::bind(address, entrance(address))?);
        }
    }
    if let Some(relay) = config.relay {
        let mut shared = false;
        for listener in &mut listeners {
            shared |= listener.take_relays(relay);
        }
        if !shared {
            let entrance = Entrance {
                clients: None,
                proxy_protocol: false,
                relay: true,
            };
            listeners.push(Listener::bind(&ListenAddress::Tcp(relay), entrance)?);
        }
    }
    Ok(listeners)
}

async fn tell(cluster: Arc<Cluster>) {
    cluster.tally.tell().await;
}

async fn send_staged(cluster: Arc<Cluster>) {
    cluster.send_staged().await;
}

async fn look_after_copies(cluster: Arc<Cluster>) {
    cluster.look_after_copies().await;
}

/// How many client connections the master may hold at a time.
fn client_descriptors(workers: usize) -> Result<usize, MasterError> {
    // Failures leave the limit as it is, which is then what counts.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    let others = BASE_DESCRIPTORS + WORKER_DESCRIPTORS * workers as u64;
    let needed = others + CLIENTS_MIN;
    if limit < needed {
        return Err(MasterError::FewDescriptors { limit, needed });
    }
    let clients = (limit - others).min(Semaphore::MAX_PERMITS as u64);
    Ok(clients as usize)
}
