//! Keeps one seat filled: starts a worker process, waits for its end, starts
//! another; puts a new one in its place when it is told to.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Phase};
use crate::process::Process;
use crate::restart_policy::{LOUD_AFTER, RestartPolicy};

/// A worker that drains by itself, as because of a signal, has its own bounds. They
/// are not known here; after that long it is killed.
const OWN_WAY: Duration = Duration::from_secs(60);

/// The cluster stops: its own time is the bound.
pub(crate) const UNTIL_STOPPED: Duration = Duration::MAX;

/// Clients who find no worker wait for the next one, unless more than so many have
/// died in a row: then they are told at once.
const PROMISING: u32 = 3;

/// What a seat is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// A new process takes the place of the present one. The error says why it
    /// did not, and the present one has stayed.
    Renew(oneshot::Sender<Result<(), String>>),
}

/// Fills a seat until the cluster stops, or until nobody can give orders any
/// more: then its process drains. `first` has the seat already.
pub(crate) async fn keep_seat(
    cluster: Arc<Cluster>,
    first: Option<Process>,
    mut orders: mpsc::Receiver<Order>,
) {
    let mut policy = RestartPolicy::default();
    let mut leavers = JoinSet::new();
    let mut present = first;
    while cluster.phase() == Phase::Running {
        while leavers.try_join_next().is_some() {}
        if present.is_none() && policy.failures() <= PROMISING {
            cluster.expect_workers();
        }
        let process = match present.take().map_or_else(|| Process::start(&cluster), Ok) {
            Ok(process) => process,
            Err(error) => {
                tracing::error!(%error, "cannot start a worker");
                let pause = policy.after_death(Duration::ZERO, false);
                if !wait_for_turn(&cluster, pause, &mut orders, &mut present).await {
                    break;
                }
                continue;
            }
        };
        tokio::select! {
            // It says so before it ends.
            biased;
            () = process.seat.leaving.notified() => {
                tracing::info!(worker = %process.worker, pid = process.pid, "worker drains");
                leavers.spawn(see_off(cluster.clone(), process, OWN_WAY));
            }
            () = process.end() => {
                let (lived, ready) = (process.lived(), process.seat.was_ready());
                process.bury(&cluster).await;
                let pause = policy.after_death(lived, ready);
                if policy.failures() == LOUD_AFTER {
                    tracing::error!(
                        deaths = LOUD_AFTER,
                        "a worker has died again and again right after its start; \
                         its own messages above say why; trying on, ever more rarely"
                    );
                }
                if !wait_for_turn(&cluster, pause, &mut orders, &mut present).await {
                    break;
                }
            }
            order = orders.recv() => match order {
                Some(Order::Renew(answer)) => match successor(&cluster).await {
                    Ok(next) => {
                        retire(&cluster, process, &mut leavers);
                        present = Some(next);
                        let _ = answer.send(Ok(()));
                    }
                    Err(why) => {
                        present = Some(process);
                        let _ = answer.send(Err(why));
                    }
                },
                None => {
                    retire(&cluster, process, &mut leavers);
                    break;
                }
            },
            () = cluster.until(Phase::Stopping) => {
                leavers.spawn(see_off(cluster.clone(), process, UNTIL_STOPPED));
            }
        }
    }
    // The cluster stops, and an order was just carried out.
    if let Some(process) = present {
        leavers.spawn(see_off(cluster.clone(), process, UNTIL_STOPPED));
    }
    while leavers.join_next().await.is_some() {}
}

/// Waits before the next start; an order ends the pause, and may fill the seat.
/// False when the seat is not wanted any more.
async fn wait_for_turn(
    cluster: &Cluster,
    pause: Duration,
    orders: &mut mpsc::Receiver<Order>,
    present: &mut Option<Process>,
) -> bool {
    tokio::select! {
        () = tokio::time::sleep(pause) => true,
        () = cluster.until(Phase::Stopping) => false,
        order = orders.recv() => match order {
            Some(Order::Renew(answer)) => {
                let next = successor(cluster).await;
                let _ = answer.send(next.map(|next| *present = Some(next)));
                true
            }
            None => false,
        }
    }
}

/// Starts a process and waits until it takes clients.
async fn successor(cluster: &Cluster) -> Result<Process, String> {
    let process =
        Process::start(cluster).map_err(|error| format!("cannot start a worker: {error}"))?;
    let ready_time = cluster.config.ready_time;
    let why = tokio::select! {
        biased;
        () = process.seat.ready() => return Ok(process),
        () = process.end() => None,
        () = tokio::time::sleep(ready_time) => {
            Some(format!("the new worker was not ready within {ready_time:?}"))
        }
        () = cluster.until(Phase::Stopping) => Some("the cluster stops".to_owned()),
    };
    if why.is_some() {
        process.kill();
        process.end().await;
    }
    let cause = process.bury(cluster).await;
    Err(why.unwrap_or_else(|| {
        let cause = cause.unwrap_or_else(|| "exit code 0".to_owned());
        format!("the new worker ended before it was ready: {cause}")
    }))
}

/// Has a process send its clients to the others, and leave.
pub(crate) fn retire(cluster: &Arc<Cluster>, process: Process, leavers: &mut JoinSet<()>) {
    tracing::info!(worker = %process.worker, pid = process.pid, "worker is told to drain");
    cluster.drain(process.worker);
    let bound = cluster.config.drain_bound();
    leavers.spawn(see_off(cluster.clone(), process, bound));
}

/// Waits for the end of a process that leaves; kills it when it has had its time,
/// its own or that of a cluster which stops.
pub(crate) async fn see_off(cluster: Arc<Cluster>, process: Process, bound: Duration) {
    let _leaver = cluster.one_leaves();
    let has_ended = tokio::select! {
        () = process.end() => true,
        () = tokio::time::sleep(bound) => false,
        () = out_of_time(&cluster) => false,
    };
    if !has_ended {
        tracing::warn!(worker = %process.worker, pid = process.pid, "killing a worker that does not end");
        process.kill();
        process.end().await;
    }
    process.bury(&cluster).await;
}

/// Waits until a worker that still lives must be killed.
async fn out_of_time(cluster: &Cluster) {
    cluster.until(Phase::Stopping).await;
    let killing = cluster.until(Phase::Killing);
    let _ = tokio::time::timeout(cluster.config.stop_time, killing).await;
}
