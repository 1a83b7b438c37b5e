//! What the master's tasks share: the pool of workers behind a lock that is
//! never held across an await, and the signals by which the tasks wake each
//! other.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::handoff::Packet;
use common::handoff_channel::Channel;
use common::monotonic;
use common::runtime_dir::RuntimeDir;
use common::ticket_keys::{TicketKey, TicketKeys};
use common::worker_id::{Generation, NodeId, WorkerId};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::Instant;

use crate::client_socket::{ClientSocket, PEEK_MAX};
use crate::command::CommandError;
use crate::config::MasterConfig;
use crate::entrance::Reading;
use crate::member::Member;
use crate::metrics::{Metrics, WorkerCounts, WorkerMetrics};
use crate::pool::{Limits, Pool, Refused};
use crate::process::Process;
use crate::request_head::Claim;
use crate::seat::{Leaver, Seat, until_known, until_true};
use crate::status::WorkerStatus;
use crate::tally::Tally;
use crate::watched::Watched;

/// Copies of sockets are kept at most that long after the worker has received
/// them: one look for all of them is cheaper than a message for each.
const RELEASE_INTERVAL: Duration = Duration::from_millis(20);
/// How exactly limits of time are kept for sockets that wait or are on their
/// way to a worker that does not take them.
const LIMIT_INTERVAL: Duration = Duration::from_millis(250);

/// A request head of fewer bytes is hardly one.
const HEAD_MIN: usize = 1024;
/// Descriptors for a worker and one that it succeeds: a channel, the pidfd by which
/// it is killed, and the one by which its end is seen, each twice.
pub(crate) const WORKER_DESCRIPTORS: u64 = 6;

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
    /// How many workers there are to be.
    pub wanted: AtomicUsize,
    /// Worker processes that were started.
    pub started: AtomicU64,
    /// Those that ended otherwise than they should.
    pub died: AtomicU64,
    /// How many clients a second are asked to go from crowded workers; 0: none.
    pub rebalance: AtomicU32,
    /// A permit stands for a descriptor of a client's connection.
    pub permits: Arc<Semaphore>,
    /// As many workers as have descriptors set aside for them.
    provided: AtomicUsize,
    leavers: watch::Sender<usize>,
    handed_over: watch::Sender<bool>,
    strays: watch::Sender<Option<mpsc::UnboundedSender<Process>>>,
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
            new_of_address: config.max_new_connections_per_address,
        };
        let mut pool = Pool::new(config.balance, held_max, limits);
        if let Some(node) = config.node {
            pool.set_node(node);
        }
        Cluster {
            reading: Reading {
                head_max: config.head_max.clamp(HEAD_MIN, PEEK_MAX),
                trusted_proxies: config.trusted_proxies.clone(),
                affinity_cookie: config.affinity_cookie.clone(),
            },
            watched: Watched::default(),
            tally: Tally::default(),
            node: watch::Sender::new(config.node),
            ticket_keys: Mutex::default(),
            pool: Mutex::new(pool),
            seats: Mutex::default(),
            wanted: AtomicUsize::new(config.workers),
            started: AtomicU64::new(0),
            died: AtomicU64::new(0),
            rebalance: AtomicU32::new(config.rebalance.unwrap_or(0)),
            permits: Arc::new(Semaphore::new(descriptors)),
            provided: AtomicUsize::new(config.workers),
            leavers: watch::Sender::new(0),
            handed_over: watch::Sender::default(),
            strays: watch::Sender::default(),
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
        until_known(&self.node).await
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
            tell(member.channel.clone(), packet.clone());
        }
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
    pub(crate) fn place(&self, mut socket: ClientSocket, claim: Claim) {
        socket.set_known();
        let refused = self.pool().enter(socket, claim, Instant::now());
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
        let (worker, ready, leaving) = (member.worker, member.ready, member.leaving);
        if !self.pool().insert(member) {
            return false;
        }
        let seat = self.seats().get(&worker).cloned();
        self.set_ready(worker, ready);
        if leaving {
            self.set_leaving(worker);
        } else if seat.as_ref().is_some_and(|seat| seat.retired.load(SeqCst)) {
            self.drain(worker);
        }
        if let Some(seat) = seat {
            seat.registered.send_replace(true);
        }
        true
    }

    /// A worker says whether it takes clients.
    pub(crate) fn set_ready(&self, worker: WorkerId, ready: bool) {
        if let Some(member) = self.pool().member(worker) {
            member.ready = ready;
        }
        if ready && let Some(seat) = self.seats().get(&worker) {
            seat.ready.send_replace(true);
        }
        self.count_ready();
        // Clients may wait for it.
        self.look_at_workers();
        self.look_again.notify_one();
    }

    /// Has a worker send its clients to the others, and leave; as soon as it
    /// registers, if it has not yet.
    pub(crate) fn drain(&self, worker: WorkerId) {
        if let Some(seat) = self.seats().get(&worker) {
            seat.retired.store(true, SeqCst);
        }
        let (spread, rest) = (self.config.drain_time, self.config.leave_time);
        let packet = Packet::Drain {
            spread_ms: millis(spread),
            within_ms: millis(spread + rest),
        };
        let channel = self.pool().member(worker).map(|member| {
            member.leaving = true;
            member.channel.clone()
        });
        if let Some(channel) = channel {
            // What was sent before is received before.
            self.flush();
            tell(channel, packet);
        }
        self.count_ready();
    }

    /// Takes note of a process that leaves, for as long as the result lives.
    pub(crate) fn one_leaves(&self) -> Leaver {
        Leaver::among(&self.leavers)
    }

    /// Waits until no process leaves.
    pub(crate) async fn nobody_leaves(&self) {
        let mut leavers = self.leavers.subscribe();
        let _ = leavers.wait_for(|count| *count == 0).await;
    }

    /// How many workers take clients.
    pub(crate) fn ready_workers(&self) -> usize {
        *self.ready.borrow()
    }

    /// Waits until it is another number.
    pub(crate) async fn ready_changed(&self) {
        let _ = self.ready.subscribe().changed().await;
    }

    /// Waits until so many workers take clients.
    pub(crate) async fn workers_ready(&self, count: usize) {
        let mut ready = self.ready.subscribe();
        let _ = ready.wait_for(|ready| *ready >= count).await;
    }

    /// A worker was started, or one is expected that outlived an earlier master:
    /// clients may wait for it.
    pub(crate) fn expect_workers(&self) {
        self.pool().expect_workers(Instant::now());
    }

    /// Sets descriptors aside for so many workers, at the cost of clients.
    pub(crate) fn reserve_descriptors(&self, workers: usize) -> Result<(), CommandError> {
        let more = workers.saturating_sub(self.provided.load(SeqCst));
        let descriptors = u32::try_from(more as u64 * WORKER_DESCRIPTORS).unwrap_or(u32::MAX);
        let permits = self.permits.try_acquire_many(descriptors);
        permits
            .map_err(|_| CommandError::FewDescriptors(workers))?
            .forget();
        self.provided.fetch_max(workers, SeqCst);
        Ok(())
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
        let seat = Arc::<Seat>::default();
        seats.insert(worker, seat.clone());
        Some((worker, seat))
    }

    /// Every process that outlived an earlier master is known. Others that register
    /// are to be sent to `strays`.
    pub(crate) fn know_seats(&self, strays: mpsc::UnboundedSender<Process>) {
        self.strays.send_replace(Some(strays));
    }

    /// Waits until all of them are known; where others go.
    pub(crate) async fn seats_known(&self) -> mpsc::UnboundedSender<Process> {
        until_known(&self.strays).await
    }

    /// Whether somebody looks after the process that has this id.
    pub(crate) fn has_seat(&self, worker: WorkerId) -> bool {
        self.seats().contains_key(&worker)
    }

    /// Takes the id of a process that lived before this master.
    pub(crate) fn reserve_held(&self, worker: WorkerId) -> Arc<Seat> {
        let seat = Arc::<Seat>::default();
        self.seats().insert(worker, seat.clone());
        seat
    }

    /// Every worker process, lowest id first.
    fn workers(&self, pool: &Pool) -> Vec<WorkerMetrics> {
        let now_ms = monotonic::now_ms();
        let seats = self.seats();
        let look = |worker: WorkerId| match pool.registered(worker) {
            Some(member) => {
                let counts = member.counts();
                let status = member.status(&counts, now_ms);
                Some(WorkerMetrics { status, counts })
            }
            None => Some(WorkerMetrics {
                status: WorkerStatus::without_channel(worker.0, seats.get(&worker)?),
                counts: WorkerCounts::default(),
            }),
        };
        WorkerId::all().filter_map(look).collect()
    }

    /// How each of them stands.
    pub(crate) fn status(&self) -> Vec<WorkerStatus> {
        let workers = self.workers(&self.pool());
        workers.into_iter().map(|worker| worker.status).collect()
    }

    /// The workers and all that was counted.
    pub(crate) fn metrics(&self) -> Metrics {
        let pool = self.pool();
        let workers = self.workers(&pool);
        // Of the same look: the total is what the lines come to.
        let totals = pool.totals(workers.iter().map(|worker| &worker.counts));
        Metrics {
            workers,
            totals,
            waiting: self.watched.count() + pool.waiting(),
            refused: self.tally.by_reason(),
            made_room: self.tally.made_room(),
            started: self.started.load(SeqCst),
            died: self.died.load(SeqCst),
        }
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

    /// Nothing is accepted any more: another process image goes on. Unlike the
    /// phases this leaves the workers alone.
    pub(crate) fn hand_over(&self) {
        self.handed_over.send_replace(true);
    }

    /// Waits until it is handed over.
    pub(crate) async fn handed_over(&self) {
        until_true(&self.handed_over).await;
    }

    /// Begins the end: workers are told to drain, those that wait are refused.
    pub(crate) fn stop(&self) {
        self.phase.send_replace(Phase::Stopping);
        let drain = Packet::Drain {
            spread_ms: 0,
            within_ms: millis(self.config.leave_time),
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

/// Sends to a worker in its own time. A channel that stays full or is broken is that
/// of a worker which will be killed at a deadline.
fn tell(channel: Arc<Channel>, packet: Packet) {
    tokio::spawn(async move { channel.send(&packet, &[]).await });
}

fn millis(time: Duration) -> u32 {
    time.as_millis().try_into().unwrap_or(u32::MAX)
}
