//! The accept loop: takes connections, looks at their first request, has them
//! routed. Never reads a byte of a client's and never waits for a worker.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use common::exhaustion::is_exhaustion;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::client_socket::{ClientSocket, Sight};
use crate::cluster::Cluster;
use crate::listener::Listener;

/// When descriptors are used up, accepting pauses that long: connections wait
/// in the kernel's backlog meanwhile.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until it is cancelled. A permit stands for a descriptor; it is taken
/// before the connection is.
pub(crate) async fn run(cluster: Arc<Cluster>, listener: Arc<Listener>, permits: Arc<Semaphore>) {
    let mut exhausted = false;
    loop {
        let Some(permit) = permit(&cluster, &permits).await else {
            return;
        };
        match listener.accept().await {
            Ok((fd, peer)) => {
                exhausted = false;
                let socket = ClientSocket::new(fd, peer, listener.entrance(), permit);
                receive(&cluster, socket);
            }
            Err(error) if is_exhaustion(&error) => {
                if !exhausted {
                    tracing::error!(%error, address = %listener.address(), "cannot accept; pausing");
                }
                exhausted = true;
                pause(permit).await;
            }
            // Of the one connection, which is gone already.
            Err(error) => tracing::debug!(%error, "a connection failed before it was accepted"),
        }
    }
}

/// Where there is none left, who has been silent for the longest has to go: so
/// no number of them keeps others from coming in.
async fn permit(cluster: &Cluster, permits: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    if let Ok(permit) = permits.clone().try_acquire_owned() {
        return Some(permit);
    }
    if cluster.watched.end_oldest() {
        cluster.tally.ended_silent();
    }
    permits.clone().acquire_owned().await.ok()
}

async fn pause(permit: OwnedSemaphorePermit) {
    drop(permit);
    tokio::time::sleep(EXHAUSTED_PAUSE).await;
}

fn receive(cluster: &Arc<Cluster>, mut socket: ClientSocket) {
    match socket.look(&cluster.reading) {
        Sight::Incomplete { .. } => {
            tokio::spawn(await_head(cluster.clone(), socket));
        }
        sight => act(cluster, socket, sight),
    }
}

async fn await_head(cluster: Arc<Cluster>, socket: ClientSocket) -> io::Result<()> {
    let deadline = Instant::now() + cluster.config.head_time;
    let must_end = cluster.watched.enter();
    let (socket, sight) = tokio::select! {
        watched = socket.watch(deadline, &cluster.reading) => watched?,
        () = must_end.ended() => return Ok(()),
    };
    act(&cluster, socket, sight);
    Ok(())
}

fn act(cluster: &Cluster, socket: ClientSocket, sight: Sight) {
    match sight {
        Sight::Request(claim) => cluster.place(socket, claim),
        Sight::Refuse(refusal) => cluster.refuse([(socket, refusal)]),
        Sight::Gone | Sight::Incomplete { .. } => {}
    }
}
