//! Sends a request that is another worker's to that worker, over its relay
//! socket or, to another node, over TCP, and joins upgraded connections. A relay
//! connection is one client connection's, and gone with it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::exhaustion::is_exhaustion;
use common::runtime_dir::RuntimeDir;
use common::sid_tag::SidTag;
use common::worker_id::NodeId;
use http::header::{CONNECTION, HeaderMap, HeaderName, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_buf, split};
use tokio::net::UnixStream;

use crate::board::Board;
use crate::client_stream::ClientStream;
use crate::cluster_secret::ClusterSecret;
use crate::nodes::Nodes;
use crate::refusal::Refusal;
use crate::relay_line::{OpenRelay, RelayLine};
use crate::relay_preface::Preface;
use crate::remote_relay;
use crate::socket::Socket;
use crate::stream_state::StreamState;

/// Per direction of a joined connection: most messages are smaller.
const BUFFER: usize = 4096;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Another node has to take a connection and prove who it is within that time:
/// the client waits.
const GREETING_TIME: Duration = Duration::from_secs(2);

/// The way to the other workers.
pub(crate) struct Relay {
    pub(crate) node: NodeId,
    pub(crate) dir: RuntimeDir,
    /// Where other nodes are.
    pub(crate) nodes: Nodes,
    /// Without it none of them is called.
    pub(crate) secret: Option<ClusterSecret>,
    pub(crate) board: Arc<Board>,
    pub(crate) upgrade_timeout: Duration,
}

impl Relay {
    /// The owner's answer. When it cannot be reached the session is as good as
    /// unknown, and the client starts again; when it is this worker that is short
    /// of descriptors, the client may come again.
    ///
    /// Cancelled when the client goes away, and with it the owner's handler:
    /// a retried poll never meets the old one.
    pub(crate) async fn send(
        &self,
        owner: SidTag,
        websocket: bool,
        stream: &Arc<StreamState>,
        line: &RelayLine,
        mut request: Request<Incoming>,
    ) -> Result<Response<Incoming>, Refusal> {
        let client_side = websocket.then(|| hyper::upgrade::on(&mut request));
        if !websocket {
            remove_hop_headers(request.headers_mut());
        }
        let way = self.way(owner).await.ok_or(Refusal::SessionUnknown)?;
        let exchanged = tokio::select! {
            exchanged = self.exchange(owner, way, stream, line, request) => exchanged,
            () = self.gone(owner, way) => Err(RelayError::NodeGone),
        };
        match exchanged {
            Ok(mut response) => {
                if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    remove_hop_headers(response.headers_mut());
                } else if let Some(client_side) = client_side {
                    let owner_side = hyper::upgrade::on(&mut response);
                    stream.upgrade_began(self.upgrade_timeout);
                    stream.became_websocket(|| ());
                    let gone = self.gone(owner, way);
                    let open = OpenRelay::new(&self.board);
                    tokio::spawn(async move {
                        let _open = open;
                        tokio::select! {
                            () = join(client_side, owner_side) => {}
                            () = gone => tracing::debug!(?owner, "the node is gone"),
                        }
                    });
                }
                Ok(response)
            }
            Err(error) => {
                tracing::debug!(?owner, %error, "relay");
                Err(error.refusal())
            }
        }
    }

    /// How an owner is reached; nothing for one that cannot be called.
    async fn way(&self, owner: SidTag) -> Option<Way<'_>> {
        if owner.node == self.node {
            return Some(Way::Here);
        }
        let secret = self.secret.as_ref()?;
        let address = self.nodes.find(owner.node).await?;
        Some(Way::There { address, secret })
    }

    /// Resolves when the owner's node is known to be gone, if it is another one.
    fn gone(&self, owner: SidTag, way: Way<'_>) -> impl Future<Output = ()> + Send + use<> {
        let nodes = self.nodes.clone();
        let address = match way {
            Way::Here => None,
            Way::There { address, .. } => Some(address),
        };
        async move {
            match address {
                Some(address) => nodes.gone(owner.node, address).await,
                None => std::future::pending().await,
            }
        }
    }

    async fn exchange(
        &self,
        owner: SidTag,
        way: Way<'_>,
        stream: &StreamState,
        line: &RelayLine,
        request: Request<Incoming>,
    ) -> Result<Response<Incoming>, RelayError> {
        let (sender, response) = match line.take(owner) {
            None => self.exchange_anew(owner, way, stream, request).await?,
            Some(mut sender) => match sender.try_send_request(request).await {
                Ok(response) => {
                    self.board.relayed();
                    (sender, response)
                }
                // The owner closed it just now, and has seen nothing.
                Err(mut error) => match error.take_message() {
                    Some(request) => self.exchange_anew(owner, way, stream, request).await?,
                    None => return Err(error.into_error().into()),
                },
            },
        };
        // Not for ids that were made up, nor when descriptors are scarce.
        if response.status().is_success() && self.board.has_room() {
            line.keep(owner, sender);
        }
        Ok(response)
    }

    async fn exchange_anew(
        &self,
        owner: SidTag,
        way: Way<'_>,
        stream: &StreamState,
        request: Request<Incoming>,
    ) -> Result<(SendRequest<Incoming>, Response<Incoming>), RelayError> {
        let preface = Preface {
            peer: stream.origin.peer,
            scheme: stream.origin.scheme,
        };
        let open = OpenRelay::new(&self.board);
        let socket = match way {
            Way::There { address, secret } => {
                let called = remote_relay::call(address, secret, owner, preface);
                let called = tokio::time::timeout(GREETING_TIME, called).await;
                Socket::Called(called.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?)
            }
            Way::Here => {
                let mut unix = UnixStream::connect(self.dir.relay_socket(owner.worker)).await?;
                unix.write_all(&preface.encode()).await?;
                Socket::Unix(unix)
            }
        };
        let io = TokioIo::new(socket);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(async move {
            let _open = open;
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "relay connection");
            }
        });
        self.board.relayed();
        let response = sender.send_request(request).await?;
        Ok((sender, response))
    }
}

/// How the worker that owns a session is reached.
#[derive(Clone, Copy)]
enum Way<'a> {
    /// By its relay socket: it is of this node.
    Here,
    /// At its node's address.
    There {
        address: SocketAddr,
        secret: &'a ClusterSecret,
    },
}

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("connecting to the owner: {0}")]
    Connect(#[from] io::Error),
    #[error("speaking to the owner: {0}")]
    Http(#[from] hyper::Error),
    #[error("its node is gone")]
    NodeGone,
}

impl RelayError {
    fn refusal(&self) -> Refusal {
        match self {
            RelayError::Connect(error) if is_exhaustion(error) => Refusal::Unavailable,
            _ => Refusal::SessionUnknown,
        }
    }
}

/// Those of one connection only: a client's `close` must not become the
/// owner's, nor the owner's the client's.
fn remove_hop_headers(headers: &mut HeaderMap) {
    for name in [CONNECTION, KEEP_ALIVE, UPGRADE] {
        headers.remove(name);
    }
}

/// Carries bytes both ways until the owner ends. The client's end is passed on
/// and the owner then ends too; bytes for an owner that has ended are nobody's.
async fn join(client: OnUpgrade, owner: OnUpgrade) {
    let (client, owner) = match tokio::try_join!(client, owner) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "relayed upgrade");
            return;
        }
    };
    let (Some((client, from_client)), Some((owner, from_owner))) = (
        unwrapped::<ClientStream>(client),
        unwrapped::<Socket>(owner),
    ) else {
        tracing::error!("a relayed upgrade is of an unexpected type");
        return;
    };
    // What the client said last is read by the owner before the connection ends.
    let owner = match owner {
        Socket::Called(tcp) => Socket::Tcp(tcp),
        socket => socket,
    };
    let (client_reader, mut client_writer) = split(client);
    let (owner_reader, mut owner_writer) = split(owner);
    let upwards = async {
        owner_writer.write_all(&from_client).await?;
        carry(client_reader, &mut owner_writer).await?;
        // The owner's answer to the end comes the other way.
        std::future::pending::<io::Result<()>>().await
    };
    let downwards = async {
        client_writer.write_all(&from_owner).await?;
        carry(owner_reader, &mut client_writer).await
    };
    let ended = tokio::select! {
        ended = upwards => ended,
        ended = downwards => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "relayed WebSocket");
    }
}

fn unwrapped<T>(upgraded: Upgraded) -> Option<(T, bytes::Bytes)>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let parts = upgraded.downcast::<TokioIo<T>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
}

async fn carry(from: impl AsyncRead + Unpin, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    copy_buf(&mut BufReader::with_capacity(BUFFER, from), to).await?;
    to.shutdown().await
}
