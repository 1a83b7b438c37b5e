//! What a master is told at its start.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::forwarded::TrustedProxies;
use common::worker_id::NodeId;

use crate::balance::Balance;
use crate::listener::ListenAddress;

/// Most workers of one master. Ids go up to 255: each worker may have a
/// successor while it drains.
pub const WORKERS_MAX: usize = 128;

/// A master's settings.
#[derive(Clone)]
pub struct MasterConfig {
    /// Where clients connect; at least one.
    pub listen: Vec<ListenAddress>,
    /// Worker processes to keep alive, 1 to [`WORKERS_MAX`].
    pub workers: usize,
    /// How new clients are spread.
    pub balance: Balance,
    /// This node among others; 0 by default. `None`: not known yet. No worker
    /// starts before [`crate::MasterHandle::set_node`] says it.
    pub node: Option<NodeId>,
    /// Where master and workers meet.
    pub runtime_dir: PathBuf,
    /// Makes the command that starts one worker. The master adds the
    /// environment of [`common::worker_env`], a process group of its own, so
    /// that a Ctrl-C reaches the master alone, and an empty standard input.
    pub command: Arc<dyn Fn() -> Command + Send + Sync>,
    /// TCP listeners speak TLS, which the workers terminate. Unix listeners
    /// stay plain. Default false.
    pub tls: bool,
    /// Clients' connections begin with a PROXY protocol header, version 1 or 2;
    /// others are refused. Default false.
    pub proxy_protocol: bool,
    /// Where other nodes' workers connect: an address of
    /// [`listen`](Self::listen), or one that is bound for them alone. Default
    /// none.
    pub relay: Option<SocketAddr>,
    /// Who is believed what it says of a client's address in `X-Forwarded-For`
    /// or `Forwarded`. Default nobody.
    pub trusted_proxies: TrustedProxies,
    /// The cookie that names the worker for clients without a session id, as
    /// the workers set it. Default none.
    pub affinity_cookie: Option<String>,
    /// A request head must be complete that long after the connection was
    /// accepted. Default 5 s.
    pub head_time: Duration,
    /// Most bytes of a connection's first request head, 1 KiB to 64 KiB; values
    /// outside count as the nearest. Default 8 KiB.
    pub head_max: usize,
    /// Most connections of clients, in all workers together. Default none: the
    /// limits of open files are what counts.
    pub max_connections: Option<u64>,
    /// Most connections of one client address, of a /64 network with IPv6.
    /// Default none: whole offices share an address.
    pub max_connections_per_address: Option<u32>,
    /// Most connections a second of one client address, of a /64 network with IPv6, that bring no
    /// session id: those that may open a session, and with TLS all of them. As many as five seconds
    /// allow may come at once. Default none.
    pub max_new_connections_per_address: Option<u32>,
    /// A worker whose event loop does not run for that long is killed, and so is
    /// an id's holder that does not say Hello for that long to a new master.
    /// Default 15 s.
    pub stuck_time: Duration,
    /// A worker that is replaced or not wanted any more asks its clients to go to
    /// the others one after the other, in that time. Default 10 s.
    pub drain_time: Duration,
    /// How many clients a second are asked to go from workers that have more than
    /// their share. Default none: nobody is. Of no use where clients come back to
    /// the same worker: [`Balance::keeps_clients`].
    pub rebalance: Option<u32>,
    /// A worker that takes another's place must be ready for clients within that
    /// time. Default 30 s.
    pub ready_time: Duration,
    /// At the end, workers may take that long to send their clients away, and so
    /// may a worker for those who are left after
    /// [`drain_time`](Self::drain_time). Default 6 s.
    pub leave_time: Duration,
    /// At the end, what still lives after that long is killed; more than
    /// [`leave_time`](Self::leave_time), since workers have the departures of
    /// their clients to record. Default 9 s.
    pub stop_time: Duration,
}

impl MasterConfig {
    /// Defaults for all but what has none.
    pub fn new(
        listen: Vec<ListenAddress>,
        workers: usize,
        runtime_dir: PathBuf,
        command: impl Fn() -> Command + Send + Sync + 'static,
    ) -> MasterConfig {
        MasterConfig {
            listen,
            workers,
            balance: Balance::default(),
            node: Some(NodeId::default()),
            runtime_dir,
            command: Arc::new(command),
            tls: false,
            proxy_protocol: false,
            relay: None,
            trusted_proxies: TrustedProxies::default(),
            affinity_cookie: None,
            head_time: Duration::from_secs(5),
            head_max: 8 * 1024,
            max_connections: None,
            max_connections_per_address: None,
            max_new_connections_per_address: None,
            stuck_time: Duration::from_secs(15),
            drain_time: Duration::from_secs(10),
            rebalance: None,
            ready_time: Duration::from_secs(30),
            leave_time: Duration::from_secs(6),
            stop_time: Duration::from_secs(9),
        }
    }
}

impl MasterConfig {
    /// A worker that was told to drain is killed after that.
    pub(crate) fn drain_bound(&self) -> Duration {
        self.drain_time + self.stop_time
    }
}

impl fmt::Debug for MasterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterConfig")
            .field("listen", &self.listen)
            .field("workers", &self.workers)
            .field("balance", &self.balance)
            .field("node", &self.node)
            .field("runtime_dir", &self.runtime_dir)
            .finish_non_exhaustive()
    }
}
