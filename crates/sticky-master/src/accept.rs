//! The accept loop: takes connections, looks at their first request, has them
//! routed. Never reads a byte and never waits for a worker.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::client_socket::{ClientSocket, Sight};
use crate::cluster::{Cluster, refuse};
use crate::listener::{self, Listener};

/// When descriptors are used up, accepting pauses that long: connections wait
/// in the kernel's backlog meanwhile.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until it is cancelled. A permit stands for a descriptor; it is taken
/// before the connection is.
pub(crate) async fn run(cluster: Arc<Cluster>, listener: Arc<Listener>, permits: Arc<Semaphore>) {
    let mut exhausted = false;
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((fd, peer)) => {
                exhausted = false;
                receive(&cluster, ClientSocket::new(fd, peer, permit));
            }
            Err(error) if listener::is_exhaustion(&error) => {
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

async fn pause(permit: OwnedSemaphorePermit) {
    drop(permit);
    tokio::time::sleep(EXHAUSTED_PAUSE).await;
}

fn receive(cluster: &Arc<Cluster>, socket: ClientSocket) {
    match socket.look() {
        Sight::Incomplete { .. } => {
            tokio::spawn(await_head(cluster.clone(), socket));
        }
        sight => act(cluster, socket, sight),
    }
}

async fn await_head(cluster: Arc<Cluster>, socket: ClientSocket) -> io::Result<()> {
    let deadline = Instant::now() + cluster.config.head_time;
    let (socket, sight) = socket.watch(deadline).await?;
    act(&cluster, socket, sight);
    Ok(())
}

fn act(cluster: &Cluster, socket: ClientSocket, sight: Sight) {
    match sight {
        Sight::Request(claim) => cluster.place(socket, claim),
        Sight::Refuse(refusal) => refuse([(socket, refusal)]),
        Sight::Gone | Sight::Incomplete { .. } => {}
    }
}
