//! What the master's tasks share: the pool of workers behind a lock that is
//! never held across an await, and the signals by which the tasks wake each
//! other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::handoff::Packet;
use common::runtime_dir::RuntimeDir;
use common::ticket_keys::{TicketKey, TicketKeys};
use common::worker_id::{Generation, NodeId, WorkerId};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::client_socket::ClientSocket;
use crate::config::MasterConfig;
use crate::entrance::Reading;
use crate::member::Member;
use crate::pool::{Limits, Pool, Refused};
use crate::request_head::Claim;
use crate::tally::Tally;
use crate::watched::Watched;

/// Copies of sockets are kept at most that long after the worker has received
/// them: one look for all of them is cheaper than a message for each.
const RELEASE_INTERVAL: Duration = Duration::from_millis(20);
/// How exactly limits of time are kept for sockets that wait or are on their
/// way to a worker that does not take them.
const LIMIT_INTERVAL: Duration = Duration::from_millis(250);

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Serving.
    Running,
    /// No new clients; workers drain.
    Stopping,
    /// Workers are killed.
    Killing,
}

/// What is known of a worker process from its start to its end, whether it has
/// registered or not.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    /// It was ready at some time.
    pub was_ready: AtomicBool,
    /// Told when it drains by itself.
    pub leaving: Notify,
    /// Told when its channel has ended.
    pub gone: Notify,
}

/// The shared state of a master.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Settings.
    pub config: MasterConfig,
    /// Where it lives.
    pub runtime_dir: RuntimeDir,
    /// How first requests are read.
    pub reading: Reading,
    /// Connections whose first request is waited for.
    pub watched: Watched,
    /// What was not served.
    pub tally: Tally,
    node: watch::Sender<Option<NodeId>>,
    ticket_keys: Mutex<TicketKeys>,
    pool: Mutex<Pool>,
    seats: Mutex<BTreeMap<WorkerId, Arc<Seat>>>,
    surplus: Mutex<BTreeSet<WorkerId>>,
    staged: Notify,
    look_again: Notify,
    ready: watch::Sender<usize>,
    phase: watch::Sender<Phase>,
}

impl Cluster {
    /// Nothing runs yet.
    /// `descriptors` is how many connections the master may hold.
    pub(crate) fn new(
        config: MasterConfig,
        runtime_dir: RuntimeDir,
        descriptors: usize,
    ) -> Cluster {
        let held_max = descriptors / 2;
        let limits = Limits {
            connections: config.max_connections,
            of_address: config.max_connections_per_address,
        };
        let mut pool = Pool::new(config.balance, held_max, limits);
        if let Some(node) = config.node {
            pool.set_node(node);
        }
        Cluster {
            reading: Reading {
                head_max: config.head_max,
                trusted_proxies: config.trusted_proxies.clone(),
                affinity_cookie: config.affinity_cookie.clone(),
            },
            watched: Watched::default(),
            tally: Tally::default(),
            node: watch::Sender::new(config.node),
            ticket_keys: Mutex::default(),
            pool: Mutex::new(pool),
            seats: Mutex::default(),
            surplus: Mutex::default(),
            staged: Notify::new(),
            look_again: Notify::new(),
            ready: watch::Sender::new(0),
            phase: watch::Sender::new(Phase::Running),
            config,
            runtime_dir,
        }
    }

    /// The workers; never to be held across an await.
    pub(crate) fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seats(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Arc<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says which node this is; once.
    pub(crate) fn set_node(&self, node: NodeId) {
        self.pool().set_node(node);
        self.node.send_replace(Some(node));
    }

    /// Which node this is, once that is known.
    pub(crate) async fn node(&self) -> NodeId {
        let mut node = self.node.subscribe();
        let known = node
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|node| *node);
        match known {
            Some(node) => node,
            // The sender is a part of `self`, and lives.
            None => std::future::pending().await,
        }
    }

    /// Which node this is, where that is known.
    pub(crate) fn node_if_known(&self) -> Option<NodeId> {
        *self.node.borrow()
    }

    /// The keys of TLS session tickets.
    pub(crate) fn ticket_keys(&self) -> TicketKeys {
        self.lock_ticket_keys().clone()
    }

    fn lock_ticket_keys(&self) -> MutexGuard<'_, TicketKeys> {
        let keys = self.ticket_keys.lock();
        keys.unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds keys, and tells all workers if there was a new one among them.
    pub(crate) fn add_ticket_keys(&self, keys: impl IntoIterator<Item = TicketKey>) {
        if !self.lock_ticket_keys().merge(keys) {
            return;
        }
        self.tell_all(&Packet::TicketKeys(self.ticket_keys()));
    }

    /// Connections of an earlier master.
    pub(crate) fn present(&self, worker: WorkerId, addresses: &[IpAddr]) {
        if let Some(member) = self.pool().member(worker) {
            member.present(addresses);
        }
    }

    /// Counted connections are closed.
    pub(crate) fn closed(&self, worker: WorkerId, addresses: &[IpAddr]) {
        if let Some(member) = self.pool().member(worker) {
            member.closed(addresses);
        }
    }

    /// Sends to every worker, each in its own time.
    fn tell_all(&self, packet: &Packet) {
        let pool = self.pool();
        for member in pool.members() {
            let (channel, packet) = (member.channel.clone(), packet.clone());
            // A channel that is full or broken is that of a worker which will be
            // killed at the deadline.
            tokio::spawn(async move { channel.send(&packet, &[]).await });
        }
    }

    /// How many workers take clients, as it changes.
    pub(crate) fn ready(&self) -> watch::Receiver<usize> {
        self.ready.subscribe()
    }

    /// How far the end has come.
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Waits until the end has come that far.
    pub(crate) async fn until(&self, phase: Phase) {
        let mut reached = self.phase.subscribe();
        let _ = reached.wait_for(|now| *now >= phase).await;
    }

    /// Routes a connection whose first request has arrived.
    pub(crate) fn place(&self, socket: ClientSocket, claim: Claim) {
        let refused = self.pool().place(socket, claim, Instant::now());
        self.staged.notify_one();
        self.refuse(refused);
    }

    /// Sends what was staged since, in as few messages as it takes; goes on for
    /// ever.
    pub(crate) async fn send_staged(&self) {
        loop {
            self.staged.notified().await;
            self.flush();
        }
    }

    /// Sends what is staged now; its copies are looked after.
    pub(crate) fn flush(&self) {
        self.pool().flush(Instant::now());
        self.look_again.notify_one();
    }

    /// Drops copies that are not needed any more and places those that wait;
    /// goes on for ever.
    pub(crate) async fn look_after_copies(&self) {
        loop {
            self.look_again.notified().await;
            tokio::time::sleep(RELEASE_INTERVAL).await;
            // The rest is told by the workers; only limits of time need a clock.
            while self.look_at_workers() {
                tokio::time::sleep(LIMIT_INTERVAL).await;
            }
        }
    }

    /// A worker has said that something changed, or a look is due. True when
    /// something is still on its way or waits; then the workers have been asked
    /// to tell of the next change.
    pub(crate) fn look_at_workers(&self) -> bool {
        let (left, refused) = {
            let mut pool = self.pool();
            if !pool.release_received() {
                return false;
            }
            // Asked before the second look: what changes after it is told.
            pool.ask_wake();
            let now = Instant::now();
            let refused = pool.place_waiting(now);
            pool.flush(now);
            (pool.release_received(), refused)
        };
        self.refuse(refused);
        left
    }

    /// Lets a worker in; false when its id is taken.
    pub(crate) fn admit(&self, member: Member) -> bool {
        let (worker, ready) = (member.worker, member.ready);
        if !self.pool().insert(member) {
            return false;
        }
        // Also tells those who wait for it that it has come.
        self.ready.send_modify(|_| {});
        self.set_ready(worker, ready);
        true
    }

    /// A worker says whether it takes clients.
    pub(crate) fn set_ready(&self, worker: WorkerId, ready: bool) {
        if let Some(member) = self.pool().member(worker) {
            member.ready = ready;
        }
        if ready && let Some(seat) = self.seats().get(&worker) {
            seat.was_ready.store(true, SeqCst);
        }
        self.count_ready();
        self.look_again.notify_one();
    }

    /// A worker drains by itself.
    pub(crate) fn set_leaving(&self, worker: WorkerId) {
        if let Some(member) = self.pool().member(worker) {
            member.leaving = true;
        }
        if let Some(seat) = self.seats().get(&worker) {
            seat.leaving.notify_one();
        }
        self.count_ready();
    }

    /// Sockets did not get through to a worker.
    pub(crate) fn lost(&self, worker: WorkerId, first: u64, count: u8) {
        let refused = self.pool().lost(worker, first, count, Instant::now());
        self.staged.notify_one();
        self.refuse(refused);
    }

    /// A worker's channel has ended.
    pub(crate) fn remove(&self, worker: WorkerId) {
        let refused = self.pool().remove(worker, Instant::now());
        self.staged.notify_one();
        if let Some(seat) = self.seats().get(&worker) {
            seat.gone.notify_one();
        }
        self.count_ready();
        self.refuse(refused);
    }

    fn count_ready(&self) {
        let ready = {
            let pool = self.pool();
            pool.members()
                .filter(|member| member.takes_clients())
                .count()
        };
        self.ready.send_if_modified(|count| {
            let changed = *count != ready;
            *count = ready;
            changed
        });
    }

    /// Takes the lowest id that no living process has.
    pub(crate) fn reserve(&self) -> Option<(WorkerId, Arc<Seat>)> {
        let mut pool = self.pool();
        let mut seats = self.seats();
        let free = |worker: &WorkerId| {
            !seats.contains_key(worker)
                && pool.member(*worker).is_none()
                && matches!(self.runtime_dir.worker_holder(*worker), Ok(None))
        };
        let worker = WorkerId::all().find(free)?;
        // A surplus worker that had it is dead and will not be told any more.
        self.take_surplus(worker);
        let seat = Arc::<Seat>::default();
        seats.insert(worker, seat.clone());
        Some((worker, seat))
    }

    /// Takes the id of a process that lived before this master.
    pub(crate) fn reserve_held(&self, worker: WorkerId) -> Arc<Seat> {
        let seat = Arc::<Seat>::default();
        self.seats().insert(worker, seat.clone());
        seat
    }

    /// The id's process outlived an earlier master that had more workers: when
    /// it registers, it is told to leave.
    pub(crate) fn set_surplus(&self, worker: WorkerId) {
        let mut surplus = self.surplus.lock().unwrap_or_else(PoisonError::into_inner);
        surplus.insert(worker);
    }

    /// Takes note that a surplus worker was told to leave; false for others.
    pub(crate) fn take_surplus(&self, worker: WorkerId) -> bool {
        let mut surplus = self.surplus.lock().unwrap_or_else(PoisonError::into_inner);
        surplus.remove(&worker)
    }

    /// The id's process has ended.
    pub(crate) fn release(&self, worker: WorkerId) {
        self.seats().remove(&worker);
    }

    /// The number of the next worker process.
    pub(crate) fn next_generation(&self) -> Generation {
        self.runtime_dir.next_generation().unwrap_or_else(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot count generations"
            );
            Generation::default()
        })
    }

    /// Begins the end: workers are told to drain, those that wait are refused.
    pub(crate) fn stop(&self) {
        self.phase.send_replace(Phase::Stopping);
        let within_ms = self.config.drain_time.as_millis().try_into();
        let drain = Packet::Drain {
            within_ms: within_ms.unwrap_or(u32::MAX),
        };
        let refused = {
            let mut pool = self.pool();
            pool.take_no_clients();
            pool.refuse_waiting()
        };
        self.refuse(refused);
        self.tell_all(&drain);
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        self.phase.send_replace(Phase::Killing);
    }

    /// Kills a registered worker; its channel's end tells the rest.
    pub(crate) fn kill_worker(&self, worker: WorkerId) {
        if let Some(member) = self.pool().member(worker) {
            let _ =
                rustix::process::pidfd_send_signal(&member.process, rustix::process::Signal::KILL);
        }
    }

    /// Answers each in a task of its own.
    pub(crate) fn refuse(&self, refused: impl IntoIterator<Item = Refused>) {
        for (socket, refusal) in refused {
            self.tally.refused(refusal);
            let (peer, client) = (socket.peer(), socket.client());
            tracing::debug!(
                ?peer,
                ?client,
                reason = refusal.reason(),
                "connection refused"
            );
            tokio::spawn(socket.refuse(refusal));
        }
    }
}
