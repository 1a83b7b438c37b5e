//! The master: binds, adopts or starts workers, serves until told to stop.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use common::handoff::Speaks;
use common::handoff_channel;
use common::runtime_dir::{HeldLock, RuntimeDir, RuntimeDirError};
use common::worker_id::{NodeId, WorkerId};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::client_socket::PEEK_MAX;
use crate::cluster::Cluster;
use crate::config::MasterConfig;
use crate::entrance::Entrance;
use crate::error::MasterError;
use crate::listener::{ListenAddress, Listener};
use crate::{accept, registration, stuck, supervise, ticket_rotation};

/// Descriptors for listeners, the runtime and whatever else a process has open.
const BASE_DESCRIPTORS: u64 = 64;
/// Descriptors for a worker and one that it succeeds: a channel, a pidfd, and
/// the runtime's own pidfd of a child, each twice.
const WORKER_DESCRIPTORS: u64 = 6;
/// Fewer clients at a time than this make no sense.
const CLIENTS_MIN: u64 = 64;
/// A request head of fewer bytes is hardly one.
const HEAD_MIN: usize = 1024;

/// A master that holds its runtime directory and its listeners.
#[derive(Debug)]
pub struct Master {
    cluster: Arc<Cluster>,
    listeners: Vec<Arc<Listener>>,
    workers: handoff_channel::Listener,
    permits: Arc<Semaphore>,
    _lock: HeldLock,
}

/// A master's state, for whoever runs beside it.
#[derive(Clone, Debug)]
pub struct MasterHandle {
    cluster: Arc<Cluster>,
}

impl MasterHandle {
    /// Waits until all workers take clients.
    pub async fn all_ready(&self) {
        let wanted = self.cluster.config.workers;
        let mut ready = self.cluster.ready();
        let _ = ready.wait_for(|count| *count >= wanted).await;
    }

    /// Says which node this is, where [`MasterConfig::node`] did not; workers
    /// start then. Once.
    pub fn set_node(&self, node: NodeId) {
        self.cluster.set_node(node);
    }

    /// Ends everything at once: workers are killed.
    pub fn kill(&self) {
        self.cluster.kill();
    }
}

impl Master {
    /// Takes the runtime directory and the addresses; starts nothing. Raises
    /// the process's soft limit of open files to the hard one.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn bind(mut config: MasterConfig) -> Result<Master, MasterError> {
        config.head_max = config.head_max.clamp(HEAD_MIN, PEEK_MAX);
        let runtime_dir = RuntimeDir::open(&config.runtime_dir)?;
        let lock = runtime_dir.lock_master()?;
        let descriptors = client_descriptors(config.workers)?;
        let listeners = bind_all(&config)?;
        let socket = runtime_dir.master_socket();
        // Left over by a master that was killed: the lock says it is dead.
        let _ = std::fs::remove_file(&socket);
        let workers =
            handoff_channel::Listener::bind(&socket).map_err(MasterError::Registration)?;
        Ok(Master {
            cluster: Arc::new(Cluster::new(config, runtime_dir, descriptors)),
            listeners: listeners.into_iter().map(Arc::new).collect(),
            workers,
            permits: Arc::new(Semaphore::new(descriptors)),
            _lock: lock,
        })
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
        }
    }

    /// Serves until `shutdown`, then stops accepting, has the workers ask their
    /// clients to return and waits for the workers' end, which is forced after
    /// [`MasterConfig::stop_time`].
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), MasterError> {
        let cluster = self.cluster;
        let mut tasks = JoinSet::new();
        tasks.spawn(registration::run(cluster.clone(), self.workers));
        tasks.spawn(send_staged(cluster.clone()));
        tasks.spawn(look_after_copies(cluster.clone()));
        tasks.spawn(tell(cluster.clone()));
        tasks.spawn(stuck::watch(cluster.clone()));
        if cluster.config.tls {
            tasks.spawn(ticket_rotation::run(cluster.clone()));
        }
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            accepting.spawn(accept::run(cluster.clone(), listener, self.permits.clone()));
        }
        let mut shutdown = pin!(shutdown);
        let mut seats = tokio::select! {
            _ = cluster.node() => fill_seats(&cluster)?,
            () = shutdown.as_mut() => JoinSet::new(),
        };
        if !seats.is_empty() {
            shutdown.await;
        }
        tracing::info!("stopping");
        // Closes the listeners too.
        accepting.shutdown().await;
        cluster.stop();
        while seats.join_next().await.is_some() {}
        // Nobody is left who would look for it.
        let _ = std::fs::remove_file(cluster.runtime_dir.master_socket());
        Ok(())
    }
}

/// The listeners of clients, and one for other nodes' workers unless they come
/// to one of those.
fn bind_all(config: &MasterConfig) -> Result<Vec<Listener>, MasterError> {
    let mut listeners = Vec::new();
    for address in &config.listen {
        let tls = config.tls && matches!(address, ListenAddress::Tcp(_));
        let entrance = Entrance {
            clients: Some(if tls { Speaks::Tls } else { Speaks::Http }),
            proxy_protocol: config.proxy_protocol,
            relay: false,
        };
        listeners.push(Listener::bind(address, entrance)?);
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

/// Starts a task for each seat: first those whose process outlived an earlier
/// master, then new ones.
fn fill_seats(cluster: &Arc<Cluster>) -> Result<JoinSet<()>, RuntimeDirError> {
    let mut held = VecDeque::new();
    for worker in WorkerId::all() {
        if let Some(pid) = cluster.runtime_dir.worker_holder(worker)? {
            held.push_back((worker, pid));
        }
    }
    let mut seats = JoinSet::new();
    for _ in 0..cluster.config.workers {
        seats.spawn(supervise::keep_seat(cluster.clone(), held.pop_front()));
    }
    for (worker, _) in held {
        cluster.set_surplus(worker);
    }
    Ok(seats)
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
