//! Sends a request that is another worker's to that worker, over its relay
//! socket, and joins upgraded connections. Keeps nothing: one connection a
//! request, gone with the client.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use common::runtime_dir::RuntimeDir;
use common::worker_id::WorkerId;
use http::header::{CONNECTION, HeaderMap, HeaderName, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_buf, split};
use tokio::net::UnixStream;

use crate::board::Board;
use crate::client_stream::ClientStream;
use crate::relay_preface::Preface;
use crate::stream_state::StreamState;

/// Per direction of a joined connection: most messages are smaller.
const BUFFER: usize = 4096;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The way to this node's other workers.
pub(crate) struct Relay {
    pub(crate) dir: RuntimeDir,
    pub(crate) board: Arc<Board>,
    pub(crate) upgrade_timeout: Duration,
}

impl Relay {
    /// The owner's answer, or `None` when it cannot be reached: then the
    /// session is as good as unknown, and the client starts again.
    ///
    /// Cancelled when the client goes away, and with it the owner's handler:
    /// a retried poll never meets the old one.
    pub(crate) async fn send(
        &self,
        owner: WorkerId,
        websocket: bool,
        stream: &Arc<StreamState>,
        mut request: Request<Incoming>,
    ) -> Option<Response<Incoming>> {
        let client_side = websocket.then(|| hyper::upgrade::on(&mut request));
        if !websocket {
            remove_hop_headers(request.headers_mut());
        }
        match self.exchange(owner, stream, request).await {
            Ok(mut response) => {
                if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    remove_hop_headers(response.headers_mut());
                } else if let Some(client_side) = client_side {
                    let owner_side = hyper::upgrade::on(&mut response);
                    stream.upgrade_began(self.upgrade_timeout);
                    stream.became_websocket(|| ());
                    tokio::spawn(join(client_side, owner_side));
                }
                Some(response)
            }
            Err(error) => {
                tracing::debug!(%owner, %error, "relay");
                None
            }
        }
    }

    async fn exchange(
        &self,
        owner: WorkerId,
        stream: &StreamState,
        request: Request<Incoming>,
    ) -> Result<Response<Incoming>, RelayError> {
        let mut unix = UnixStream::connect(self.dir.relay_socket(owner)).await?;
        let preface = Preface {
            peer: stream.origin.peer,
            scheme: stream.origin.scheme,
        };
        unix.write_all(&preface.encode()).await?;
        self.board.relayed();
        let io = TokioIo::new(unix);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "relay connection");
            }
        });
        Ok(sender.send_request(request).await?)
    }
}

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("connecting to the owner: {0}")]
    Connect(#[from] io::Error),
    #[error("speaking to the owner: {0}")]
    Http(#[from] hyper::Error),
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
        unwrapped::<UnixStream>(owner),
    ) else {
        tracing::error!("a relayed upgrade is of an unexpected type");
        return;
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
