//! Workers come in here, however they were started: at their birth, or because
//! they outlived an earlier master.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use common::handoff::{Hello, Packet};
use common::handoff_channel::{Channel, ChannelError, Delivery, Listener};
use common::scoreboard::Scoreboard;
use common::ticket_keys::TicketKeys;
use common::worker_id::WorkerId;
use rustix::process::{Pid, PidfdFlags};
use thiserror::Error;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Phase};
use crate::member::Member;
use crate::process::Process;

/// Who connects must say Hello within that time.
const HELLO_TIME: Duration = Duration::from_secs(5);

/// Why a process that connected was not let in.
#[derive(Debug, Error)]
enum RegistrationError {
    #[error("it did not say Hello")]
    NoHello,
    #[error("it belongs to user {0}")]
    Stranger(u32),
    #[error("it is of node {0}")]
    OtherNode(common::worker_id::NodeId),
    #[error("it is not known yet which node this is")]
    NodeUnknown,
    #[error("it does not hold the lock of its worker id {0}")]
    NoLock(WorkerId),
    #[error("worker id {0} is taken")]
    Taken(WorkerId),
    #[error("there is no place for it")]
    NoPlace,
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Lets workers in and hears them out; goes on for ever. When this future is
/// dropped, all channels close.
pub(crate) async fn run(cluster: Arc<Cluster>, listener: Arc<Listener>) {
    let mut workers = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = workers.join_next() => continue,
        };
        match accepted {
            Ok(channel) => {
                workers.spawn(welcome(cluster.clone(), channel));
            }
            Err(error) => {
                // No descriptors, most likely: workers try again by themselves,
                // and going on at once would spin.
                tracing::error!(%error, "cannot take a worker's connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn welcome(cluster: Arc<Cluster>, channel: Channel) {
    let channel = Arc::new(channel);
    match register(&cluster, &channel).await {
        Ok(worker) => {
            attend(&cluster, worker, &channel).await;
            cluster.remove(worker);
        }
        Err(error) => {
            let pid = channel.peer().map_or(0, |(pid, _)| pid);
            tracing::warn!(pid, %error, "a process asked to be a worker and was turned away");
            // Else it comes again by itself.
            if !matches!(error, RegistrationError::NodeUnknown) {
                let _ = channel.try_send(&Packet::Retire, &[]);
            }
        }
    }
}

async fn register(
    cluster: &Arc<Cluster>,
    channel: &Arc<Channel>,
) -> Result<WorkerId, RegistrationError> {
    let (pid, user) = channel.peer()?;
    let ours = rustix::process::geteuid().as_raw();
    if user != ours && user != 0 {
        return Err(RegistrationError::Stranger(user));
    }
    let delivery = tokio::time::timeout(HELLO_TIME, channel.receive()).await;
    let (hello, board) = match delivery.map_err(|_| RegistrationError::NoHello)?? {
        Some(Delivery {
            packet: Packet::Hello(hello),
            fds,
        }) => (hello, fds),
        _ => return Err(RegistrationError::NoHello),
    };
    let board = board.first().ok_or(RegistrationError::NoHello)?;
    let board = Scoreboard::open(board)?;
    // Until then nobody can say whether the worker is this node's, or has a seat.
    let known = async { (cluster.seats_known().await, cluster.node().await) };
    let known = tokio::time::timeout(HELLO_TIME, known).await;
    let (strays, node) = known.map_err(|_| RegistrationError::NodeUnknown)?;
    if hello.node != node {
        return Err(RegistrationError::OtherNode(hello.node));
    }
    may_register(cluster, &hello)?;
    let pid_now = Pid::from_raw(pid as i32).ok_or(RegistrationError::NoHello)?;
    let process =
        rustix::process::pidfd_open(pid_now, PidfdFlags::empty()).map_err(io::Error::from)?;
    if !cluster.has_seat(hello.worker) {
        // Nobody knew of it: an earlier master started it just before its end, or
        // somebody else did.
        let stray = Process::adopt(cluster, hello.worker, pid);
        let sent = strays.send(stray.ok_or(RegistrationError::NoPlace)?);
        sent.map_err(|_| RegistrationError::NoPlace)?;
    }
    // The answer goes first: nothing may overtake it.
    channel.send(&Packet::Welcome, &[]).await?;
    let keys = cluster.ticket_keys();
    send_ticket_keys(channel, &keys).await?;
    let member = Member::new(&hello, process, channel.clone(), board);
    if !cluster.admit(member) {
        return Err(RegistrationError::Taken(hello.worker));
    }
    // From here on it is told of new ones like all the others.
    let keys_now = cluster.ticket_keys();
    if keys_now != keys {
        // It is a member now: a broken channel shows when it is read.
        let _ = send_ticket_keys(channel, &keys_now).await;
    }
    tracing::debug!(worker = %hello.worker, pid, generation = %hello.generation, "worker registered");
    Ok(hello.worker)
}

async fn send_ticket_keys(channel: &Channel, keys: &TicketKeys) -> Result<(), ChannelError> {
    if !keys.is_empty() {
        channel.send(&Packet::TicketKeys(keys.clone()), &[]).await?;
    }
    Ok(())
}

fn may_register(cluster: &Cluster, hello: &Hello) -> Result<(), RegistrationError> {
    if cluster.phase() != Phase::Running {
        return Err(RegistrationError::NoPlace);
    }
    if cluster.pool().member(hello.worker).is_some() {
        return Err(RegistrationError::Taken(hello.worker));
    }
    match cluster.runtime_dir.worker_holder(hello.worker) {
        Ok(None) => Err(RegistrationError::NoLock(hello.worker)),
        // Also when it cannot be looked at: not to turn away a healthy worker
        // for want of a descriptor.
        _ => Ok(()),
    }
}

/// Hears a worker out until its channel ends.
async fn attend(cluster: &Cluster, worker: WorkerId, channel: &Channel) {
    let Some(blocked) = cluster.pool().member(worker).map(|one| one.blocked.clone()) else {
        return;
    };
    let mut wants_room = false;
    loop {
        tokio::select! {
            delivery = channel.receive() => match delivery {
                Ok(Some(delivery)) => {
                    if !hear(cluster, worker, delivery.packet) {
                        break;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%worker, %error, "handoff channel failed");
                    break;
                }
            },
            () = blocked.notified(), if !wants_room => wants_room = true,
            room = channel.room(), if wants_room => {
                wants_room = false;
                if room.is_ok() {
                    cluster.flush();
                }
            }
        }
    }
    // It may have sockets that others are about to get: it must not go on.
    cluster.kill_worker(worker);
}

/// False when a worker has no business saying that.
fn hear(cluster: &Cluster, worker: WorkerId, packet: Packet) -> bool {
    match packet {
        Packet::Ready(ready) => cluster.set_ready(worker, ready),
        Packet::Progress => {
            cluster.look_at_workers();
        }
        Packet::Lost { first, count } => cluster.lost(worker, first, count),
        Packet::Leaving => cluster.set_leaving(worker),
        Packet::Present(addresses) => cluster.present(worker, &addresses),
        Packet::Closed(addresses) => cluster.closed(worker, &addresses),
        Packet::TicketKeys(keys) => cluster.add_ticket_keys(keys.iter().copied()),
        Packet::Hello(_)
        | Packet::Welcome
        | Packet::Retire
        | Packet::Handoff { .. }
        | Packet::Drain { .. }
        | Packet::Shed(_) => {
            tracing::error!(%worker, ?packet, "a worker broke the handoff protocol");
            return false;
        }
    }
    true
}
