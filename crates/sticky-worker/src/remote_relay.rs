//! How a relayed connection between two nodes begins: both sides prove that
//! they know the cluster's secret, then the caller says who the client is. What
//! follows is plain HTTP/1.1, so the network between the nodes has to be one
//! that can be trusted not to read or change it.
//!
//! [`common::relay_hello`] has the order of what is said.

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::relay_hello::{self, NONCE_LENGTH, RelayHello};
use common::sid_tag::SidTag;
use common::tally_line::LINE_INTERVAL;
use ring::digest;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cluster_secret::{ClusterSecret, Role};
use crate::relay_preface::{self, Preface};
use crate::stream_state::Origin;

/// Bytes of a proof: HMAC-SHA-256.
const PROOF_LENGTH: usize = digest::SHA256_OUTPUT_LEN;

/// A silent connection is probed after that time, and that often.
const PROBE_TIME: Duration = Duration::from_secs(5);
const PROBES: u32 = 2;

/// Has the kernel find out soon that the other node is gone while nothing is
/// said. What is on its way ends when the node is not listed any more, or by the
/// deadline on writes.
fn watch_over(tcp: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(tcp);
    socket.set_tcp_nodelay(true)?;
    let probes = TcpKeepalive::new()
        .with_time(PROBE_TIME)
        .with_interval(PROBE_TIME)
        .with_retries(PROBES);
    socket.set_tcp_keepalive(&probes)
}

/// Calls a worker of the node at `address`. Fails with `PermissionDenied` when
/// that one does not know the secret.
pub(crate) async fn call(
    address: SocketAddr,
    secret: &ClusterSecret,
    owner: SidTag,
    client: Preface,
) -> io::Result<TcpStream> {
    let mut tcp = TcpStream::connect(address).await?;
    watch_over(&tcp)?;
    // The caller closes first, and by then has its answer, or nobody wants one:
    // with a reset nothing is lost, and the port is free at once. In `TIME_WAIT`
    // they would be used up by some 500 connections a second.
    tcp.set_zero_linger()?;
    let greeted = greet(&mut tcp, secret, owner, client).await;
    if let Err(error) = &greeted
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        secrets_differ(address);
    }
    greeted.map(|()| tcp)
}

/// Once in a while: each request would say it again.
fn secrets_differ(address: SocketAddr) {
    static SAID: Mutex<Option<Instant>> = Mutex::new(None);
    let mut said = SAID.lock().expect("never poisoned");
    if said.is_none_or(|at| at.elapsed() >= LINE_INTERVAL) {
        *said = Some(Instant::now());
        tracing::error!(%address, "a node does not know the cluster's secret");
    }
}

/// The caller's side.
async fn greet(
    tcp: &mut TcpStream,
    secret: &ClusterSecret,
    owner: SidTag,
    client: Preface,
) -> io::Result<()> {
    let hello = RelayHello {
        owner,
        nonce: nonce()?,
    }
    .encode();
    tcp.write_all(&hello).await?;
    let mut answer = [0; NONCE_LENGTH + PROOF_LENGTH];
    tcp.read_exact(&mut answer).await?;
    let (nonce, proof) = answer.split_at(NONCE_LENGTH);
    if !secret.is_proof(Role::Owner, &[&hello, nonce], proof) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let client = client.encode();
    let proof = secret.prove(Role::Caller, &[&hello, nonce, &client]);
    let mut last = [0; PROOF_LENGTH + relay_preface::LENGTH];
    last[..PROOF_LENGTH].copy_from_slice(proof.as_ref());
    last[PROOF_LENGTH..].copy_from_slice(&client);
    tcp.write_all(&last).await
}

/// The owner's side. Fails with `PermissionDenied` when the caller does not know
/// the secret, and with `InvalidData` when it wants somebody else.
pub(crate) async fn answer(
    tcp: &mut TcpStream,
    secret: &ClusterSecret,
    own: SidTag,
) -> io::Result<Origin> {
    watch_over(tcp)?;
    let mut hello = [0; relay_hello::LENGTH];
    tcp.read_exact(&mut hello).await?;
    if RelayHello::decode(&hello).is_none_or(|hello| hello.owner != own) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let nonce = nonce()?;
    let proof = secret.prove(Role::Owner, &[&hello, &nonce]);
    let mut answer = [0; NONCE_LENGTH + PROOF_LENGTH];
    answer[..NONCE_LENGTH].copy_from_slice(&nonce);
    answer[NONCE_LENGTH..].copy_from_slice(proof.as_ref());
    tcp.write_all(&answer).await?;
    let mut last = [0; PROOF_LENGTH + relay_preface::LENGTH];
    tcp.read_exact(&mut last).await?;
    let (proof, client) = last.split_at(PROOF_LENGTH);
    if !secret.is_proof(Role::Caller, &[&hello, &nonce, client], proof) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let client = client.first_chunk().and_then(Preface::decode);
    client
        .map(Preface::origin)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn nonce() -> io::Result<[u8; NONCE_LENGTH]> {
    let mut nonce = [0; NONCE_LENGTH];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use common::worker_id::{NodeId, WorkerId};
    use tokio::net::TcpListener;

    use super::*;
    use crate::client_info::ClientScheme;

    const OWNER: SidTag = SidTag {
        node: NodeId(7),
        worker: WorkerId(2),
    };

    fn secret(text: &str) -> ClusterSecret {
        ClusterSecret::new(text)
    }

    fn client() -> Preface {
        Preface {
            peer: Some("192.0.2.1:4711".parse().unwrap()),
            scheme: ClientScheme::Https,
        }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let caller = TcpStream::connect(listener.local_addr().unwrap());
        let (caller, accepted) = tokio::join!(caller, listener.accept());
        (caller.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn who_knows_the_secret_is_told_who_the_client_is_and_what_follows_is_left() {
        let (mut caller, mut owner) = pair().await;
        let secret = secret("a secret of some length");
        let calling = async {
            greet(&mut caller, &secret, OWNER, client()).await.unwrap();
            caller.write_all(b"GET").await.unwrap();
        };
        let (origin, ()) = tokio::join!(answer(&mut owner, &secret, OWNER), calling);
        let origin = origin.unwrap();
        assert_eq!(origin.peer, client().peer);
        assert_eq!(origin.scheme, ClientScheme::Https);
        assert!(origin.relayed);
        let mut rest = [0; 3];
        owner.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"GET");
    }

    #[tokio::test]
    async fn without_the_secret_neither_side_goes_on() {
        let (mut caller, mut owner) = pair().await;
        let (one, other) = (
            secret("a secret of some length"),
            secret("another of some length"),
        );
        let (answered, called) = tokio::join!(
            async {
                let answered = answer(&mut owner, &one, OWNER).await;
                drop(owner);
                answered
            },
            async {
                let called = greet(&mut caller, &other, OWNER, client()).await;
                drop(caller);
                called
            }
        );
        assert_eq!(called.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(answered.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        // A caller that does not look at the owner's proof.
        let (mut caller, mut owner) = pair().await;
        let lying = async {
            let nonce = [1; NONCE_LENGTH];
            let hello = RelayHello {
                owner: OWNER,
                nonce,
            }
            .encode();
            caller.write_all(&hello).await.unwrap();
            let mut answered = [0; NONCE_LENGTH + PROOF_LENGTH];
            caller.read_exact(&mut answered).await.unwrap();
            // What the owner said, sent back.
            caller.write_all(&answered[NONCE_LENGTH..]).await.unwrap();
            caller.write_all(&client().encode()).await.unwrap();
        };
        let (answered, ()) = tokio::join!(answer(&mut owner, &one, OWNER), lying);
        assert_eq!(
            answered.unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
    }

    #[tokio::test]
    async fn what_is_for_another_worker_is_refused() {
        let (mut caller, mut owner) = pair().await;
        let secret = secret("a secret of some length");
        let other = SidTag {
            worker: WorkerId(3),
            ..OWNER
        };
        let answered = async {
            let answered = answer(&mut owner, &secret, other).await;
            drop(owner);
            answered
        };
        let (answered, called) =
            tokio::join!(answered, greet(&mut caller, &secret, OWNER, client()));
        assert_eq!(answered.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(called.is_err());
    }
}
