//! The accept loop: takes connections, looks at their first request, has them
//! routed. Never reads a byte of a client's and never waits for a worker.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use common::exhaustion::is_exhaustion;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use crate::client_socket::{ClientSocket, Sight};
use crate::cluster::Cluster;
use crate::listener::Listener;
use crate::watched::MustEnd;

/// When descriptors are used up, accepting pauses that long: connections wait
/// in the kernel's backlog meanwhile.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until it is cancelled, or the cluster is handed over: then the result
/// is the connections whose first request has not come yet. `earlier`: such
/// connections of the process image before.
pub(crate) async fn run(
    cluster: Arc<Cluster>,
    listener: Arc<Listener>,
    earlier: Vec<ClientSocket>,
) -> Vec<ClientSocket> {
    let mut heads = JoinSet::new();
    for socket in earlier {
        receive(&cluster, socket, &mut heads);
    }
    let mut over = pin!(cluster.handed_over());
    let mut exhausted = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = over.as_mut() => break,
            Some(_) = heads.join_next() => continue,
            accepted = accept(&cluster, &listener) => accepted,
        };
        match accepted {
            Ok(socket) => {
                exhausted = false;
                receive(&cluster, socket, &mut heads);
                // However many there are: others have work on this thread as well.
                consume_budget().await;
            }
            Err(error) if is_exhaustion(&error) => {
                if !exhausted {
                    tracing::error!(%error, address = %listener.address(), "cannot accept; pausing");
                }
                exhausted = true;
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
            // Of the one connection, which is gone already.
            Err(error) => tracing::debug!(%error, "a connection failed before it was accepted"),
        }
    }
    heads.join_all().await.into_iter().flatten().collect()
}

/// A permit stands for a descriptor; it is taken before the connection is.
async fn accept(cluster: &Cluster, listener: &Listener) -> io::Result<ClientSocket> {
    let permit = permit(cluster).await?;
    let (fd, peer) = listener.accept().await?;
    Ok(ClientSocket::new(fd, peer, listener.entrance(), permit))
}

/// Where there is none left, who has been silent for the longest has to go: so
/// no number of them keeps others from coming in.
async fn permit(cluster: &Cluster) -> io::Result<OwnedSemaphorePermit> {
    if let Ok(permit) = cluster.permits.clone().try_acquire_owned() {
        return Ok(permit);
    }
    if cluster.watched.end_oldest() {
        cluster.tally.ended_silent();
    }
    let permit = cluster.permits.clone().acquire_owned().await;
    permit.map_err(io::Error::other)
}

fn receive(
    cluster: &Arc<Cluster>,
    mut socket: ClientSocket,
    heads: &mut JoinSet<Option<ClientSocket>>,
) {
    match socket.look(&cluster.reading) {
        Sight::Incomplete { .. } => {
            // Here, not when the task begins: of many that come at once none has begun when there is no
            // permit for the next, and one of them has to go.
            let must_end = cluster.watched.enter();
            heads.spawn(await_head(cluster.clone(), socket, must_end));
        }
        sight => act(cluster, socket, sight),
    }
}

/// The result is a connection whose head had not come when the cluster was handed
/// over.
async fn await_head(
    cluster: Arc<Cluster>,
    socket: ClientSocket,
    must_end: MustEnd,
) -> Option<ClientSocket> {
    let deadline = Instant::now() + cluster.config.head_time;
    let (socket, sight) = tokio::select! {
        watched = socket.watch(deadline, &cluster.reading, cluster.handed_over()) => watched.ok()?,
        () = must_end.ended() => return None,
    };
    if matches!(sight, Sight::Incomplete { .. }) {
        return Some(socket);
    }
    act(&cluster, socket, sight);
    None
}

fn act(cluster: &Cluster, socket: ClientSocket, sight: Sight) {
    match sight {
        Sight::Request(claim) => cluster.place(socket, claim),
        Sight::Refuse(refusal) => cluster.refuse([(socket, refusal)]),
        Sight::Gone | Sight::Incomplete { .. } => {}
    }
}
